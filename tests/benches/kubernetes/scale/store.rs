//! The API server's store, written to directly by etcd's own JSON gateway.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use data_encoding::BASE64;
use serde_json::json;
use weft_tests::cluster::Cluster;

use super::objects::Entry;

/// So many by one `curl`, on one connection.
const AT_ONCE: usize = 1_000;
const URL: &str = "http://127.0.0.1:2379/v3/kv/put";

/// Puts all of it in, each by itself: the API server takes it that two objects never change in one
/// revision of the store.
///
/// # Errors
/// What etcd says.
pub(super) fn put(cluster: &Cluster, entries: &[Entry]) -> Result<()> {
    entries
        .chunks(AT_ONCE)
        .try_for_each(|some| put_some(cluster, some))
}

fn put_some(cluster: &Cluster, entries: &[Entry]) -> Result<()> {
    let mut requests = String::new();
    for (key, value) in entries {
        let body = json!({
            "key": BASE64.encode(key.as_bytes()),
            "value": BASE64.encode(value.to_string().as_bytes()),
        });
        // A string of JSON is one of curl's configuration as well.
        let data = serde_json::to_string(&body.to_string())?;
        let start = if requests.is_empty() { "" } else { "next\n" };
        // Writing to a string does not fail.
        let _ = writeln!(
            requests,
            "{start}url = {URL}\nsilent\nshow-error\nfail\ndata = {data}"
        );
    }
    let mut curl = cluster
        .reaching_api("curl")?
        .args(["--config", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .context("start curl")?;
    let mut input = curl.stdin.take().context("curl's input")?;
    input.write_all(requests.as_bytes())?;
    drop(input);
    ensure!(curl.wait()?.success(), "etcd took not all; see above");
    Ok(())
}
