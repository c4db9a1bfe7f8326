//! Looking a name up from inside a pod, as the pod's own programs would.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::process::Stdio;
use std::time::Duration;

use super::net::Netns;
use super::{Machine, StepError};

/// The name under which this binary looks a name up.
pub(super) const LOOKUP: &str = "weft-demo-lookup";
const PORT: u16 = 53;
const PATIENCE: Duration = Duration::from_secs(2);

/// The addresses of `name` in both families, asked of the DNS server `server` from inside a pod.
///
/// # Errors
/// Why there are none.
pub fn lookup(
    machine: &Machine,
    pod: &Netns,
    server: IpAddr,
    name: &str,
) -> Result<Vec<IpAddr>, StepError> {
    let output = machine
        .own_in(pod, LOOKUP)
        .args([name, &server.to_string()])
        .stdin(Stdio::null())
        .output()
        .map_err(StepError::io("run the lookup"))?;
    let said = String::from_utf8_lossy(if output.status.success() {
        &output.stdout
    } else {
        &output.stderr
    });
    if !output.status.success() {
        return Err(StepError(format!(
            "look {name} up at {server}: {}",
            said.trim()
        )));
    }
    said.lines()
        .map(|line| {
            line.parse()
                .map_err(|error| StepError(format!("the lookup printed {line:?}: {error}")))
        })
        .collect()
}

/// The program itself: prints the addresses of `name`, one a line.
pub(super) fn run(name: &str, server: &str) -> io::Result<()> {
    let server: IpAddr = server.parse().map_err(io::Error::other)?;
    let server = SocketAddr::new(server, PORT);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut found = Vec::new();
    for kind in [weft_dns::RecordType::A, weft_dns::RecordType::AAAA] {
        let reply = runtime
            .block_on(weft_dns::ask(server, name, kind, PATIENCE))
            .map_err(io::Error::other)?;
        if reply.code != "NOERROR" {
            return Err(io::Error::other(reply.code));
        }
        found.extend(reply.addresses());
    }
    if found.is_empty() {
        return Err(io::Error::other("the name has no address"));
    }
    for address in found {
        println!("{address}");
    }
    Ok(())
}
