//! The API server asks a pod: it is on the first node's own network, as host programs are.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use weft_tests::cluster::{Cluster, of_tests};
use weft_tests::lab::{ensure, eventually};

use super::space::{PATIENCE, Space, said, server, service};

pub(super) fn the_api_server_asks_a_webhook_on_another_node() -> Result<()> {
    webhook(&of_tests()?, "webhook")
}

pub(super) fn webhook(cluster: &Cluster, namespace: &str) -> Result<()> {
    let space = Space::new(cluster, namespace)?;
    let certificate = Certificate::of(&format!("hook.{namespace}.svc"))?;
    let mut pod = server("hook", "node-2");
    pod["spec"]["containers"][0] = json!({
        "name": "hook",
        "image": pod["spec"]["containers"][0]["image"],
        "args": [
            "webhook", "--port=8443",
            "--tls-cert-file=/tls/tls.crt", "--tls-private-key-file=/tls/tls.key",
        ],
        "volumeMounts": [{ "name": "tls", "mountPath": "/tls" }],
        "readinessProbe": { "tcpSocket": { "port": 8443 }, "periodSeconds": 1 },
    });
    pod["spec"]["volumes"] = json!([{ "name": "tls", "secret": { "secretName": "tls" } }]);
    let mut service = service("hook", "hook");
    service["spec"]["ports"] = json!([{ "port": 443, "targetPort": 8443 }]);
    space.run(&[certificate.secret(), pod, service])?;
    let hook = certificate.hook(namespace);
    cluster.kubectl_with(&["apply", "-f", "-"], &hook.to_string())?;
    let _hook = Hook(cluster, format!("{namespace}.weft.dev"));
    eventually("the webhook refuses", PATIENCE, || {
        let made = space.kubectl(&["create", "configmap", "wanted", "--dry-run=server"]);
        let error = made.err().context("nobody refused")?;
        let error = format!("{error:#}");
        ensure(error.contains("denied the request"), error)
    })
}

/// A webhook's configuration, gone with the value: else it would refuse for ever.
struct Hook<'a>(&'a Cluster, String);

impl Drop for Hook<'_> {
    fn drop(&mut self) {
        let kind = "validatingwebhookconfiguration";
        let _ = self.0.kubectl(&["delete", kind, &self.1]);
    }
}

/// What a server of TLS has to have, as the API server wants it.
struct Certificate {
    certificate: String,
    key: String,
    /// The certificate once more, as JSON has bytes.
    bundle: String,
}

impl Certificate {
    fn of(name: &str) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let (certificate, key) = (dir.path().join("tls.crt"), dir.path().join("tls.key"));
        let mut openssl = Command::new("openssl");
        openssl
            .args([
                "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
            ])
            .args(["-config", "/dev/null", "-subj", &format!("/CN={name}")])
            .args(["-addext", &format!("subjectAltName=DNS:{name}")])
            .arg("-keyout")
            .arg(&key)
            .arg("-out")
            .arg(&certificate);
        said(&mut openssl)?;
        let mut encode = Command::new("openssl");
        let bundle = said(encode.args(["base64", "-A", "-in"]).arg(&certificate))?;
        Ok(Self {
            bundle,
            certificate: fs::read_to_string(certificate)?,
            key: fs::read_to_string(key)?,
        })
    }

    fn secret(&self) -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": { "name": "tls" },
            "type": "kubernetes.io/tls",
            "stringData": { "tls.crt": self.certificate, "tls.key": self.key },
        })
    }

    /// The configuration by which every new ConfigMap of a namespace is refused by its webhook.
    fn hook(&self, namespace: &str) -> Value {
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingWebhookConfiguration",
            "metadata": { "name": format!("{namespace}.weft.dev") },
            "webhooks": [{
                "name": format!("{namespace}.weft.dev"),
                "clientConfig": {
                    "service": { "namespace": namespace, "name": "hook", "path": "/always-deny" },
                    "caBundle": self.bundle,
                },
                "namespaceSelector": {
                    "matchLabels": { "kubernetes.io/metadata.name": namespace },
                },
                "rules": [{
                    "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"],
                    "operations": ["CREATE"],
                }],
                "admissionReviewVersions": ["v1"],
                "sideEffects": "None",
                "timeoutSeconds": 5,
            }],
        })
    }
}
