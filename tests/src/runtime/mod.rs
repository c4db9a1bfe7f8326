//! containerd with runc on a node of the lab, by its own client and by its CRI.

mod cri;
mod image;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::mount::{MountFlags, mount};
use rustix::process::{Pid, Signal, getuid, kill_process};
use weft_cni::conflist::{Conflist, install};
use weft_router::demo::net::{Node, Process};

use crate::lab::{LabNode, eventually, have};
use crate::runner::skip;

pub use cri::Cri;
use image::checked;
pub use image::{IMAGE, PAGE};

/// How long a runtime may take for anything.
pub const PATIENCE: Duration = Duration::from_secs(20);
const BIN_DIR: &str = "/opt/cni/bin";
const NET_D: &str = "/etc/cni/net.d";
/// Where containerd's own client keeps containers; control groups, which are the machine's own, are
/// named by it too.
const SPACE: &str = "weft-lab";
/// Where containerd's CRI keeps them.
const CRI_SPACE: &str = "k8s.io";

/// A containerd on a node, with its state in the node's directory. Dropping it ends what it started.
#[derive(Debug)]
pub struct Containerd {
    node: Arc<Node>,
    agent_log: PathBuf,
    dir: PathBuf,
    socket: PathBuf,
    daemon: Process,
}

/// Where a runtime finds its networks and their plugins.
#[derive(Clone, Debug)]
pub struct Networks {
    /// Tells the runtimes of one node apart.
    pub name: String,
    /// The plugins.
    pub bin_dir: PathBuf,
    /// The networks' configurations.
    pub conf_dir: PathBuf,
}

impl Networks {
    /// Where weft is, once [`prepare`] has put it there.
    #[must_use]
    pub fn weft() -> Self {
        Self {
            name: "containerd".to_owned(),
            bin_dir: BIN_DIR.into(),
            conf_dir: NET_D.into(),
        }
    }
}

impl Containerd {
    /// Starts it, its one image that of [`prepare`].
    ///
    /// # Errors
    /// Where it does not answer within [`PATIENCE`], with the end of its log.
    pub fn start(node: &LabNode, image: &Path, networks: &Networks) -> Result<Self> {
        let agent_log = node.machine().log();
        let node = Arc::clone(node.machine().node());
        let dir = node.dir().join(&networks.name);
        fs::create_dir_all(&dir)?;
        fs::write(dir.join("config.toml"), config(&dir, networks))?;
        let log = fs::File::create(dir.join("log"))?;
        let child = node
            .command("containerd")
            .arg("--config")
            .arg(dir.join("config.toml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("start containerd")?;
        let this = Self {
            node,
            agent_log,
            socket: dir.join("socket"),
            dir,
            daemon: Process::new(child),
        };
        eventually("containerd answers", PATIENCE, || this.ctr(&["version"]))
            .with_context(|| this.said())?;
        for space in [SPACE, CRI_SPACE] {
            let mut import = this.command(space);
            import.args(["image", "import"]).arg(image);
            this.checked(&mut import)?;
        }
        Ok(this)
    }

    /// Where files of this runtime's containers may be kept.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn command(&self, space: &str) -> Command {
        let mut command = self.node.command("ctr");
        command
            .args(["--namespace", space])
            .arg("--address")
            .arg(&self.socket)
            .stdin(Stdio::null());
        command
    }

    /// What its own client printed.
    ///
    /// # Errors
    /// Where that failed, with the end of the logs.
    pub fn ctr(&self, words: &[&str]) -> Result<String> {
        let mut command = self.command(SPACE);
        command.args(words);
        self.checked(&mut command)
    }

    /// What a command printed; where it failed, why.
    fn checked(&self, command: &mut Command) -> Result<String> {
        checked(command).with_context(|| self.said())
    }

    /// A container in the foreground of a `ctr` of its own.
    ///
    /// # Errors
    /// Where that does not start.
    pub fn run(&self, name: &str, words: &[&str]) -> Result<Child> {
        let log = fs::File::create(self.dir.join(name))?;
        let mut command = self.command(SPACE);
        command.args(["run", "--rm", "--cni", IMAGE, name]);
        command.args(words).stdout(log.try_clone()?).stderr(log);
        Ok(command.spawn()?)
    }

    /// The ends of its log and the agent's.
    #[must_use]
    pub fn said(&self) -> String {
        let end = |log: &Path| {
            let text = fs::read_to_string(log).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(12)..].join("\n")
        };
        let (own, agent) = (end(&self.dir.join("log")), end(&self.agent_log));
        format!("containerd's log ends:\n{own}\nthe agent's:\n{agent}")
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        // Shims and containers outlive their daemon, and would outlive the test.
        let tasks = self.dir.join("state/io.containerd.runtime.v2.task");
        for space in [SPACE, CRI_SPACE] {
            for bundle in fs::read_dir(tasks.join(space))
                .into_iter()
                .flatten()
                .flatten()
            {
                for (file, program) in [("init.pid", "busybox"), ("shim.pid", "containerd-shim")] {
                    kill(&bundle.path().join(file), program);
                }
            }
        }
        // It may have ended by itself, which is as good.
        let _ = self.daemon.stop(Duration::from_secs(5));
        for controller in folders(Path::new("/sys/fs/cgroup")) {
            // Only an empty one goes: the other node's containers may be in it.
            let group = controller.join(SPACE);
            for container in folders(&group) {
                let _ = fs::remove_dir(container);
            }
            let _ = fs::remove_dir(group);
        }
    }
}

/// Its state in `dir`, its CRI with the lab's image for sandboxes.
fn config(dir: &Path, networks: &Networks) -> String {
    let at = |name: &str| dir.join(name).display().to_string();
    format!(
        "version = 2\nroot = {:?}\nstate = {:?}\n\
         [grpc]\naddress = {:?}\n[ttrpc]\naddress = {:?}\n\
         [plugins.\"io.containerd.grpc.v1.cri\"]\n\
         sandbox_image = {IMAGE:?}\n\
         # Lowering a score needs a right that a lab may not have.\n\
         restrict_oom_score_adj = true\n\
         [plugins.\"io.containerd.grpc.v1.cri\".cni]\n\
         bin_dir = {:?}\nconf_dir = {:?}\n",
        at("root"),
        at("state"),
        at("socket"),
        at("socket.ttrpc"),
        networks.bin_dir,
        networks.conf_dir,
    )
}

fn folders(of: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(of).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders.map(|entry| entry.path()).collect()
}

/// Kills the process in a file, if it still is that program.
fn kill(file: &Path, program: &str) {
    let number = fs::read_to_string(file).ok();
    let pid = number.and_then(|text| Pid::from_raw(text.trim().parse().ok()?));
    let Some(pid) = pid else { return };
    let exe = fs::read_link(format!("/proc/{}/exe", pid.as_raw_nonzero()));
    if exe.is_ok_and(|exe| exe.display().to_string().contains(program)) {
        // It may end at this very moment.
        let _ = kill_process(pid, Signal::KILL);
    }
}

/// Makes the machine ready for containerds; the image that they run. Skips where none can run.
///
/// # Errors
/// Then, with the reason.
pub fn prepare() -> Result<PathBuf> {
    for program in ["containerd", "runc", "ctr", "busybox"] {
        have(program)?;
    }
    let ids = fs::read_to_string("/proc/self/uid_map")?;
    if !getuid().is_root() || ids.trim_end().ends_with(" 1") {
        return skip("containerd needs the machine's root, not a user namespace's");
    }
    configure()?;
    image::image()
}

/// The host's configuration of container runtimes hidden, ours in its place.
fn configure() -> Result<()> {
    let etc = Path::new("/run/weft-lab/etc");
    for part in ["upper", "work"] {
        fs::create_dir_all(etc.join(part))?;
    }
    mount(
        "overlay",
        "/etc",
        "overlay",
        MountFlags::empty(),
        c"lowerdir=/etc,upperdir=/run/weft-lab/etc/upper,workdir=/run/weft-lab/etc/work",
    )
    .context("lay over /etc")?;
    mount("weft", "/opt", "tmpfs", MountFlags::empty(), c"mode=0755").context("hide /opt")?;
    fs::create_dir_all(BIN_DIR)?;
    // containerd's CRI has each pod's `lo` set up by `loopback`, whatever its network.
    for plugin in weft_cni::plugin::NAMES {
        symlink(std::env::current_exe()?, Path::new(BIN_DIR).join(plugin))?;
    }
    let net_d = Path::new(NET_D);
    // None may be there, and ours is to be alone.
    let _ = fs::remove_dir_all(net_d);
    let conflist = Conflist {
        name: "weft".to_owned(),
        socket: None,
        mtu: None,
        behind: Vec::new(),
    };
    install(net_d, &conflist)?;
    Ok(())
}
