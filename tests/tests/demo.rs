//! `weft demo`, run as its reader runs it.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::mount::{MountFlags, mount};
use serde_json::Value;
use weft_tests::lab::{ensure, eventually};
use weft_tests::lab_tests;

lab_tests!(
    three_nodes_one_page_and_nothing_in_the_clear,
    more_nodes_are_as_good,
    a_number_of_nodes_out_of_range_is_refused,
    a_step_that_fails_gives_its_reason_and_an_exit_code,
    what_is_kept_ends_with_the_demo_however_it_ends,
    nothing_is_left_behind,
);

fn demo(arguments: &[&str]) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("weft")
        .arg("demo")
        .args(arguments)
        .stdin(Stdio::null());
    command
}

fn report(output: &Output) -> Result<Value> {
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text).with_context(|| {
        let errors = String::from_utf8_lossy(&output.stderr);
        format!("no JSON object: {text:?}; standard error: {errors}")
    })
}

fn passes(nodes: &str) -> Result<()> {
    let output = demo(&["--json", "--nodes", nodes]).output()?;
    let report = report(&output)?;
    let good = output.status.success()
        && report["ok"] == true
        && report["plaintext_packets"] == 0
        && report["mesh_ms"].as_f64().is_some_and(|ms| ms > 0.0);
    ensure(good, format!("{report:#}"))?;
    let steps = report["steps"].as_array().context("no steps")?;
    let names: Vec<&str> = steps
        .iter()
        .filter_map(|step| step["name"].as_str())
        .collect();
    let want = [
        "namespaces",
        "underlay",
        "capture",
        "mesh",
        "pods",
        "name",
        "page",
        "sealed",
        "clean-up",
    ];
    ensure(names == want, format!("the steps are {names:?}"))
}

fn three_nodes_one_page_and_nothing_in_the_clear() -> Result<()> {
    passes("3")
}

fn more_nodes_are_as_good() -> Result<()> {
    passes("8")
}

fn a_number_of_nodes_out_of_range_is_refused() -> Result<()> {
    for wrong in ["1", "51", "many"] {
        let output = demo(&["--nodes", wrong]).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        let good = !output.status.success() && said.contains("--nodes");
        ensure(good, format!("--nodes {wrong}: {} {said}", output.status))?;
    }
    Ok(())
}

fn a_step_that_fails_gives_its_reason_and_an_exit_code() -> Result<()> {
    // The device is gone for this test's processes alone.
    mount("none", "/dev/net", "tmpfs", MountFlags::empty(), None)?;
    let output = demo(&["--json"]).output()?;
    let report = report(&output)?;
    let step = &report["steps"][0];
    let good = !output.status.success() && report["ok"] == false && step["ok"] == false;
    ensure(good, format!("{report:#}"))?;
    let reason = step["detail"].as_str().unwrap_or_default();
    ensure(
        reason.contains("/dev/net/tun"),
        format!("the reason is {reason:?}"),
    )
}

fn what_is_kept_ends_with_the_demo_however_it_ends() -> Result<()> {
    let mut child = demo(&["--keep", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let out = child.stdout.take().context("no standard output")?;
    let mut line = String::new();
    BufReader::new(out).read_line(&mut line)?;
    let report: Value = serde_json::from_str(&line)?;
    ensure(report["ok"] == true, format!("{report:#}"))?;
    let said = child.stderr.take().context("no standard error")?;
    let mut agents = Vec::new();
    for line in BufReader::new(said).lines() {
        let line = line?;
        if let Some(rest) = line.trim().strip_prefix("nsenter -t ") {
            let pid = rest.split(' ').next().context("no process number")?;
            agents.push(pid.to_owned());
        }
        if agents.len() == 3 {
            break;
        }
    }
    ensure(agents.len() == 3, format!("the ways in are to {agents:?}"))?;
    child.kill()?;
    child.wait()?;
    eventually("the agents are gone", Duration::from_secs(5), || {
        for pid in &agents {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            ensure(stat.is_empty() || stat.contains(") Z "), stat)?;
        }
        Ok(())
    })
}

fn nothing_is_left_behind() -> Result<()> {
    let seen = || -> Result<[String; 3]> {
        let mut folders: Vec<String> = ["/run", "/tmp", "/var/lib", "/etc"]
            .into_iter()
            .filter_map(|folder| std::fs::read_dir(folder).ok())
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path().display().to_string()))
            .filter(|path| path.contains("weft") || path.contains("netns"))
            .collect();
        folders.sort();
        Ok([
            std::fs::read_to_string("/proc/self/mounts")?,
            std::fs::read_to_string("/proc/net/route")?,
            folders.join("\n"),
        ])
    };
    let before = seen()?;
    passes("2")?;
    let after = seen()?;
    ensure(before == after, format!("{before:?}\nis now\n{after:?}"))
}
