//! A node with an agent on it, run and asked as a user would: by the `weft` program itself.

use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::StepError;
use super::net::{Netns, Node, Process};

/// This very program, whatever it is called and wherever it lies.
const SELF: &str = "/proc/self/exe";
/// The agent's socket, as the node sees it.
const SOCKET: &str = "/run/weft/weft.sock";
/// How much of an agent's log is shown when something fails, bytes.
const LOG_TAIL: u64 = 4096;

/// A node and its agent.
#[derive(Debug)]
pub struct Machine {
    node: Arc<Node>,
    agent: Option<Process>,
}

impl Machine {
    pub fn new(node: Node) -> Self {
        Self {
            node: Arc::new(node),
            agent: None,
        }
    }

    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }

    pub fn name(&self) -> &str {
        self.node.name()
    }

    /// The agent's process number, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.agent.as_ref().map(Process::id)
    }

    /// Where the agent keeps its state.
    pub fn state_dir(&self) -> PathBuf {
        self.node.dir().join("state")
    }

    /// The control socket's path outside the node.
    pub fn socket(&self) -> PathBuf {
        self.node.dir().join("run/weft.sock")
    }

    /// A command of this program under the name `program`, on this node.
    pub fn own(&self, program: &str) -> Command {
        let mut command = self.node.command(SELF);
        command.arg0(program);
        command
    }

    /// The same, but in the network of one of its pods.
    pub fn own_in(&self, pod: &Netns, program: &str) -> Command {
        let mut command = self.node.command_in(pod, SELF);
        command.arg0(program);
        command
    }

    /// Starts the agent with further arguments; its log goes on where it was.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&mut self, arguments: &[&str]) -> Result<(), StepError> {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.log())
            .map_err(StepError::io("open the agent's log"))?;
        let errors = log
            .try_clone()
            .map_err(StepError::io("open the agent's log"))?;
        let mut command = self.own("weft");
        command
            .args(["up", "--name", self.name(), "--socket", SOCKET])
            .arg("--state-dir")
            .arg(self.state_dir())
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors);
        let child = command.spawn().map_err(StepError::io("start an agent"))?;
        self.agent = Some(Process::new(child));
        Ok(())
    }

    /// Waits until the agent answers on its socket.
    ///
    /// # Errors
    /// When it ended, or does not by `patience`.
    pub fn wait_ready(&mut self, patience: Duration) -> Result<Value, StepError> {
        let deadline = Instant::now() + patience;
        loop {
            let last = match self.status() {
                Ok(status) => return Ok(status),
                Err(error) => error,
            };
            if let Some(agent) = &mut self.agent
                && let Some(status) = agent.ended().map_err(StepError::io("wait for an agent"))?
            {
                return Err(StepError(format!(
                    "the agent of {} ended ({status})",
                    self.name()
                )));
            }
            if Instant::now() > deadline {
                return Err(StepError(format!(
                    "the agent of {} does not answer: {last}",
                    self.name()
                )));
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// The running agent's process.
    pub fn agent(&mut self) -> Option<&mut Process> {
        self.agent.as_mut()
    }

    /// Runs `weft` with these arguments on the node; what it printed.
    ///
    /// # Errors
    /// What it printed to standard error, when it failed.
    pub fn weft(&self, arguments: &[&str]) -> Result<String, StepError> {
        let output = self
            .own("weft")
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .map_err(StepError::io("run weft"))?;
        printed(&format!("weft {}", arguments.join(" ")), output)
    }

    /// `weft status --json`.
    ///
    /// # Errors
    /// When the agent does not answer, or with something else.
    pub fn status(&self) -> Result<Value, StepError> {
        let text = self.weft(&["status", "--json"])?;
        serde_json::from_str(&text)
            .map_err(|error| StepError(format!("weft status --json of {}: {error}", self.name())))
    }

    /// What another node needs to join: the argument of `--join`.
    ///
    /// # Errors
    /// When the agent does not say.
    pub fn join_line(&self) -> Result<String, StepError> {
        let line = self.weft(&["token", "create"])?;
        line.split_whitespace()
            .last()
            .map(ToOwned::to_owned)
            .ok_or_else(|| StepError("weft token create printed nothing".to_owned()))
    }

    /// Runs the CNI plugin as a container runtime does: parameters in the environment, the
    /// configuration on standard input; the result that it printed.
    ///
    /// # Errors
    /// What the plugin says is wrong.
    pub fn plugin(
        &self,
        verb: &str,
        parameters: &[(&str, &str)],
        configuration: &Value,
    ) -> Result<Value, StepError> {
        let mut command = self.own("weft-cni");
        command
            .env("CNI_COMMAND", verb)
            .envs(parameters.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().map_err(StepError::io("run weft-cni"))?;
        if let Some(mut stdin) = child.stdin.take() {
            // A plugin that does not read it has said why, which is the better error.
            let _ = stdin.write_all(configuration.to_string().as_bytes());
        }
        let output = child
            .wait_with_output()
            .map_err(StepError::io("wait for weft-cni"))?;
        let text = printed(&format!("weft-cni {verb}"), output)?;
        if text.trim().is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_str(&text)
            .map_err(|error| StepError(format!("weft-cni {verb} printed no JSON: {error}")))
    }

    /// The end of the agent's log.
    pub fn log_tail(&self) -> String {
        tail(&self.log()).unwrap_or_default()
    }

    /// Where the agent's log is.
    pub fn log(&self) -> PathBuf {
        self.node.dir().join("agent.log")
    }
}

fn printed(what: &str, output: Output) -> Result<String, StepError> {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    // The plugin prints its error to standard output, as the specification has it.
    let errors = String::from_utf8_lossy(&output.stderr);
    let mut said: Vec<&str> = [errors.trim(), text.trim()].into();
    said.retain(|part| !part.is_empty());
    Err(StepError(format!(
        "{what}: {}: {}",
        output.status,
        said.join(": ")
    )))
}

fn tail(log: &Path) -> std::io::Result<String> {
    let mut file = fs::File::open(log)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL)))?;
    let mut bytes = Vec::new();
    file.take(LOG_TAIL).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
