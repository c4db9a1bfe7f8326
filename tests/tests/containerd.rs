//! Pods as a real runtime makes them: containerd with runc on two nodes, a page fetched between.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::mount::{MountFlags, mount};
use rustix::process::{Pid, Signal, getuid, kill_process};
use serde_json::json;
use weft_cni::conflist::{Conflist, install};
use weft_router::demo::net::Process;
use weft_tests::lab::{Lab, LabNode, ensure, eventually, have};
use weft_tests::lab_tests;
use weft_tests::runner::skip;

lab_tests!(a_container_fetches_a_page_from_another_node);

const PATIENCE: Duration = Duration::from_secs(20);
/// Of containerd: it names the control groups too, which are the machine's own.
const SPACE: &str = "weft-lab";
const IMAGE: &str = "localhost/busybox:1";
const PAGE: &str = "from the other node's container";

/// A containerd on a node, with its state in the node's directory. Dropping it ends what it started.
struct Containerd<'a> {
    node: &'a LabNode,
    dir: PathBuf,
    daemon: Process,
}

impl<'a> Containerd<'a> {
    fn start(node: &'a LabNode) -> Result<Self> {
        let dir = node.machine().node().dir().join("containerd");
        fs::create_dir_all(&dir)?;
        let at = |name: &str| dir.join(name).display().to_string();
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
             [grpc]\naddress = {:?}\n[ttrpc]\naddress = {:?}\n",
            at("root"),
            at("state"),
            at("socket"),
            at("socket.ttrpc"),
        );
        fs::write(dir.join("config.toml"), config)?;
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
            dir,
            daemon: Process::new(child),
        };
        eventually("containerd answers", PATIENCE, || this.ctr(&["version"]))
            .with_context(|| this.said())?;
        Ok(this)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = self.node.command("ctr");
        command
            .args(["--namespace", SPACE])
            .arg("--address")
            .arg(self.dir.join("socket"));
        command.args(words).stdin(Stdio::null());
        command
    }

    fn ctr(&self, words: &[&str]) -> Result<String> {
        let output = self.command(words).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            let errors = String::from_utf8_lossy(&output.stderr);
            bail!("ctr {}: {text}{errors}\n{}", words.join(" "), self.said());
        }
        Ok(text)
    }

    /// A container in the foreground of a `ctr` of its own.
    fn run(&self, name: &str, words: &[&str]) -> Result<Child> {
        let log = fs::File::create(self.dir.join(name))?;
        let mut command = self.command(&["run", "--rm", "--cni", IMAGE, name]);
        command.args(words).stdout(log.try_clone()?).stderr(log);
        Ok(command.spawn()?)
    }

    fn said(&self) -> String {
        let log = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let end = lines[lines.len().saturating_sub(12)..].join("\n");
        format!("containerd's log ends:\n{end}\n{}", self.node.said())
    }
}

impl Drop for Containerd<'_> {
    fn drop(&mut self) {
        // Shims and containers outlive their daemon, and would outlive the test.
        let tasks = self
            .dir
            .join("state/io.containerd.runtime.v2.task")
            .join(SPACE);
        for bundle in fs::read_dir(tasks).into_iter().flatten().flatten() {
            for (file, program) in [("init.pid", "busybox"), ("shim.pid", "containerd-shim")] {
                kill(&bundle.path().join(file), program);
            }
        }
        // It may have ended by itself, which is as good.
        let _ = self.daemon.stop(Duration::from_secs(5));
        for group in fs::read_dir("/sys/fs/cgroup")
            .into_iter()
            .flatten()
            .flatten()
        {
            // Only an empty one goes: the other node's containers may be in it.
            let _ = fs::remove_dir(group.path().join(SPACE));
        }
    }
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
    fs::create_dir_all("/opt/cni/bin")?;
    symlink(std::env::current_exe()?, "/opt/cni/bin/weft-cni")?;
    let net_d = Path::new("/etc/cni/net.d");
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

fn checked(command: &mut Command) -> Result<String> {
    let output = command.output()?;
    ensure(
        output.status.success(),
        format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr)),
    )?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// An image of busybox alone, as `docker save` would write it.
fn image() -> Result<PathBuf> {
    let dir = PathBuf::from("/run/weft-lab/image");
    let rootfs = dir.join("rootfs");
    for folder in ["bin", "www", "etc", "proc", "sys", "dev", "tmp"] {
        fs::create_dir_all(rootfs.join(folder))?;
    }
    fs::copy("/bin/busybox", rootfs.join("bin/busybox"))?;
    fs::write(rootfs.join("www/index.html"), PAGE)?;
    let tar = |file: &str, from: &Path, words: &[&str]| {
        let mut command = Command::new("tar");
        command
            .arg("-cf")
            .arg(dir.join(file))
            .arg("-C")
            .arg(from)
            .args(words);
        checked(&mut command)
    };
    tar("layer.tar", &rootfs, &["."])?;
    let sum = checked(Command::new("sha256sum").arg(dir.join("layer.tar")))?;
    let sum = sum.split_whitespace().next().context("no sum")?;
    let config = json!({
        "architecture": std::env::consts::ARCH.replace("x86_64", "amd64").replace("aarch64", "arm64"),
        "os": "linux",
        "config": { "Env": ["PATH=/bin"], "Cmd": ["/bin/busybox", "sleep", "600"] },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{sum}")] },
    });
    let manifest =
        json!([{ "Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"] }]);
    fs::write(dir.join("config.json"), config.to_string())?;
    fs::write(dir.join("manifest.json"), manifest.to_string())?;
    tar(
        "image.tar",
        &dir,
        &["manifest.json", "config.json", "layer.tar"],
    )?;
    Ok(dir.join("image.tar"))
}

/// The IPv4 address that a container of a node was given.
fn address(node: &LabNode, container: &str) -> Result<IpAddr> {
    let status = node.status()?;
    let leases = status["ipam"]["leases"].as_array().context("no leases")?;
    let lease = leases
        .iter()
        .find(|lease| lease["container_id"] == container);
    let first = lease.and_then(|lease| lease["addresses"][0].as_str());
    Ok(first.with_context(|| format!("{leases:?}"))?.parse()?)
}

fn no_leases(node: &LabNode) -> Result<()> {
    eventually("nothing is leased", PATIENCE, || {
        let leases = node.status()?["ipam"]["leases"].to_string();
        ensure(leases == "[]", leases)
    })
}

fn a_container_fetches_a_page_from_another_node() -> Result<()> {
    for program in ["containerd", "runc", "ctr", "busybox"] {
        have(program)?;
    }
    if !getuid().is_root()
        || fs::read_to_string("/proc/self/uid_map")?
            .trim_end()
            .ends_with(" 1")
    {
        return skip("containerd needs the machine's root, not a user namespace's");
    }
    configure()?;
    let lab = Lab::new()?;
    let nodes = lab.mesh(&["a", "b"])?;
    let image = image()?.display().to_string();
    let runtimes = [Containerd::start(&nodes[0])?, Containerd::start(&nodes[1])?];
    for runtime in &runtimes {
        runtime.ctr(&["image", "import", &image])?;
    }
    let serve = ["/bin/busybox", "httpd", "-f", "-p", "80", "-h", "/www"];
    let mut web = runtimes[0].run("web", &serve)?;
    let found = eventually("the container is attached", PATIENCE, || {
        if let Some(ended) = web.try_wait()? {
            let text = fs::read_to_string(runtimes[0].dir.join("web"))?;
            return Ok(Err(anyhow::anyhow!(
                "ctr ended: {ended}: {text}\n{}",
                runtimes[0].said()
            )));
        }
        address(&nodes[0], "weft-lab-web").map(Ok)
    })??;
    let url = format!("http://{found}/");
    let words = [
        "run",
        "--rm",
        "--cni",
        IMAGE,
        "fetch",
        "/bin/busybox",
        "wget",
        "-q",
        "-O",
        "-",
        &url,
    ];
    let page = eventually("the page is fetched", PATIENCE, || runtimes[1].ctr(&words))?;
    ensure(page == PAGE, format!("{page:?}"))?;
    no_leases(&nodes[1])?;
    runtimes[0].ctr(&["task", "kill", "--signal", "SIGKILL", "web"])?;
    web.wait()?;
    no_leases(&nodes[0])
}
