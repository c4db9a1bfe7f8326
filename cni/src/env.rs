//! What the runtime says by `CNI_*` variables, checked: which verb, for which attachment.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;

use crate::{Attachment, Error, code};

/// What a runtime may ask of a plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Add,
    Del,
    Check,
    Gc,
    Status,
    Version,
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        })
    }
}

/// One call of the plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Invocation {
    Add(Target),
    Check(Target),
    /// The namespace may be gone, and its path with it.
    Del {
        attachment: Attachment,
        netns: Option<String>,
    },
    Gc,
    Status,
    Version,
}

/// What ADD and CHECK work on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub attachment: Attachment,
    /// The path of the network namespace, in the runtime's mount namespace.
    pub netns: String,
    /// `CNI_ARGS`.
    pub args: BTreeMap<String, String>,
}

/// Longer values of a variable are refused; the longest real ones are paths and pod names.
const LONGEST: usize = 4096;

/// Reads the call from variables, which `get` finds by name.
///
/// # Errors
/// [`code::INVALID_ENVIRONMENT`], naming the variable.
pub fn parse(get: impl Fn(&str) -> Option<OsString>) -> Result<Invocation, Error> {
    let get = |name| text(name, get(name));
    let command = required("CNI_COMMAND", None, &get)?;
    let verb = match command.as_str() {
        "ADD" => Verb::Add,
        "DEL" => Verb::Del,
        "CHECK" => Verb::Check,
        "GC" => return Ok(Invocation::Gc),
        "STATUS" => return Ok(Invocation::Status),
        "VERSION" => return Ok(Invocation::Version),
        other => {
            return Err(invalid(format!(
                "CNI_COMMAND {other:?} is none of ADD, DEL, CHECK, GC, STATUS and VERSION"
            )));
        }
    };
    let attachment = Attachment {
        container_id: word("CNI_CONTAINERID", verb, &get)?,
        ifname: word("CNI_IFNAME", verb, &get)?,
    };
    if verb == Verb::Del {
        let netns = get("CNI_NETNS")?.filter(|path| !path.is_empty());
        return Ok(Invocation::Del { attachment, netns });
    }
    let target = Target {
        attachment,
        netns: required("CNI_NETNS", Some(verb), &get)?,
        args: args(&get("CNI_ARGS")?.unwrap_or_default())?,
    };
    Ok(match verb {
        Verb::Check => Invocation::Check(target),
        _ => Invocation::Add(target),
    })
}

/// `KEY=value;KEY=value`. The order is lost, the last of two same keys wins.
fn args(text: &str) -> Result<BTreeMap<String, String>, Error> {
    let pairs = text.split(';').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| match pair.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
            _ => Err(invalid(format!("CNI_ARGS: {pair:?} is not KEY=value"))),
        })
        .collect()
}

type Get<'a> = &'a dyn Fn(&'static str) -> Result<Option<String>, Error>;

fn word<T>(name: &'static str, verb: Verb, get: Get<'_>) -> Result<T, Error>
where
    T: std::str::FromStr<Err: fmt::Display>,
{
    let text = required(name, Some(verb), get)?;
    text.parse()
        .map_err(|e| invalid(format!("{name} {text:?}: {e}")))
}

fn required(name: &'static str, verb: Option<Verb>, get: Get<'_>) -> Result<String, Error> {
    get(name)?
        .filter(|text| !text.is_empty())
        .ok_or_else(|| match verb {
            Some(verb) => invalid(format!("{name} is missing; {verb} needs it")),
            None => invalid(format!("{name} is missing")).with_details(
                "this is a CNI plugin, run by a container runtime and not by hand; see `weft attach`",
            ),
        })
}

fn text(name: &str, value: Option<OsString>) -> Result<Option<String>, Error> {
    let Some(value) = value else { return Ok(None) };
    let text = value
        .into_string()
        .map_err(|_| invalid(format!("{name} is not UTF-8")))?;
    if text.len() > LONGEST {
        return Err(invalid(format!("{name} is longer than {LONGEST} bytes")));
    }
    Ok(Some(text))
}

fn invalid(msg: String) -> Error {
    Error::new(code::INVALID_ENVIRONMENT, msg)
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use proptest::prelude::*;

    use super::*;

    fn call(variables: &[(&str, &str)]) -> Result<Invocation, Error> {
        parse(|name| {
            let found = variables.iter().find(|(each, _)| *each == name);
            found.map(|(_, value)| value.into())
        })
    }

    fn all(command: &str) -> Vec<(&str, &str)> {
        vec![
            ("CNI_COMMAND", command),
            ("CNI_CONTAINERID", "c1"),
            ("CNI_NETNS", "/run/netns/c1"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAME=web=1;"),
            ("CNI_PATH", "/opt/cni/bin"),
        ]
    }

    #[test]
    fn each_verb_reads_its_own_variables() {
        let attachment = Attachment {
            container_id: "c1".parse().unwrap(),
            ifname: "eth0".parse().unwrap(),
        };
        let netns = "/run/netns/c1".to_owned();
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let target = Target {
            attachment: attachment.clone(),
            netns: netns.clone(),
            args: BTreeMap::from([pair("IgnoreUnknown", "1"), pair("K8S_POD_NAME", "web=1")]),
        };
        let netns = Some(netns);
        assert_eq!(call(&all("ADD")), Ok(Invocation::Add(target.clone())));
        assert_eq!(call(&all("CHECK")), Ok(Invocation::Check(target)));
        let del = |netns| {
            let attachment = attachment.clone();
            Ok(Invocation::Del { attachment, netns })
        };
        assert_eq!(call(&all("DEL")), del(netns));
        assert_eq!(call(&all("GC")), Ok(Invocation::Gc));
        assert_eq!(call(&all("STATUS")), Ok(Invocation::Status));
        assert_eq!(call(&all("VERSION")), Ok(Invocation::Version));
        let mut bare = all("DEL");
        bare[2].1 = "";
        assert_eq!(call(&bare), del(None));
        bare.remove(2);
        assert_eq!(call(&bare), del(None));
    }

    #[test]
    fn a_missing_variable_is_named_by_the_verbs_that_need_it() {
        for (verb, needed) in [
            ("ADD", &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"][..]),
            ("CHECK", &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"]),
            ("DEL", &["CNI_CONTAINERID", "CNI_IFNAME"]),
            ("GC", &[]),
            ("STATUS", &[]),
            ("VERSION", &[]),
        ] {
            for missing in ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"] {
                let mut variables = all(verb);
                variables.retain(|(name, _)| *name != missing);
                match call(&variables) {
                    Ok(_) => assert!(!needed.contains(&missing), "{verb} without {missing}"),
                    Err(error) => {
                        assert!(needed.contains(&missing), "{verb} without {missing}");
                        assert_eq!(error.code, code::INVALID_ENVIRONMENT);
                        assert_eq!(error.msg, format!("{missing} is missing; {verb} needs it"));
                    }
                }
            }
        }
        assert_eq!(call(&[]).unwrap_err().msg, "CNI_COMMAND is missing");
    }

    #[test]
    fn a_bad_value_is_named() {
        let long = "x".repeat(5000);
        for (index, value, said) in [
            (0, "add", "CNI_COMMAND"),
            (1, "../../etc", "CNI_CONTAINERID"),
            (2, long.as_str(), "CNI_NETNS"),
            (3, "a/b", "CNI_IFNAME"),
            (4, "novalue", "CNI_ARGS"),
            (4, "=1", "CNI_ARGS"),
        ] {
            let mut variables = all("ADD");
            variables[index].1 = value;
            let error = call(&variables).unwrap_err();
            assert_eq!(error.code, code::INVALID_ENVIRONMENT, "{said}");
            assert!(error.msg.starts_with(said), "{error}");
        }
        let error = parse(|_| Some(OsString::from_vec(vec![255]))).unwrap_err();
        assert_eq!(error.msg, "CNI_COMMAND is not UTF-8");
    }

    proptest! {
        #[test]
        fn random_bytes_do_no_harm(
            verb in prop::sample::select(vec!["ADD", "DEL", "CHECK", "GC"]),
            bytes in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            let _ = parse(|name| match name {
                "CNI_COMMAND" => Some(verb.into()),
                _ => Some(OsString::from_vec(bytes.clone())),
            });
        }
    }
}
