//! Who is who in the cluster: its certificate authority, a certificate for each who speaks, and the
//! files by which they find the API server.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::json;

/// The API server's port.
pub(super) const PORT: u16 = 6443;

/// The cluster's authority, in a folder of its own.
#[derive(Debug)]
pub(super) struct Identities {
    dir: PathBuf,
    server: String,
}

impl Identities {
    /// A new authority, and the key that signs the service accounts' tokens.
    pub(super) fn new(dir: &Path, api: IpAddr) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let this = Self {
            dir: dir.to_owned(),
            server: match api {
                IpAddr::V4(api) => format!("https://{api}:{PORT}"),
                IpAddr::V6(api) => format!("https://[{api}]:{PORT}"),
            },
        };
        let (key, certificate) = (this.key("ca"), this.certificate("ca"));
        this.request(&key, &certificate)
            .args(&["-subj", "/CN=weft-cluster-ca"])
            .args(&["-addext", "basicConstraints=critical,CA:TRUE"])
            .args(&["-addext", "keyUsage=critical,keyCertSign,digitalSignature"])
            .done()?;
        let (private, public) = (this.key("accounts"), this.dir.join("accounts.pub"));
        Openssl::new("genrsa")
            .arg("-out")
            .arg(&private)
            .arg("2048")
            .done()?;
        Openssl::new("rsa")
            .args(&["-pubout", "-in"])
            .arg(&private)
            .arg("-out")
            .arg(&public)
            .done()?;
        Ok(this)
    }

    pub(super) fn key(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.key"))
    }

    pub(super) fn certificate(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.crt"))
    }

    /// The public half of the key that signs service accounts' tokens; its private one is the key
    /// `accounts`.
    pub(super) fn accounts(&self) -> PathBuf {
        self.dir.join("accounts.pub")
    }

    /// Gives `name` a certificate as `user`, of `group`, and for serving under `served` names.
    pub(super) fn issue(
        &self,
        name: &str,
        user: &str,
        group: &str,
        served: &[String],
    ) -> Result<()> {
        let mut request = self.request(&self.key(name), &self.certificate(name));
        request
            .arg("-CA")
            .arg(self.certificate("ca"))
            .arg("-CAkey")
            .arg(self.key("ca"))
            .args(&["-subj", &format!("/O={group}/CN={user}")])
            .args(&["-addext", "basicConstraints=critical,CA:FALSE"])
            .args(&["-addext", "extendedKeyUsage=clientAuth,serverAuth"]);
        if !served.is_empty() {
            request.args(&["-addext", &format!("subjectAltName={}", served.join(","))]);
        }
        request.done()
    }

    /// Gives `name` a certificate as [`Identities::issue`] does, and the file by which it reaches
    /// the API server; that file.
    pub(super) fn client(&self, name: &str, user: &str, group: &str) -> Result<PathBuf> {
        self.issue(name, user, group, &[])?;
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "weft",
            "clusters": [{ "name": "weft", "cluster": {
                "server": self.server,
                "certificate-authority": self.certificate("ca"),
            }}],
            "users": [{ "name": "weft", "user": {
                "client-certificate": self.certificate(name),
                "client-key": self.key(name),
            }}],
            "contexts": [{ "name": "weft", "context": { "cluster": "weft", "user": "weft" }}],
        });
        let file = self.dir.join(format!("{name}.kubeconfig"));
        fs::write(&file, config.to_string())?;
        Ok(file)
    }

    fn request(&self, key: &Path, certificate: &Path) -> Openssl {
        let mut request = Openssl::new("req");
        request
            .args(&["-x509", "-newkey", "ec", "-pkeyopt"])
            .args(&[
                "ec_paramgen_curve:P-256",
                "-nodes",
                "-days",
                "30",
                "-keyout",
            ])
            .arg(key)
            .arg("-out")
            .arg(certificate);
        // The system's own configuration would add extensions of its choice.
        request.args(&["-config", "/dev/null"]);
        request
    }
}

/// A run of `openssl`.
struct Openssl(Command);

impl Openssl {
    fn new(act: &str) -> Self {
        let mut command = Command::new("openssl");
        command.arg(act);
        Self(command)
    }

    fn arg(&mut self, argument: impl AsRef<std::ffi::OsStr>) -> &mut Self {
        self.0.arg(argument);
        self
    }

    fn args(&mut self, arguments: &[&str]) -> &mut Self {
        self.0.args(arguments);
        self
    }

    fn done(&mut self) -> Result<()> {
        let output = self.0.output().context("run openssl")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "openssl: {}", said.trim());
        Ok(())
    }
}
