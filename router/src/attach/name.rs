//! Which names a container may have. Pure.

use std::collections::BTreeSet;

/// Why a container may not be called so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NameError {
    #[error(
        "the name {0:?}: a name is DNS labels, with dots between: each 1 to 63 letters, digits, \
         '-' and '_', neither first nor last a '-'; 253 characters in all"
    )]
    Illegal(String),
    #[error("the name {0:?} is a node's name; its own addresses are answered there")]
    Node(String),
}

/// The name in lower case, if a container may bear it beside nodes of these names.
pub(super) fn check(name: &str, nodes: &BTreeSet<String>) -> Result<String, NameError> {
    let label = |label: &str| {
        let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        (1..=63).contains(&label.len())
            && label.bytes().all(legal)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if name.len() > 253 || !name.split('.').all(label) {
        return Err(NameError::Illegal(name.chars().take(64).collect()));
    }
    let lower = name.to_ascii_lowercase();
    if nodes.contains(&lower) {
        return Err(NameError::Node(lower));
    }
    Ok(lower)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_dns_labels_that_no_node_has() {
        let nodes = BTreeSet::from(["edge".to_owned()]);
        for (name, wanted) in [
            ("web", Some("web")),
            ("Web", Some("web")),
            ("web.shop", Some("web.shop")),
            ("edge.shop", Some("edge.shop")),
            ("_http", Some("_http")),
            ("", None),
            ("web.", None),
            (".web", None),
            ("-web", None),
            ("web-", None),
            ("we b", None),
            ("wéb", None),
            ("EDGE", None),
        ] {
            assert_eq!(check(name, &nodes).ok().as_deref(), wanted, "{name}");
        }
        assert!(check(&"x".repeat(64), &nodes).is_err());
        assert!(check(&["x"; 128].join("."), &nodes).is_err());
    }
}
