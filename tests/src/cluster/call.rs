//! What the keeper of a cluster is asked, and how: one line of JSON each way on a socket.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What can be asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "call", rename_all = "kebab-case")]
pub(super) enum Call {
    Status,
    Add { node: String },
    Remove { node: String },
    Wipe { node: String },
    Clone { from: String, to: String },
    Reboot { node: String },
    Kill { node: String, program: String },
    Start { node: String, program: String },
    StopControl { program: String },
    StartControl { program: String },
    KeepStore,
    SetStoreBack,
    ResetCapture,
    Down,
}

/// What is answered.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Answer {
    Done(Value),
    Failed(String),
}

/// Asks the keeper on this socket.
pub(super) fn ask(socket: &Path, call: &Call) -> Result<Value> {
    let stream = UnixStream::connect(socket)
        .with_context(|| format!("no cluster answers on {}", socket.display()))?;
    send(&stream, call)?;
    match receive(&stream)? {
        Answer::Done(value) => Ok(value),
        Answer::Failed(reason) => bail!("{reason}"),
    }
}

/// Reads one call and answers it by `act`; the call.
pub(super) fn serve(stream: &UnixStream, act: impl FnOnce(&Call) -> Result<Value>) -> Result<Call> {
    let call = receive(stream)?;
    let answer = match act(&call) {
        Ok(value) => Answer::Done(value),
        Err(error) => Answer::Failed(format!("{error:#}")),
    };
    send(stream, &answer)?;
    Ok(call)
}

fn send(mut stream: &UnixStream, message: &impl Serialize) -> Result<()> {
    let line = serde_json::to_string(message)? + "\n";
    Ok(stream.write_all(line.as_bytes())?)
}

fn receive<T: for<'de> Deserialize<'de>>(stream: &UnixStream) -> Result<T> {
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    serde_json::from_str(&line).context("the keeper of the cluster went away")
}
