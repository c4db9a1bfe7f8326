//! What the kernel lets this process do: its capabilities, of which a container has those alone that
//! somebody gave it (capabilities(7)).

use std::io;

use rustix::thread::{CapabilitySet, capabilities};

/// Without these a node carries no pods, and what for. What else is missed is missed in one place,
/// which says so.
const NEEDED: [(CapabilitySet, &str, &str); 2] = [
    (
        CapabilitySet::NET_ADMIN,
        "NET_ADMIN",
        "links, routes and the firewall",
    ),
    (
        CapabilitySet::SYS_ADMIN,
        "SYS_ADMIN",
        "entering pods' network namespaces",
    ),
];

/// Names each that is missing.
///
/// # Errors
/// Where the kernel does not say.
pub(crate) fn missing() -> io::Result<Vec<String>> {
    Ok(missing_of(capabilities(None)?.effective))
}

fn missing_of(effective: CapabilitySet) -> Vec<String> {
    let missed = NEEDED
        .into_iter()
        .filter(|(needed, ..)| !effective.contains(*needed));
    missed
        .map(|(_, name, what)| {
            format!("the agent lacks the capability {name}, for {what}: run it as root, or give its container that")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capability_that_is_missing_is_named_and_what_for() {
        assert!(missing_of(CapabilitySet::all()).is_empty());
        let said = missing_of(CapabilitySet::all() - CapabilitySet::SYS_ADMIN);
        let [said] = &said[..] else {
            panic!("{said:?}");
        };
        assert!(
            said.contains("SYS_ADMIN") && said.contains("namespaces"),
            "{said}"
        );
        assert_eq!(missing_of(CapabilitySet::empty()).len(), NEEDED.len());
    }
}
