//! Endpoints, join lines and names as people write them.

use std::net::{IpAddr, SocketAddr};

use weft_mesh::discovery::gossip::ParseTokenError;
use weft_mesh::{Endpoint, NodeName};

use super::{ConfigError, JoinLine};

/// The host's name as a node's.
pub(super) fn default_name(hostname: &str) -> Result<NodeName, ConfigError> {
    hostname
        .to_ascii_lowercase()
        .replace('_', "-")
        .parse()
        .map_err(|e: weft_mesh::member::ParseNodeError| ConfigError::Value {
            setting: "the host's name",
            value: hostname.to_owned(),
            allowed: format!("{e}; give one with --name"),
        })
}

pub(super) fn join_line(line: &str, port: u16) -> Result<JoinLine, ConfigError> {
    let refuse = |allowed: String| ConfigError::Value {
        setting: "join",
        value: redact(line),
        allowed,
    };
    let (token, hosts) = line.split_once('@').ok_or_else(|| {
        refuse("a join line is TOKEN@HOST[:PORT][,HOST[:PORT]…], as `weft up` prints it".into())
    })?;
    let token = token
        .parse()
        .map_err(|e: ParseTokenError| refuse(e.to_string()))?;
    let hosts = hosts
        .split(',')
        .map(|host| endpoint(host, port).map_err(refuse))
        .collect::<Result<_, _>>()?;
    Ok(JoinLine { token, hosts })
}

/// A join line without its secret, for messages.
fn redact(line: &str) -> String {
    match line.split_once('@') {
        Some((_, hosts)) => format!("…@{hosts}"),
        None => "…".to_owned(),
    }
}

/// `HOST`, `HOST:PORT`, `ADDRESS`, `[ADDRESS]:PORT`; the error says what is allowed.
pub(super) fn endpoint(text: &str, port: u16) -> Result<Endpoint, String> {
    if let Ok(address) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
        return Ok(Endpoint::Address(SocketAddr::new(address, port)));
    }
    let with_port = if text.rsplit_once(':').is_some() {
        text.to_owned()
    } else {
        format!("{text}:{port}")
    };
    with_port.parse().map_err(|_| {
        format!(
            "{text:?} is no endpoint: an address or a name, with :PORT where it is not the default; \
             an IPv6 address with a port in brackets"
        )
    })
}
