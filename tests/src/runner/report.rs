//! Starts the tests' processes, a few at once, and prints what became of them.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::arguments::Arguments;
use super::child::{REASON, SKIPPED};
use super::{LIMIT, ONE, Test};

/// How often the running processes are looked at.
const TICK: Duration = Duration::from_millis(5);

struct Running {
    name: &'static str,
    limit: Duration,
    alone: bool,
    child: Child,
    /// Where its output goes; `None` where it is not kept.
    output: Option<File>,
    since: Instant,
}

enum Ended {
    Passed,
    Failed(String),
    Skipped(String),
}

#[derive(Default)]
struct Tally {
    passed: usize,
    failed: Vec<(&'static str, String, String)>,
    skipped: Vec<(&'static str, String)>,
}

pub(super) fn run(tests: &[Test], filtered: usize, arguments: &Arguments) -> ExitCode {
    let started = Instant::now();
    println!(
        "\nrunning {} test{}",
        tests.len(),
        if tests.len() == 1 { "" } else { "s" }
    );
    let at_once = arguments
        .threads
        .or_else(|| std::env::var("RUST_TEST_THREADS").ok()?.parse().ok())
        .or_else(|| thread::available_parallelism().ok().map(usize::from))
        .unwrap_or(1)
        .max(1);
    let mut waiting: VecDeque<&Test> = tests.iter().collect();
    let mut running: Vec<Running> = Vec::new();
    let mut tally = Tally::default();
    while !waiting.is_empty() || !running.is_empty() {
        // Who waits for minutes takes nobody's place.
        while running.iter().filter(|test| test.limit == LIMIT).count() < at_once
            && waiting
                .front()
                .is_some_and(|test| may_start(test, &running))
            && let Some(test) = waiting.pop_front()
        {
            match start(test, arguments) {
                Ok(process) => running.push(process),
                Err(error) => tally.add(test.name, Ended::Failed(error.to_string()), String::new()),
            }
        }
        let mut at = 0;
        while at < running.len() {
            if let Some(ended) = look(&mut running[at]) {
                let process = running.swap_remove(at);
                let (ended, output) = finish(process.output, ended);
                tally.add(process.name, ended, output);
            } else {
                at += 1;
            }
        }
        thread::sleep(TICK);
    }
    tally.close(filtered, started.elapsed())
}

fn may_start(test: &Test, running: &[Running]) -> bool {
    running.is_empty() || !test.alone && running.iter().all(|other| !other.alone)
}

fn start(test: &Test, arguments: &Arguments) -> io::Result<Running> {
    let mut command = Command::new("/proc/self/exe");
    command.args([ONE, test.name]).stdin(Stdio::null());
    let output = if arguments.nocapture {
        None
    } else {
        let file = tempfile::tempfile()?;
        command.stdout(file.try_clone()?).stderr(file.try_clone()?);
        Some(file)
    };
    Ok(Running {
        name: test.name,
        limit: test.limit,
        alone: test.alone,
        child: command.spawn()?,
        output,
        since: Instant::now(),
    })
}

/// How the process ended, if it has; one that is over its time is killed.
fn look(process: &mut Running) -> Option<Result<ExitStatus, String>> {
    match process.child.try_wait() {
        Ok(Some(status)) => Some(Ok(status)),
        Ok(None) if process.since.elapsed() > process.limit => {
            // It may end at this very moment, which is as good.
            let _ = process.child.kill();
            let _ = process.child.wait();
            Some(Err(format!("not done after {} s", process.limit.as_secs())))
        }
        Ok(None) => None,
        Err(error) => Some(Err(error.to_string())),
    }
}

fn finish(output: Option<File>, ended: Result<ExitStatus, String>) -> (Ended, String) {
    let mut bytes = Vec::new();
    if let Some(mut file) = output {
        // What cannot be read is missing from the report, where it will be noticed.
        let _ = file.rewind().and_then(|()| file.read_to_end(&mut bytes));
    }
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let ended = match ended {
        Ok(status) if status.success() => Ended::Passed,
        Ok(status) if status.code() == Some(i32::from(SKIPPED)) => {
            let reason = text
                .lines()
                .rev()
                .find_map(|line| line.strip_prefix(REASON));
            Ended::Skipped(reason.unwrap_or("of a reason that it printed").to_owned())
        }
        Ok(status) => Ended::Failed(match status.signal() {
            Some(signal) => format!("ended by signal {signal}"),
            None => String::new(),
        }),
        Err(reason) => Ended::Failed(reason),
    };
    (ended, text)
}

impl Tally {
    fn add(&mut self, name: &'static str, ended: Ended, output: String) {
        match ended {
            Ended::Passed => {
                println!("test {name} ... ok");
                self.passed += 1;
            }
            Ended::Skipped(reason) => {
                println!("test {name} ... ignored, {reason}");
                self.skipped.push((name, reason));
            }
            Ended::Failed(reason) => {
                println!("test {name} ... FAILED");
                self.failed.push((name, reason, output));
            }
        }
    }

    fn close(self, filtered: usize, took: Duration) -> ExitCode {
        if !self.failed.is_empty() {
            println!("\nfailures:\n");
            for (name, reason, output) in &self.failed {
                println!("---- {name} stdout ----\n{output}{reason}\n");
            }
            println!("\nfailures:");
            for (name, ..) in &self.failed {
                println!("    {name}");
            }
        }
        for (name, reason) in &self.skipped {
            println!("SKIPPED: {name}: {reason}");
        }
        let good = self.failed.is_empty();
        println!(
            "\ntest result: {}. {} passed; {} failed; {} ignored; 0 measured; {filtered} filtered out; finished in {:.2}s\n",
            if good { "ok" } else { "FAILED" },
            self.passed,
            self.failed.len(),
            self.skipped.len(),
            took.as_secs_f64(),
        );
        // 101 is what a failed run of Rust's own runner exits with.
        if good {
            ExitCode::SUCCESS
        } else {
            ExitCode::from(101)
        }
    }
}
