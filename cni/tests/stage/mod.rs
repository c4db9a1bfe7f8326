//! A container's namespace, an agent that is a thread of the test, and the real binary between.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use weft_cni::api::{CniRequest, Request, encode_reply, recv_with_fd, write_frame};
use weft_cni::{Error, note};

/// A directory with a socket's name in it, and the variables of a call.
pub(crate) struct Stage {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) pod: Pod,
}

/// A network namespace that is not ours, as long as its process lives.
pub(crate) struct Pod(pub(crate) Child);

impl Pod {
    pub(crate) fn new() -> Self {
        let child = Command::new("unshare")
            .args(["--user", "--map-root-user", "--net", "cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("unshare of util-linux");
        let pod = Self(child);
        let own = std::fs::read_link("/proc/self/ns/net").unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while std::fs::read_link(pod.netns()).is_ok_and(|theirs| theirs == own) {
            assert!(Instant::now() < deadline, "the namespace was not made");
            thread::yield_now();
        }
        pod
    }

    pub(crate) fn netns(&self) -> String {
        format!("/proc/{}/ns/net", self.0.id())
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What came of a run of the plugin.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) success: bool,
    pub(crate) stdout: String,
}

impl Outcome {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {:?}", self.stdout))
    }

    pub(crate) fn silent(&self) -> bool {
        self.success && self.stdout.is_empty()
    }

    /// The error's code, once it is sure that this is an error and nothing else.
    pub(crate) fn code(&self) -> u32 {
        let error = self.json();
        assert!(!self.success && error["cniVersion"].is_string(), "{error}");
        assert!(error["msg"].as_str().is_some_and(|msg| !msg.is_empty()));
        error["code"].as_u64().unwrap() as u32
    }
}

impl Stage {
    pub(crate) fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            pod: Pod::new(),
        }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("weft.sock")
    }

    pub(crate) fn notes(&self) -> Vec<note::Note> {
        note::list(&note::dir(&self.socket()), 100).unwrap()
    }

    /// An agent that takes one connection after another and does with each as told.
    pub(crate) fn agent(&self, act: impl Fn(UnixStream) + Send + 'static) {
        let listener = UnixListener::bind(self.socket()).unwrap();
        thread::spawn(move || listener.incoming().for_each(|each| act(each.unwrap())));
    }

    /// An agent that gives `answer` to each request, which the test receives.
    pub(crate) fn answering<T: serde::Serialize>(
        &self,
        answer: impl Fn() -> Result<T, Error> + Send + 'static,
    ) -> Receiver<(CniRequest, Option<OwnedFd>)> {
        let (told, requests) = mpsc::channel();
        self.agent(move |stream| {
            let (body, fd) = receive(&stream);
            let Request::Cni(request) = Request::decode(&body).unwrap() else {
                panic!("not the plugin's request");
            };
            told.send((*request, fd)).unwrap();
            write_frame(&mut &stream, &encode_reply(answer()).unwrap()).unwrap();
        });
        requests
    }

    pub(crate) fn run(&self, verb: &str, version: &str, rest: Value) -> Outcome {
        let mut conf = json!({
            "cniVersion": version,
            "name": "weft",
            "type": "weft-cni",
            "socket": self.socket(),
        });
        for (key, value) in rest.as_object().unwrap() {
            conf[key] = value.clone();
        }
        self.run_raw(verb, conf.to_string().as_bytes())
    }

    pub(crate) fn run_raw(&self, verb: &str, input: &[u8]) -> Outcome {
        let mut child = Command::new(env!("CARGO_BIN_EXE_weft-cni"))
            .env_clear()
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", "c1")
            .env("CNI_NETNS", self.pod.netns())
            .env("CNI_IFNAME", "eth0")
            .env(
                "CNI_ARGS",
                "IgnoreUnknown=1;K8S_POD_NAMESPACE=prod;K8S_POD_NAME=web",
            )
            .env("CNI_PATH", "/opt/cni/bin")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // The plugin may refuse the call before it has read all of it.
        let _ = child.stdin.take().unwrap().write_all(input);
        let output = child.wait_with_output().unwrap();
        assert!(output.stderr.is_empty(), "{output:?}");
        Outcome {
            success: output.status.success(),
            stdout: String::from_utf8(output.stdout).unwrap(),
        }
    }
}

pub(crate) fn receive(stream: &UnixStream) -> (Vec<u8>, Option<OwnedFd>) {
    let deadline = Instant::now() + Duration::from_secs(10);
    recv_with_fd(stream, deadline).unwrap().unwrap()
}
