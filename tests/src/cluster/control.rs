//! The control plane: etcd, the API server, the controller manager and the scheduler, as processes
//! in the namespace of the first node.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use weft_router::demo::net::Process;

use super::identity::{Identities, PORT};
use super::node::ClusterNode;
use super::options::{Family, Options, Ranges};
use super::{printed, program};
use crate::lab::eventually;

/// How long the API server may take until it is ready.
const PATIENCE: Duration = Duration::from_secs(60);
/// Who issues the tokens, and for whom.
const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// What a control plane consists of, in the order of starting.
pub(super) const PROGRAMS: [&str; 4] = [
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
];

/// The control plane's processes and what they are started with.
#[derive(Debug)]
pub(super) struct ControlPlane {
    commands: Vec<(&'static str, PathBuf, Vec<String>)>,
    logs: PathBuf,
    admin: PathBuf,
    kubectl: PathBuf,
    running: Vec<(&'static str, Process)>,
}

impl ControlPlane {
    /// Makes the identities and says how everything is started; starts nothing.
    pub(super) fn new(
        options: &Options,
        identities: &Identities,
        first: &ClusterNode,
        (programs, logs, state): (&Path, &Path, &Path),
    ) -> Result<Self> {
        let address = *first.addresses().first().context("no address")?;
        let mut served: Vec<String> =
            ["", ".default", ".default.svc", ".default.svc.cluster.local"]
                .map(|suffix| format!("DNS:kubernetes{suffix}"))
                .into();
        served.extend(["IP:127.0.0.1", "IP:::1"].map(ToOwned::to_owned));
        served.extend(options.family.apis().iter().map(|api| format!("IP:{api}")));
        served.extend(first.addresses().iter().map(|own| format!("IP:{own}")));
        // It is also who the kubelets hear from.
        identities.issue("api", "kube-apiserver", "system:masters", &served)?;
        let admin = identities.client("admin", "admin", "system:masters")?;
        let arguments = [
            etcd(state),
            api_server(options, identities, &address.to_string()),
            controller_manager(options, identities)?,
            scheduler(identities)?,
        ];
        let mut commands = Vec::new();
        for (name, arguments) in PROGRAMS.into_iter().zip(arguments) {
            let file = match name {
                "etcd" => program("etcd").context("etcd is the package etcd-server")?,
                name => programs.join(name),
            };
            commands.push((name, file, arguments));
        }
        Ok(Self {
            commands,
            logs: logs.to_owned(),
            admin,
            kubectl: programs.join("kubectl"),
            running: Vec::new(),
        })
    }

    /// The file by which an administrator reaches it.
    pub(super) fn admin(&self) -> &Path {
        &self.admin
    }

    /// Starts one of its programs on the node that it is on.
    pub(super) fn start(&mut self, on: &ClusterNode, name: &str) -> Result<()> {
        if self.running.iter().any(|(running, _)| *running == name) {
            bail!("{name} runs already");
        }
        let found = self.commands.iter().find(|(known, ..)| *known == name);
        let (name, file, arguments) = found.with_context(|| format!("there is no {name}"))?;
        let log = super::log(&self.logs, name)?;
        // In its namespace and not in its mounts: a node's disk is not where the cluster's state is.
        let mut command = on.netns().command(file);
        let child = command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("start {name}"))?;
        self.running.push((name, Process::new(child)));
        Ok(())
    }

    /// Kills one of its programs at once.
    pub(super) fn stop(&mut self, name: &str) -> Result<()> {
        let at = self
            .running
            .iter()
            .position(|(running, _)| *running == name);
        let (_, mut process) = self
            .running
            .remove(at.with_context(|| format!("no {name} runs"))?);
        process.kill()?;
        Ok(())
    }

    /// Waits until the API server says that it is ready.
    pub(super) fn wait_ready(&mut self, on: &ClusterNode) -> Result<()> {
        eventually("the API server is ready", PATIENCE, || {
            // What has ended never gets ready.
            if let Some(ended) = self.ended()?.first() {
                return Ok(Err(anyhow::anyhow!("{ended} has ended; see its log")));
            }
            self.kubectl(on, &["get", "--raw", "/readyz"])
                .map(|_| Ok(()))
        })?
    }

    /// Names the programs that have ended by themselves.
    pub(super) fn ended(&mut self) -> Result<Vec<String>> {
        let mut ended = Vec::new();
        for (name, process) in &mut self.running {
            if let Some(status) = process.ended()? {
                ended.push(format!("{name} ({status})"));
            }
        }
        Ok(ended)
    }

    /// Runs `kubectl` as the administrator; what it printed.
    pub(super) fn kubectl(&self, on: &ClusterNode, arguments: &[&str]) -> Result<String> {
        let mut command = self.kubectl_command(on);
        printed(command.args(arguments)).with_context(|| format!("kubectl {}", arguments.join(" ")))
    }

    pub(super) fn kubectl_command(&self, on: &ClusterNode) -> Command {
        let mut command = on.netns().command(&self.kubectl);
        // It would keep what it discovers in the user's home.
        command.arg("--kubeconfig").arg(&self.admin);
        command.args(["--cache-dir", "/run/kubectl-cache"]);
        command
    }
}

fn etcd(state: &Path) -> Vec<String> {
    [
        format!("--data-dir={}", state.join("etcd").display()),
        "--listen-client-urls=http://127.0.0.1:2379".to_owned(),
        "--advertise-client-urls=http://127.0.0.1:2379".to_owned(),
        "--listen-peer-urls=http://127.0.0.1:2380".to_owned(),
        "--logger=zap".to_owned(),
        // Nothing of a lab is to survive a power cut.
        "--unsafe-no-fsync".to_owned(),
    ]
    .into()
}

fn api_server(options: &Options, identities: &Identities, address: &str) -> Vec<String> {
    let file = |flag: &str, file: &Path| format!("--{flag}={}", file.display());
    let any = match options.family {
        Family::Ipv4 => "0.0.0.0",
        Family::Ipv6 | Family::Dual => "::",
    };
    vec![
        "--etcd-servers=http://127.0.0.1:2379".to_owned(),
        format!("--secure-port={PORT}"),
        format!("--bind-address={any}"),
        format!("--advertise-address={address}"),
        format!(
            "--service-cluster-ip-range={}",
            options.family.services().join(",")
        ),
        "--authorization-mode=Node,RBAC".to_owned(),
        "--enable-admission-plugins=NodeRestriction".to_owned(),
        "--allow-privileged=true".to_owned(),
        "--kubelet-preferred-address-types=InternalIP".to_owned(),
        format!("--service-account-issuer={ISSUER}"),
        file("service-account-key-file", &identities.accounts()),
        file(
            "service-account-signing-key-file",
            &identities.key("accounts"),
        ),
        file("client-ca-file", &identities.certificate("ca")),
        file("tls-cert-file", &identities.certificate("api")),
        file("tls-private-key-file", &identities.key("api")),
        file("kubelet-client-certificate", &identities.certificate("api")),
        file("kubelet-client-key", &identities.key("api")),
    ]
}

fn controller_manager(options: &Options, identities: &Identities) -> Result<Vec<String>> {
    let user = "system:kube-controller-manager";
    let by = identities.client("controller-manager", user, user)?;
    Ok(vec![
        format!("--kubeconfig={}", by.display()),
        "--leader-elect=false".to_owned(),
        "--use-service-account-credentials=true".to_owned(),
        format!(
            "--allocate-node-cidrs={}",
            options.ranges == Ranges::Cluster
        ),
        format!("--cluster-cidr={}", options.pods().join(",")),
        format!(
            "--service-cluster-ip-range={}",
            options.family.services().join(",")
        ),
        format!("--root-ca-file={}", identities.certificate("ca").display()),
        format!(
            "--service-account-private-key-file={}",
            identities.key("accounts").display()
        ),
    ])
}

fn scheduler(identities: &Identities) -> Result<Vec<String>> {
    let user = "system:kube-scheduler";
    let by = identities.client("scheduler", user, user)?;
    Ok(vec![
        format!("--kubeconfig={}", by.display()),
        format!("--authentication-kubeconfig={}", by.display()),
        format!("--authorization-kubeconfig={}", by.display()),
        "--leader-elect=false".to_owned(),
    ])
}
