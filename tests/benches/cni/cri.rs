//! The same plugins as containerd runs them for a kubelet's pods, one pod after another. What is timed
//! is the plugin alone, from its start to its end: a pod takes its runtime far longer.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use weft_tests::lab::LabNode;
use weft_tests::runtime::{Cri, Networks};

use super::{DIR, percentile, ptp_ipam};

/// Under which names this program stands in for a plugin.
const TIMED: [&str; 2] = ["weft-cni", "ptp"];

/// Where a runtime calls this program as a plugin: runs that plugin, and notes how long it took.
pub(super) fn stand_in() -> Option<ExitCode> {
    let own = PathBuf::from(std::env::args_os().next()?);
    let name = own.file_name()?.to_str()?;
    if !TIMED.contains(&name) {
        return None;
    }
    let dir = own.parent()?;
    let began = Instant::now();
    let done = Command::new(dir.join("real").join(name)).status();
    let took = began.elapsed();
    let verb = std::env::var("CNI_COMMAND").unwrap_or_default();
    let line = format!("{verb} {}\n", took.as_nanos());
    let times = OpenOptions::new()
        .append(true)
        .create(true)
        .open(dir.join("times"));
    let noted = times.and_then(|mut times| times.write_all(line.as_bytes()));
    let good = noted.is_ok() && done.is_ok_and(|status| status.success());
    Some(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// A runtime whose pods one plugin attaches.
pub(super) struct Side {
    cri: Cri,
    bin: PathBuf,
    name: &'static str,
}

impl Side {
    pub(super) fn weft(node: &LabNode, image: &Path, plugin: &Path) -> Result<Self> {
        let ours = json!({ "type": "weft-cni", "socket": node.machine().socket() });
        Self::new(
            "weft-cni",
            node,
            image,
            &[("weft-cni", plugin), ("loopback", plugin)],
            &ours,
        )
    }

    pub(super) fn ptp(node: &LabNode, image: &Path, tools: &Path, plugin: &Path) -> Result<Self> {
        let host_local = tools.join("host-local");
        let programs = [
            ("ptp", &*tools.join("ptp")),
            ("host-local", &host_local),
            ("loopback", plugin),
        ];
        let theirs = json!({ "type": "ptp", "ipam": ptp_ipam("10.98.0.0/24") });
        Self::new("ptp", node, image, &programs, &theirs)
    }

    fn new(
        name: &'static str,
        node: &LabNode,
        image: &Path,
        programs: &[(&str, &Path)],
        plugin: &serde_json::Value,
    ) -> Result<Self> {
        let dir = Path::new(DIR).join("cri").join(name);
        let (bin, conf) = (dir.join("bin"), dir.join("net.d"));
        fs::create_dir_all(bin.join("real"))?;
        fs::create_dir_all(&conf)?;
        for (program, file) in programs {
            let place = match TIMED.contains(program) {
                true => {
                    symlink(std::env::current_exe()?, bin.join(program))?;
                    bin.join("real").join(program)
                }
                false => bin.join(program),
            };
            symlink(file, place)?;
        }
        let list = json!({ "cniVersion": "1.0.0", "name": "bench", "plugins": [plugin] });
        fs::write(conf.join("10.conflist"), list.to_string())?;
        let networks = Networks {
            name: format!("containerd-{name}"),
            bin_dir: bin.clone(),
            conf_dir: conf,
        };
        let cri = Cri::start(node, image, &networks)?;
        Ok(Self { cri, bin, name })
    }

    /// A pod that comes and goes.
    pub(super) fn pod(&self, round: usize) -> Result<()> {
        let pod = self.cri.pod(&format!("{}-{round}", self.name))?;
        self.cri.run(&["stopp", &pod])?;
        self.cri.run(&["rmp", &pod]).map(drop)
    }

    /// How long the plugin took: ADD, and DEL where it had something to take away.
    pub(super) fn times(&self, rounds: usize) -> Result<[Vec<Duration>; 2]> {
        let text = fs::read_to_string(self.bin.join("times")).context("no plugin was called")?;
        let of = |verb: &str| -> Result<Vec<Duration>> {
            let lines = text.lines().filter_map(|line| line.strip_prefix(verb));
            lines
                .map(|nanos| Ok(Duration::from_nanos(nanos.trim().parse()?)))
                .collect()
        };
        let times = [of("ADD")?, of("DEL")?];
        ensure!(
            times[0].len() == rounds && times[1].len() >= rounds,
            "{} was called for ADD {} times and for DEL {} times in {rounds} pods",
            self.name,
            times[0].len(),
            times[1].len()
        );
        Ok(times)
    }
}

/// Prints the table; whether the target is met.
pub(super) fn report(sides: [[Vec<Duration>; 2]; 2], most: f64) -> bool {
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let [mut ours, mut theirs] = sides;
    println!("| by containerd | weft, ms | ptp + host-local, ms | ratio | at most |");
    println!("|---------------|---------:|---------------------:|------:|--------:|");
    let mut good = true;
    for (at, verb) in ["ADD", "DEL"].into_iter().enumerate() {
        let [ours, theirs] =
            [&mut ours[at], &mut theirs[at]].map(|times| ms(percentile(times, 50)));
        let ratio = ours / theirs;
        println!("| {verb} p50       | {ours:8.2} | {theirs:20.2} | {ratio:5.2} | {most:>7} |");
        good &= ratio <= most;
    }
    good
}
