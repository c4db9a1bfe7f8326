//! The network configuration on standard input, checked: the specification's keys that matter to
//! us and our own, `socket` and `mtu`. Unknown keys are other people's and are let be.

use std::path::PathBuf;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::api::{DEFAULT_SOCKET, Dns};
use crate::attachment::is_cni_word;
use crate::result::AddResult;
use crate::{Attachment, Error, PortMapping, SpecVersion, code};

/// One plugin's configuration in one network, as a runtime makes it out of the conflist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetConf {
    pub version: SpecVersion,
    /// The network's name.
    pub name: String,
    /// The agent's socket.
    pub socket: PathBuf,
    /// Bytes; `None` leaves it to the agent.
    pub mtu: Option<u32>,
    /// Told to the runtime in place of the agent's, unless it is empty.
    pub dns: Dns,
    /// The workload's name (`args.weft.name`).
    pub workload: Option<String>,
    /// Ports of the host that are to lead to the container.
    pub ports: Vec<PortMapping>,
    pub prev_result: Option<AddResult>,
    /// What GC leaves alone.
    pub valid_attachments: Option<Vec<Attachment>>,
}

/// Reads the configuration.
///
/// # Errors
/// [`code::DECODE`] when it is not a JSON object, [`code::INCOMPATIBLE_VERSION`] when its version
/// is not ours, [`code::UNSUPPORTED_FIELD`] when it wants another plugin's addresses, and
/// [`code::INVALID_CONFIG`], naming the key and what is allowed.
pub fn parse(bytes: &[u8]) -> Result<NetConf, Error> {
    let object = object(bytes)?;
    let version = SpecVersion::parse(string(&object, "cniVersion")?.unwrap_or_default())?;
    let name = string(&object, "name")?.unwrap_or_default();
    if !is_cni_word(name) || name.len() > 256 {
        return Err(invalid(
            "name",
            "1 to 256 letters, digits, '_', '.' and '-', the first a letter or digit",
        ));
    }
    let ipam = value(&object, "ipam").and_then(Value::as_object);
    if ipam.is_some_and(|ipam| !ipam.is_empty()) {
        let msg = "ipam: weft gives the addresses itself, from the node's ranges";
        return Err(Error::new(code::UNSUPPORTED_FIELD, msg).with_details("take the key out"));
    }
    let dns: Option<Dns> = typed(&object, "dns", "an object of lists of addresses and names")?;
    Ok(NetConf {
        version,
        name: name.to_owned(),
        socket: socket(&object)?,
        mtu: mtu(&object)?,
        dns: dns.unwrap_or_default(),
        workload: workload(&object)?,
        ports: ports(&object)?,
        prev_result: value(&object, "prevResult")
            .map(AddResult::parse)
            .transpose()?,
        valid_attachments: valid_attachments(&object)?,
    })
}

/// The `cniVersion` of the input, whatever else is wrong with it.
pub fn version_text(bytes: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Version {
        #[serde(rename = "cniVersion")]
        version: String,
    }
    let parsed: Version = serde_json::from_slice(bytes).ok()?;
    Some(parsed.version)
}

fn object(bytes: &[u8]) -> Result<Map<String, Value>, Error> {
    serde_json::from_slice(bytes).map_err(|e| {
        let msg = format!("the configuration on standard input is not a JSON object: {e}");
        Error::new(code::DECODE, msg)
    })
}

fn socket(object: &Map<String, Value>) -> Result<PathBuf, Error> {
    let path = string(object, "socket")?.unwrap_or(DEFAULT_SOCKET);
    // Linux has 108 bytes for it, the last a zero.
    if !path.starts_with('/') || path.len() > 107 || path.contains('\0') {
        return Err(invalid("socket", "an absolute path of at most 107 bytes"));
    }
    Ok(path.into())
}

fn mtu(object: &Map<String, Value>) -> Result<Option<u32>, Error> {
    let Some(value) = value(object, "mtu") else {
        return Ok(None);
    };
    // IPv6 asks for 1280 of every link (RFC 8200 section 5). 0 is how other plugins say "unset".
    match value.as_u64() {
        Some(0) => Ok(None),
        Some(mtu @ 1280..=65535) => Ok(Some(mtu as u32)),
        _ => Err(invalid("mtu", "0 or 1280 to 65535")),
    }
}

fn workload(object: &Map<String, Value>) -> Result<Option<String>, Error> {
    let ours = |args: Map<String, Value>| args.get("weft").cloned();
    let args: Option<Map<_, _>> = typed(object, "args", "an object")?;
    let Some(weft) = args.and_then(ours) else {
        return Ok(None);
    };
    let name = weft.get("name").map(Value::as_str);
    match name {
        None if weft.is_object() => Ok(None),
        Some(Some(name)) if (1..=253).contains(&name.len()) => Ok(Some(name.to_owned())),
        _ => Err(invalid(
            "args.weft.name",
            "a name of 1 to 253 bytes, in an object",
        )),
    }
}

fn ports(object: &Map<String, Value>) -> Result<Vec<PortMapping>, Error> {
    let runtime: Option<Map<_, _>> = typed(object, "runtimeConfig", "an object")?;
    let Some(mappings) = runtime
        .as_ref()
        .and_then(|runtime| runtime.get("portMappings"))
    else {
        return Ok(Vec::new());
    };
    PortMapping::list(mappings).map_err(|allowed| invalid("runtimeConfig.portMappings", allowed))
}

fn valid_attachments(object: &Map<String, Value>) -> Result<Option<Vec<Attachment>>, Error> {
    /// Not yet an [`Attachment`]: what cannot be one is none of ours, and no reason to fail.
    #[derive(Deserialize)]
    struct Named {
        #[serde(rename = "containerID")]
        container_id: String,
        ifname: String,
    }
    let named: Option<Vec<Named>> = typed(
        object,
        "cni.dev/valid-attachments",
        "a list of objects with containerID and ifname",
    )?;
    let attachment = |named: Named| {
        Some(Attachment {
            container_id: named.container_id.parse().ok()?,
            ifname: named.ifname.parse().ok()?,
        })
    };
    Ok(named.map(|named| named.into_iter().filter_map(attachment).collect()))
}

/// A key's value; `null` is as good as absent, since Go writes it for what is empty.
fn value<'a>(object: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    object.get(key).filter(|value| !value.is_null())
}

fn string<'a>(object: &'a Map<String, Value>, key: &str) -> Result<Option<&'a str>, Error> {
    match value(object, key) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(invalid(key, "a string")),
    }
}

fn typed<T: DeserializeOwned>(
    object: &Map<String, Value>,
    key: &str,
    allowed: &str,
) -> Result<Option<T>, Error> {
    value(object, key)
        .map(|value| T::deserialize(value).map_err(|_| invalid(key, allowed)))
        .transpose()
}

fn invalid(key: &str, allowed: &str) -> Error {
    let msg = format!("the network configuration's {key:?} is wrong: allowed is {allowed}");
    Error::new(code::INVALID_CONFIG, msg)
}

#[cfg(test)]
mod tests;
