//! Upstream's API server with its store and nothing else: it checks and keeps what it is given, and
//! nobody acts on it.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;
use weft_router::demo::net::Process;
use weft_tests::lab::{eventually, have};
use weft_tests::runner::skip;

pub(crate) const MANIFEST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/weft.yaml");
/// The server's, in the test's own network namespace.
const URL: &str = "https://127.0.0.1:6443";
const ADMIN: &str = "administrator";
/// How long a store and a server may take to start.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A running server, gone with this.
#[derive(Debug)]
pub(crate) struct Server {
    dir: TempDir,
    _etcd: Process,
    _api: Process,
}

impl Server {
    /// Starts one that knows nothing but itself.
    pub(crate) fn start() -> Result<Self> {
        for needed in ["etcd", "openssl", "curl"] {
            have(needed)?;
        }
        run(Command::new("ip").args(["link", "set", "lo", "up"]))?;
        let dir = tempfile::tempdir()?;
        let file = |name: &str| dir.path().join(name).display().to_string();
        let (private, public) = (file("accounts.key"), file("accounts.pub"));
        run(Command::new("openssl").args(["genrsa", "-out", &private, "2048"]))?;
        run(Command::new("openssl").args(["rsa", "-pubout", "-in", &private, "-out", &public]))?;
        fs::write(
            file("tokens"),
            format!("{ADMIN},admin,admin,\"system:masters\"\n"),
        )?;
        let etcd = start(
            Command::new("etcd")
                .arg(format!("--data-dir={}", file("etcd")))
                .args(["--unsafe-no-fsync", "--logger=zap"]),
            &file("etcd.log"),
        )?;
        let api = start(
            Command::new(upstream("kube-apiserver")?)
                .args(["--etcd-servers=http://127.0.0.1:2379", "--secure-port=6443"])
                .args(["--bind-address=127.0.0.1", "--advertise-address=192.0.2.1"])
                .args(["--endpoint-reconciler-type=none", "--allow-privileged"])
                .args([
                    "--authorization-mode=Node,RBAC",
                    "--service-cluster-ip-range=10.96.0.0/16",
                ])
                .arg("--service-account-issuer=https://kubernetes.default.svc")
                .arg(format!("--service-account-key-file={public}"))
                .arg(format!("--service-account-signing-key-file={private}"))
                .arg(format!("--token-auth-file={}", file("tokens")))
                .arg(format!("--cert-dir={}", file("certificates"))),
            &file("api.log"),
        )?;
        let server = Self {
            dir,
            _etcd: etcd,
            _api: api,
        };
        eventually("the API server is ready", PATIENCE, || {
            server.kubectl(&["get", "--raw", "/readyz"])
        })
        .with_context(|| {
            fs::read_to_string(server.dir.path().join("api.log")).unwrap_or_default()
        })?;
        Ok(server)
    }

    /// Runs `kubectl` as an administrator; what it printed.
    pub(crate) fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.kubectl_as(ADMIN, arguments)
    }

    pub(crate) fn kubectl_as(&self, token: &str, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(upstream("kubectl")?);
        command
            .args([
                "--insecure-skip-tls-verify",
                "--server",
                URL,
                "--token",
                token,
            ])
            .arg("--cache-dir")
            .arg(self.dir.path().join("cache"))
            .args(arguments);
        run(&mut command)
    }

    pub(crate) fn create(&self, object: &Value) -> Result<Value> {
        let path = match object["kind"].as_str() {
            Some("Node") => "/api/v1/nodes".to_owned(),
            Some("Pod") => "/api/v1/namespaces/weft-system/pods".to_owned(),
            kind => bail!("no path for {kind:?}"),
        };
        let answer = self.call(ADMIN, "POST", &path, object)?;
        ensure!(answer.code == 201, "{answer:?}");
        Ok(answer.body)
    }

    /// Asks the server as a program would: what `kubectl` does besides needs rights of its own.
    ///
    /// A patch is a merge of what is there and `body`, for own kinds the plain one of RFC 7386.
    pub(crate) fn call(
        &self,
        token: &str,
        method: &str,
        path: &str,
        body: &Value,
    ) -> Result<Answer> {
        let kind = match method {
            "PATCH" if path.contains("weft.dev") => "application/merge-patch+json",
            "PATCH" => "application/strategic-merge-patch+json",
            _ => "application/json",
        };
        let mut curl = Command::new("curl")
            .args(["--silent", "--show-error", "--insecure", "--max-time", "30"])
            .args(["--write-out", "\n%{http_code}", "--request", method])
            .args(["--header", &format!("Content-Type: {kind}")])
            .args(["--header", &format!("Authorization: Bearer {token}")])
            .args(["--data-binary", "@-", &format!("{URL}{path}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start curl")?;
        let mut input = curl.stdin.take().context("curl has no input")?;
        input.write_all(body.to_string().as_bytes())?;
        drop(input);
        let output = curl.wait_with_output()?;
        let text = String::from_utf8(output.stdout)?;
        let (body, code) = text.rsplit_once('\n').context("curl said nothing")?;
        Ok(Answer {
            code: code.parse()?,
            body: serde_json::from_str(body).with_context(|| body.to_owned())?,
        })
    }

    /// As an administrator.
    pub(crate) fn admin(&self, method: &str, path: &str, body: &Value) -> Result<Answer> {
        self.call(ADMIN, method, path, body)
    }
}

/// What the server said.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: u16,
    pub(crate) body: Value,
}

impl Answer {
    pub(crate) fn is_done(&self) -> Result<()> {
        ensure!(
            (200..300).contains(&self.code),
            "{} {}",
            self.code,
            self.body
        );
        Ok(())
    }

    /// By somebody who may not, for this reason.
    pub(crate) fn is_refused(&self, why: &str) -> Result<()> {
        self.is(403, why)
    }

    /// As no object of that kind.
    pub(crate) fn is_invalid(&self, why: &str) -> Result<()> {
        self.is(422, why)
    }

    fn is(&self, code: u16, why: &str) -> Result<()> {
        let message = self.body["message"].as_str().unwrap_or_default();
        ensure!(
            self.code == code && message.contains(why),
            "not {code} for {why:?}, but {} {}",
            self.code,
            self.body
        );
        Ok(())
    }
}

/// An agent as the server knows it: the token of its pod on its node.
#[derive(Debug)]
pub(crate) struct Agent<'a> {
    server: &'a Server,
    pub(crate) node: String,
    pub(crate) uid: String,
    pub(crate) token: String,
}

impl<'a> Agent<'a> {
    pub(crate) fn new(server: &'a Server, node: &str) -> Result<Self> {
        let made = server.create(&json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": node}
        }))?;
        server.create(&json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": node},
            "spec": {
                "nodeName": node, "serviceAccountName": "weft",
                "containers": [{"name": "weft", "image": "weft"}],
            }
        }))?;
        // The kubelet asks for its pods' tokens in this way.
        let token = server.kubectl(&[
            "create",
            "token",
            "weft",
            "--namespace=weft-system",
            "--bound-object-kind=Pod",
            "--bound-object-name",
            node,
        ])?;
        Ok(Self {
            server,
            node: node.to_owned(),
            uid: made["metadata"]["uid"]
                .as_str()
                .context("no uid")?
                .to_owned(),
            token: token.trim().to_owned(),
        })
    }

    pub(crate) fn call(&self, method: &str, path: &str, body: &Value) -> Result<Answer> {
        self.server.call(&self.token, method, path, body)
    }

    /// Patches the status of an agent's node.
    pub(crate) fn patch_status(&self, of: &Agent<'_>, patch: &Value) -> Result<Answer> {
        self.call("PATCH", &format!("/api/v1/nodes/{}/status", of.node), patch)
    }

    pub(crate) fn label_its_node(&self) -> Result<Answer> {
        self.patch_status(self, &json!({"metadata": {"labels": {"a": "b"}}}))
    }

    /// Makes the `WeftNode` of `named`, owned by the Node of `owner`.
    pub(crate) fn tell_of(&self, named: &Agent<'_>, owner: &Agent<'_>) -> Result<Answer> {
        let object = weft_node(&named.node, &owner.node, &owner.uid);
        self.call("POST", "/apis/weft.dev/v1alpha1/weftnodes", &object)
    }

    /// Claims a range for the node of `holder`.
    pub(crate) fn claim(&self, name: &str, range: &str, holder: &Agent<'_>) -> Result<Answer> {
        let object = json!({
            "apiVersion": "weft.dev/v1alpha1", "kind": "WeftRange",
            "metadata": {"name": name, "ownerReferences": [owner(&holder.node, &holder.uid)]},
            "spec": {"node": holder.node, "range": range},
        });
        self.call("POST", "/apis/weft.dev/v1alpha1/weftranges", &object)
    }

    /// Writes an event about the node of `about`.
    pub(crate) fn report(&self, about: &Agent<'_>) -> Result<Answer> {
        self.report_of(
            "default",
            &json!({"apiVersion": "v1", "kind": "Node", "name": about.node}),
        )
    }

    pub(crate) fn report_of(&self, namespace: &str, regarding: &Value) -> Result<Answer> {
        let path = format!("/apis/events.k8s.io/v1/namespaces/{namespace}/events");
        self.call(
            "POST",
            &path,
            &json!({
                "apiVersion": "events.k8s.io/v1", "kind": "Event",
                "metadata": {"generateName": "weft-"},
                "eventTime": "2026-01-01T00:00:00.000000Z",
                "reportingController": "weft.dev/agent", "reportingInstance": self.node,
                "action": "Reconcile", "reason": "RangeOverlap", "type": "Warning",
                "note": "for a test", "regarding": regarding,
            }),
        )
    }
}

/// What a node tells of itself; what is in it need not be true.
pub(crate) fn weft_node(name: &str, node: &str, uid: &str) -> Value {
    json!({
        "apiVersion": "weft.dev/v1alpha1", "kind": "WeftNode",
        "metadata": {"name": name, "ownerReferences": [owner(node, uid)]},
        "spec": {
            "identity": "a".repeat(52),
            "publicKey": format!("{}=", "A".repeat(43)),
            "endpoints": ["192.0.2.1:6783", "[2001:db8::1]:6783", "node.example.org:6783"],
            "signature": format!("{}==", "A".repeat(86)),
            "engine": "kernel", "version": "0.1.0", "podCIDRs": ["10.244.0.0/24"],
        }
    })
}

fn owner(node: &str, uid: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "name": node, "uid": uid})
}

/// A program of upstream's, where the cluster of the lab keeps them.
fn upstream(name: &str) -> Result<PathBuf> {
    let dir = std::env::var_os("WEFT_KUBERNETES_DIR")
        .map_or_else(|| root().join("target/kubernetes"), PathBuf::from);
    let program = dir.join(name);
    if !program.is_file() {
        return skip(format!("{} is not built", program.display()));
    }
    Ok(program)
}

fn start(command: &mut Command, log: &str) -> Result<Process> {
    let log = fs::File::create(log)?;
    let child = command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("start {command:?}"))?;
    Ok(Process::new(child))
}

fn run(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("run {command:?}"))?;
    ensure!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}
