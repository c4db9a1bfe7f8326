//! The benchmark of the plugin: ADD and DEL against the newest `ptp` with `host-local`, one after
//! the other by turns, both by CNI's own cnitool; 20 ADDs at once; and both as containerd runs them.
//!
//! `.ci/tools && cargo bench -p weft-tests --bench cni [-- --rounds N]`

mod cri;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::mount::{MountFlags, mount};
use serde_json::json;
use weft_router::demo::net::{Netns, enter};
use weft_tests::bench::exit;
use weft_tests::lab::{Lab, LabNode, eventually};
use weft_tests::tools::target;

const ROUNDS: usize = 200;
/// Namespaces that each side takes in turn, as containers that come and go would.
const NAMESPACES: usize = 20;
const MOST_RATIO: f64 = 0.5;
const MOST_AT_ONCE: Duration = Duration::from_millis(400);
const DIR: &str = "/run/weft-lab/bench";

fn main() -> ExitCode {
    // The lab starts agents from this very executable, by name.
    if std::env::args().next().is_some_and(|name| name == "weft") {
        return weft_router::cli::main();
    }
    if let Some(code) = cri::stand_in() {
        return code;
    }
    exit(bench())
}

fn bench() -> Result<bool> {
    let rounds = rounds()?;
    let target = target()?;
    let plugin = plugin(&target)?;
    let tools = target.join("tools");
    for tool in ["cnitool", "ptp", "host-local", "crictl"] {
        if !tools.join(tool).is_file() {
            eprintln!(
                "SKIPPED: {} is missing; run .ci/tools",
                tools.join(tool).display()
            );
            return Ok(true);
        }
    }
    enter("weft-lab")?;
    // libcni keeps its results there; ours are not the host's.
    mount(
        "bench",
        "/var/lib",
        "tmpfs",
        MountFlags::empty(),
        c"mode=0755",
    )?;
    let image = weft_tests::runtime::prepare()?;
    let lab = Lab::new()?;
    let mut node = lab.node("a")?;
    node.up(&[])?;
    let ours = Side::weft(&node, &tools, &plugin)?;
    let theirs = Side::ptp(&tools)?;
    eventually("the node is ready", Duration::from_secs(20), || {
        ours.run(&node, "add", &ours.namespaces[0])?;
        ours.run(&node, "del", &ours.namespaces[0])
    })?;
    let mut times: [Vec<Duration>; 4] = Default::default();
    for round in 0..rounds {
        // By turns first, so that what one leaves to be done is paid by both alike.
        let sides = [(&ours, 0), (&theirs, 2)];
        let order = if round % 2 == 0 { [0, 1] } else { [1, 0] };
        for (side, at) in order.map(|which| sides[which]) {
            let netns = &side.namespaces[round % NAMESPACES];
            times[at].push(side.timed(&node, "add", netns)?);
            times[at + 1].push(side.timed(&node, "del", netns)?);
        }
    }
    let at_once = [ours.at_once(&node)?, theirs.at_once(&node)?];
    let good = report(&mut times, at_once);

    let sides = [
        cri::Side::weft(&node, &image, &plugin)?,
        cri::Side::ptp(&node, &image, &tools, &plugin)?,
    ];
    for round in 0..rounds {
        let order = if round % 2 == 0 { [0, 1] } else { [1, 0] };
        for which in order {
            sides[which].pod(round)?;
        }
    }
    let times = [sides[0].times(rounds)?, sides[1].times(rounds)?];
    Ok(cri::report(times, MOST_RATIO) && good)
}

/// How many rounds are asked for. `--bench` is what cargo adds.
fn rounds() -> Result<usize> {
    let mut rest = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench");
    match (rest.next().as_deref(), rest.next()) {
        (None, _) => Ok(ROUNDS),
        (Some("--rounds"), Some(number)) => Ok(usize::max(number.parse().context("--rounds")?, 1)),
        (Some(other), _) => bail!("{other} is not known here; --rounds N is"),
    }
}

/// The plugin as it is shipped, static, which no dependency builds.
fn plugin(target: &Path) -> Result<PathBuf> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let built = Command::new(cargo)
        .args(["build", "--quiet", "--release", "--target", &platform])
        .args(["-p", "weft-cni", "--bin", "weft-cni"])
        .env("CARGO_TARGET_DIR", target)
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .status()
        .context("build the plugin")?;
    if !built.success() {
        bail!("build the plugin: {built}");
    }
    Ok(target.join(platform).join("release/weft-cni"))
}

fn ptp_ipam(subnet: &str) -> serde_json::Value {
    json!({
        "type": "host-local",
        "dataDir": format!("{DIR}/host-local"),
        "ranges": [[{ "subnet": subnet }]],
        "routes": [{ "dst": "0.0.0.0/0" }],
    })
}

/// A plugin with its configuration and the namespaces it works on.
struct Side {
    cnitool: PathBuf,
    conf: PathBuf,
    path: String,
    namespaces: Vec<Netns>,
}

impl Side {
    fn weft(node: &LabNode, tools: &Path, plugin: &Path) -> Result<Self> {
        let dir = plugin.parent().context("the plugin has no directory")?;
        let ours = json!({ "type": "weft-cni", "socket": node.machine().socket() });
        Self::new("weft", tools, dir, &ours)
    }

    /// IPv4 alone, against both families of ours: with IPv6 it waits 1.8 s for the kernel to find no
    /// other node of the same address, which would make the comparison worth nothing.
    fn ptp(tools: &Path) -> Result<Self> {
        let ipam = ptp_ipam("10.99.0.0/24");
        Self::new("ptp", tools, tools, &json!({ "type": "ptp", "ipam": ipam }))
    }

    fn new(name: &str, tools: &Path, bin: &Path, plugin: &serde_json::Value) -> Result<Self> {
        let conf = Path::new(DIR).join(name);
        std::fs::create_dir_all(&conf)?;
        let list = json!({ "cniVersion": "1.0.0", "name": "bench", "plugins": [plugin] });
        std::fs::write(conf.join("10.conflist"), list.to_string())?;
        let namespaces: Result<_, _> = (0..NAMESPACES)
            .map(|count| Netns::new(&format!("{name}{count}")))
            .collect();
        Ok(Self {
            cnitool: tools.join("cnitool"),
            conf,
            path: bin.display().to_string(),
            namespaces: namespaces?,
        })
    }

    fn run(&self, node: &LabNode, verb: &str, netns: &Netns) -> Result<()> {
        let output = node
            .machine()
            .node()
            .command(&self.cnitool)
            .args([verb, "bench"])
            .arg(netns.path())
            .env("NETCONFPATH", &self.conf)
            .env("CNI_PATH", &self.path)
            .stdin(Stdio::null())
            .output()?;
        if !output.status.success() {
            let said = [output.stdout, output.stderr].concat();
            bail!(
                "{verb} of {}: {}",
                self.path,
                String::from_utf8_lossy(&said)
            );
        }
        Ok(())
    }

    fn timed(&self, node: &LabNode, verb: &str, netns: &Netns) -> Result<Duration> {
        let began = Instant::now();
        self.run(node, verb, netns)?;
        Ok(began.elapsed())
    }

    /// All namespaces attached at once: until the last is done.
    fn at_once(&self, node: &LabNode) -> Result<Duration> {
        let began = Instant::now();
        thread::scope(|scope| -> Result<()> {
            let calls: Vec<_> = self
                .namespaces
                .iter()
                .map(|netns| scope.spawn(move || self.run(node, "add", netns)))
                .collect();
            for call in calls {
                call.join()
                    .map_err(|_| anyhow::anyhow!("a call panicked"))??;
            }
            Ok(())
        })?;
        let took = began.elapsed();
        for netns in &self.namespaces {
            self.run(node, "del", netns)?;
        }
        Ok(took)
    }
}

/// Prints the table; whether all targets are met.
fn report(times: &mut [Vec<Duration>; 4], at_once: [Duration; 2]) -> bool {
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let [weft_add, weft_del, ptp_add, ptp_del] = times;
    println!("|              | weft, ms | ptp + host-local, ms | ratio | at most |");
    println!("|--------------|---------:|---------------------:|------:|--------:|");
    let mut good = true;
    for (verb, ours, theirs) in [("ADD", weft_add, ptp_add), ("DEL", weft_del, ptp_del)] {
        for (which, at) in [("p50", 50), ("p99", 99)] {
            let [ours, theirs] = [percentile(ours, at), percentile(theirs, at)].map(ms);
            let ratio = ours / theirs;
            let most = if at == 50 {
                format!("{MOST_RATIO}")
            } else {
                String::new()
            };
            println!(
                "| {verb} {which}      | {ours:8.2} | {theirs:20.2} | {ratio:5.2} | {most:>7} |"
            );
            good &= at != 50 || ratio <= MOST_RATIO;
        }
    }
    let [ours, theirs] = at_once.map(ms);
    let (ratio, most) = (ours / theirs, MOST_AT_ONCE.as_millis());
    println!("| 20 at once   | {ours:8.0} | {theirs:20.0} | {ratio:5.2} | {most:>4} ms |");
    good && at_once[0] <= MOST_AT_ONCE
}

fn percentile(times: &mut [Duration], percent: usize) -> Duration {
    times.sort();
    times[(times.len() - 1) * percent / 100]
}
