//! Upstream's API server with its store and nothing else: it checks and keeps what it is given, and
//! nobody acts on it.

use std::collections::BTreeSet;
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
/// The agents' account.
const ACCOUNT: &str = "system:serviceaccount:weft-system:weft";
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
        let audit = json!({
            "apiVersion": "audit.k8s.io/v1", "kind": "Policy",
            "omitStages": ["RequestReceived", "ResponseStarted"],
            "rules": [{"level": "Metadata", "users": [ACCOUNT]}, {"level": "None"}],
        });
        fs::write(file("audit.json"), audit.to_string())?;
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
                // Without it an agent lists and watches, as with older servers: all that it can do.
                .arg("--feature-gates=WatchList=false")
                .args([
                    "--authorization-mode=Node,RBAC",
                    "--service-cluster-ip-range=10.96.0.0/16",
                ])
                .arg("--service-account-issuer=https://kubernetes.default.svc")
                .arg(format!("--service-account-key-file={public}"))
                .arg(format!("--service-account-signing-key-file={private}"))
                .arg(format!("--token-auth-file={}", file("tokens")))
                .arg(format!("--audit-policy-file={}", file("audit.json")))
                .arg(format!("--audit-log-path={}", file("audit.log")))
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

    /// What agents have called so far, not we in their name: the resource and the verb.
    ///
    /// Of a call that goes on, such as a watch, it is heard when it ends.
    pub(crate) fn audited(&self) -> Result<BTreeSet<(String, String)>> {
        let log = fs::read_to_string(self.dir.path().join("audit.log")).unwrap_or_default();
        let mut calls = BTreeSet::new();
        // The last line may be half a one.
        for line in log
            .lines()
            .map_while(|line| serde_json::from_str::<Value>(line).ok())
        {
            let word = |path: &str| {
                line.pointer(path)
                    .and_then(Value::as_str)
                    .unwrap_or_default()
            };
            if word("/userAgent").starts_with("kubectl") {
                continue;
            }
            let mut resource = word("/objectRef/resource").to_owned();
            match (word("/objectRef/subresource"), word("/objectRef/apiGroup")) {
                ("", "") => {}
                ("", group) => resource = format!("{resource}.{group}"),
                (part, _) => resource = format!("{resource}/{part}"),
            }
            if line["responseStatus"]["code"] == 201 && word("/verb") == "patch" {
                // Applied where nothing was: the server asks for the right to create, too.
                calls.insert((resource.clone(), "create".to_owned()));
            }
            calls.insert((resource, word("/verb").to_owned()));
        }
        Ok(calls)
    }

    /// The file by which the bearer of a token reaches the server.
    pub(crate) fn kubeconfig(&self, token: &str) -> Result<PathBuf> {
        let certificate = self.dir.path().join("certificates/apiserver.crt");
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "weft",
            "clusters": [{"name": "weft", "cluster": {
                "server": URL, "certificate-authority": certificate,
            }}],
            "users": [{"name": "weft", "user": {"token": token}}],
            "contexts": [{"name": "weft", "context": {"cluster": "weft", "user": "weft"}}],
        });
        let file = self.dir.path().join("kubeconfig");
        fs::write(&file, config.to_string())?;
        Ok(file)
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
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

/// A program of upstream's, where the cluster of the lab keeps them.
fn upstream(name: &str) -> Result<PathBuf> {
    let dir = std::env::var_os("WEFT_KUBERNETES_DIR")
        .map_or_else(|| root().join("target/kubernetes"), PathBuf::from);
    let program = dir.join("bin").join(name);
    if !program.is_file() {
        return skip(format!(
            "{} is missing; run `cargo run -p weft-tests --bin cluster -- build`",
            program.display()
        ));
    }
    Ok(program)
}

pub(crate) fn start(command: &mut Command, log: &str) -> Result<Process> {
    let log = fs::File::create(log)?;
    let child = command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("start {command:?}"))?;
    Ok(Process::new(child))
}

pub(crate) fn run(command: &mut Command) -> Result<String> {
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
