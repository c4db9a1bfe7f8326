//! The API server's store, written to directly by etcd's own JSON gateway.

use std::io::Write as _;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use data_encoding::BASE64;
use serde_json::{Value, json};
use weft_tests::cluster::Cluster;

use super::objects::Entry;

/// etcd takes 128 operations at once, and 1.5 MB.
const AT_ONCE: usize = 100;
const URL: &str = "http://127.0.0.1:2379/v3/kv/txn";

/// Puts all of it in.
///
/// # Errors
/// What etcd says.
pub(super) fn put(cluster: &Cluster, entries: &[Entry]) -> Result<()> {
    entries.chunks(AT_ONCE).try_for_each(|some| {
        let puts = some.iter().map(|(key, value)| {
            json!({ "requestPut": {
                "key": BASE64.encode(key.as_bytes()),
                "value": BASE64.encode(value.to_string().as_bytes()),
            } })
        });
        let body = json!({ "success": puts.collect::<Vec<Value>>() });
        let mut curl = cluster
            .reaching_api("curl")?
            .args(["-sS", "--fail-with-body", "--data-binary", "@-", URL])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start curl")?;
        let mut input = curl.stdin.take().context("curl's input")?;
        input.write_all(body.to_string().as_bytes())?;
        drop(input);
        let output = curl.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "etcd: {said}");
        Ok(())
    })
}
