//! A container runtime's part of CNI and no more: reads a conflist, runs its plugins one behind
//! the other and hands each the result of the one before (specification 1.1.0, sections 3 and 4).

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Map, Value, json};

/// A conflist, and where its plugins lie.
#[derive(Clone, Debug)]
pub struct Network {
    name: String,
    version: String,
    disable_check: bool,
    plugins: Vec<Map<String, Value>>,
    bin_dirs: Vec<PathBuf>,
    prefix: Vec<OsString>,
}

/// The container that is to be attached.
#[derive(Clone, Debug)]
pub struct Container {
    pub id: String,
    pub netns: String,
    pub ifname: String,
    /// `CNI_ARGS`.
    pub args: BTreeMap<String, String>,
    /// What the runtime would have for a plugin's capabilities, as `portMappings`.
    pub capabilities: Map<String, Value>,
}

/// Why a verb failed, and in which plugin.
#[derive(Debug)]
pub enum Failure {
    Conflist(String),
    /// It could not be run, or its output is none of the specification's.
    Broken {
        plugin: String,
        reason: String,
    },
    /// Its error object.
    Refused {
        plugin: String,
        code: u64,
        msg: String,
        details: String,
    },
}

impl Failure {
    /// The code of a plugin's error object.
    pub fn code(&self) -> Option<u64> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Conflist(reason) => write!(f, "conflist: {reason}"),
            Self::Broken { plugin, reason } => write!(f, "{plugin}: {reason}"),
            Self::Refused {
                plugin,
                code,
                msg,
                details,
            } => write!(f, "{plugin}: error {code}: {msg}: {details}"),
        }
    }
}

impl std::error::Error for Failure {}

impl Container {
    /// A container with `eth0` and nothing special.
    pub fn new(id: &str, netns: &str) -> Self {
        Self {
            id: id.to_owned(),
            netns: netns.to_owned(),
            ifname: "eth0".to_owned(),
            args: BTreeMap::new(),
            capabilities: Map::new(),
        }
    }
}

impl Network {
    /// Reads a conflist as a runtime that knows no version above `newest`: it takes the best of
    /// `cniVersions`, or `cniVersion`.
    ///
    /// # Errors
    /// When it is no conflist, or has no version that the runtime knows.
    pub fn parse(text: &str, newest: &str, bin_dirs: &[PathBuf]) -> Result<Self, Failure> {
        let bad = |reason: &str| Failure::Conflist(reason.to_owned());
        let list: Value = serde_json::from_str(text).map_err(|e| bad(&e.to_string()))?;
        let single = list["cniVersion"].as_str();
        let many = list["cniVersions"]
            .as_array()
            .map_or(&[][..], Vec::as_slice);
        let version = many
            .iter()
            .filter_map(Value::as_str)
            .chain(single)
            .filter(|version| numbers(version) <= numbers(newest))
            .max_by_key(|version| numbers(version))
            .ok_or_else(|| bad("no version that this runtime knows"))?;
        let plugins = list["plugins"]
            .as_array()
            .ok_or_else(|| bad("no plugins"))?;
        let plugins = plugins.iter().map(|each| each.as_object().cloned());
        Ok(Self {
            name: list["name"]
                .as_str()
                .ok_or_else(|| bad("no name"))?
                .to_owned(),
            version: version.to_owned(),
            disable_check: list["disableCheck"] == true,
            plugins: plugins
                .collect::<Option<_>>()
                .ok_or_else(|| bad("a plugin that is no object"))?,
            bin_dirs: bin_dirs.to_vec(),
            prefix: Vec::new(),
        })
    }

    /// Runs plugins by this command (`nsenter --net=…`), as from inside the node's namespaces.
    #[must_use]
    pub fn through(mut self, prefix: &[&str]) -> Self {
        self.prefix = prefix.iter().map(OsString::from).collect();
        self
    }

    /// The version of the specification that is spoken with the plugins.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Attaches; the result of the last plugin, which is to be kept for CHECK and DEL.
    ///
    /// # Errors
    /// Of the first plugin that fails. The runtime runs DEL then.
    pub fn add(&self, container: &Container) -> Result<Value, Failure> {
        let mut result = None;
        for plugin in &self.plugins {
            let conf = self.conf(plugin, Some(container), result.as_ref());
            let output = self.run("ADD", &conf, Some(container))?;
            result = Some(output.ok_or_else(|| broken(plugin, "ADD without a result"))?);
        }
        result.ok_or_else(|| Failure::Conflist("no plugins".to_owned()))
    }

    /// Checks against an ADD's result.
    ///
    /// # Errors
    /// Of the first plugin that fails.
    pub fn check(&self, container: &Container, result: &Value) -> Result<(), Failure> {
        if self.disable_check {
            return Ok(());
        }
        for plugin in &self.plugins {
            let conf = self.conf(plugin, Some(container), Some(result));
            self.silent("CHECK", &conf, Some(container))?;
        }
        Ok(())
    }

    /// Detaches, the last plugin first. `result` is the ADD's, if there was one.
    ///
    /// # Errors
    /// Of the first plugin that fails; the ones before it in the list are not run.
    pub fn del(&self, container: &Container, result: Option<&Value>) -> Result<(), Failure> {
        for plugin in self.plugins.iter().rev() {
            let conf = self.conf(plugin, Some(container), result);
            self.silent("DEL", &conf, Some(container))?;
        }
        Ok(())
    }

    /// Takes away what belongs to none of these (container id, interface).
    ///
    /// # Errors
    /// Of the first plugin that fails.
    pub fn gc(&self, valid: &[(&str, &str)]) -> Result<(), Failure> {
        let valid: Vec<Value> = valid
            .iter()
            .map(|(id, ifname)| json!({ "containerID": id, "ifname": ifname }))
            .collect();
        for plugin in &self.plugins {
            let mut conf = self.conf(plugin, None, None);
            conf.insert("cni.dev/valid-attachments".to_owned(), valid.clone().into());
            self.silent("GC", &conf, None)?;
        }
        Ok(())
    }

    /// Whether every plugin is ready for an ADD.
    ///
    /// # Errors
    /// Of the first plugin that is not.
    pub fn status(&self) -> Result<(), Failure> {
        self.plugins
            .iter()
            .try_for_each(|plugin| self.silent("STATUS", &self.conf(plugin, None, None), None))
    }

    /// The versions that each plugin supports.
    ///
    /// # Errors
    /// Of the first plugin that fails.
    pub fn versions(&self) -> Result<Vec<Vec<String>>, Failure> {
        let ask = |plugin: &Map<String, Value>| {
            let mut conf = Map::new();
            conf.insert("cniVersion".to_owned(), self.version.as_str().into());
            conf.insert("type".to_owned(), kind(plugin).into());
            let answer = self.run("VERSION", &conf, None)?.unwrap_or_default();
            serde_json::from_value(answer["supportedVersions"].clone())
                .map_err(|e| broken(plugin, &e.to_string()))
        };
        self.plugins.iter().map(ask).collect()
    }

    /// The configuration of one plugin as the runtime derives it from the list (section 3).
    fn conf(
        &self,
        plugin: &Map<String, Value>,
        container: Option<&Container>,
        prev: Option<&Value>,
    ) -> Map<String, Value> {
        let mut conf = plugin.clone();
        conf.insert("cniVersion".to_owned(), self.version.as_str().into());
        conf.insert("name".to_owned(), self.name.as_str().into());
        let capabilities = conf.remove("capabilities").unwrap_or_default();
        if let Some(container) = container {
            let mut given = container.capabilities.clone();
            given.retain(|key, _| capabilities[key.as_str()] == true);
            if !given.is_empty() {
                conf.insert("runtimeConfig".to_owned(), given.into());
            }
        }
        if let Some(prev) = prev {
            conf.insert("prevResult".to_owned(), prev.clone());
        }
        conf
    }

    fn silent(
        &self,
        verb: &str,
        conf: &Map<String, Value>,
        container: Option<&Container>,
    ) -> Result<(), Failure> {
        match self.run(verb, conf, container)? {
            None => Ok(()),
            Some(said) => Err(broken(conf, &format!("{verb} said {said}"))),
        }
    }

    /// Runs one plugin; what it printed.
    fn run(
        &self,
        verb: &str,
        conf: &Map<String, Value>,
        container: Option<&Container>,
    ) -> Result<Option<Value>, Failure> {
        let failed = |e: io::Error| broken(conf, &format!("{verb}: {e}"));
        let program = self.find(conf)?;
        let mut words = self
            .prefix
            .iter()
            .cloned()
            .chain([program.into_os_string()]);
        let mut command = Command::new(words.next().unwrap_or_default());
        command
            .args(words)
            .env("CNI_COMMAND", verb)
            .env(
                "CNI_PATH",
                std::env::join_paths(&self.bin_dirs).unwrap_or_default(),
            )
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if let Some(container) = container {
            let args = container
                .args
                .iter()
                .map(|(key, value)| format!("{key}={value}"));
            command
                .env("CNI_CONTAINERID", &container.id)
                .env("CNI_NETNS", &container.netns)
                .env("CNI_IFNAME", &container.ifname)
                .env("CNI_ARGS", args.collect::<Vec<_>>().join(";"));
        }
        let mut child = command.spawn().map_err(failed)?;
        if let Some(mut stdin) = child.stdin.take() {
            // A plugin need not read it, VERSION above all.
            let _ = stdin.write_all(Value::from(conf.clone()).to_string().as_bytes());
        }
        let output = child.wait_with_output().map_err(failed)?;
        let text = String::from_utf8_lossy(&output.stdout);
        let said = (!text.trim().is_empty())
            .then(|| serde_json::from_str::<Value>(&text))
            .transpose()
            .map_err(|e| broken(conf, &format!("{verb}: {e}: {text}")))?;
        if output.status.success() {
            return Ok(said);
        }
        match said {
            Some(error) if error["code"].is_u64() => Err(refused(conf, &error)),
            _ => {
                let stderr = String::from_utf8_lossy(&output.stderr);
                let reason = format!("{verb}: {}: {stderr}", output.status);
                Err(broken(conf, &reason))
            }
        }
    }

    fn find(&self, conf: &Map<String, Value>) -> Result<PathBuf, Failure> {
        let candidates = self.bin_dirs.iter().map(|dir| dir.join(kind(conf)));
        let mut found = candidates.filter(|path: &PathBuf| Path::is_file(path));
        found
            .next()
            .ok_or_else(|| broken(conf, "not found in CNI_PATH"))
    }
}

fn kind(conf: &Map<String, Value>) -> &str {
    conf.get("type").and_then(Value::as_str).unwrap_or_default()
}

fn broken(conf: &Map<String, Value>, reason: &str) -> Failure {
    Failure::Broken {
        plugin: kind(conf).to_owned(),
        reason: reason.to_owned(),
    }
}

fn refused(conf: &Map<String, Value>, error: &Value) -> Failure {
    let text = |key: &str| error[key].as_str().unwrap_or_default().to_owned();
    Failure::Refused {
        plugin: kind(conf).to_owned(),
        code: error["code"].as_u64().unwrap_or_default(),
        msg: text("msg"),
        details: text("details"),
    }
}

/// A version as numbers, so that 1.10 is above 1.9.
fn numbers(version: &str) -> Vec<u64> {
    version
        .split('.')
        .map(|number| number.parse().unwrap_or_default())
        .collect()
}

#[cfg(test)]
mod tests;
