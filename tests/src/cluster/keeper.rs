//! The keeper: the process that a cluster lives in. It is alone with it in a process namespace, so
//! that the end of one process is the end of all.
//!
//! It comes to be in three steps, each an act of this same program. The *outer* stays outside,
//! waits for the rest to end and cleans up after it, however it ended. The *init* is the first process
//! of the namespace: it enters the other namespaces and reaps what nobody else does. The *inner*
//! builds the cluster and answers those who ask.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, ExitCode, Stdio};
use std::thread;

use anyhow::{Context, Result, bail};
use rustix::process::{WaitOptions, setsid, wait};
use serde::{Deserialize, Serialize};
use weft_router::demo::net::enter;

use super::call::{self, Call};
use super::standing::Standing;
use super::{Layout, Lifetime, Options};

/// The first argument of a keeper's process; the second is the act, the third the cluster's folder.
pub(crate) const KEEPER: &str = "--weft-cluster-keeper";
/// The line that ends what a keeper says of its start; a reason may follow it.
const UP: &str = "up";
const FAILED: &str = "failed: ";

/// What a keeper is told by a file in the cluster's folder.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Orders {
    pub(super) options: Options,
    /// The folder of upstream's programs.
    pub(super) programs: PathBuf,
    /// The archives of images that every node is given.
    pub(super) images: Vec<PathBuf>,
    pub(super) lifetime: Lifetime,
}

/// Does its act, if this process is a keeper's. To be called first thing in `main`, while the process
/// has one thread.
pub fn main() -> Option<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [first, act, dir] = &arguments[..] else {
        return None;
    };
    if first != KEEPER {
        return None;
    }
    let dir = Path::new(dir);
    let done = match &**act {
        "outer" => outer(dir),
        "init" => init(dir),
        "inner" => inner(dir),
        other => Err(anyhow::anyhow!("{other} is no act of a keeper")),
    };
    if let Err(error) = &done {
        // To the log, and to whoever waits for the start.
        eprintln!("{error:#}");
        tell(&format!("{FAILED}{error:#}"));
    }
    Some(if done.is_ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn outer(dir: &Path) -> Result<()> {
    // Ctrl-C at the terminal that it was started from is not for the cluster.
    let _ = setsid();
    let layout = Layout::in_dir(dir);
    let _lock = layout.lock()?;
    let group = layout.group();
    group.child("keeper").make()?;
    let ended = Command::new("unshare")
        .args(["--pid", "--fork", "--mount-proc", "--kill-child"])
        .arg(std::env::current_exe()?)
        .args([KEEPER, "init"])
        .arg(dir)
        .status()
        .context("run unshare");
    layout.clean()?;
    ended.map(drop)
}

fn init(dir: &Path) -> Result<()> {
    let program = std::env::current_exe()?;
    let layout = Layout::in_dir(dir);
    // From here on it is found and killed by its group, whatever becomes of the outer.
    layout.group().child("keeper").add(std::process::id())?;
    let entered = enter("weft-cluster")?;
    let inner = Command::new(program)
        .args([KEEPER, "inner"])
        .arg(dir)
        .current_dir(entered.dir)
        .spawn()
        .context("start the keeper")?;
    loop {
        // Orphans of the whole cluster end up here.
        let Some((ended, _)) = wait(WaitOptions::empty())? else {
            continue;
        };
        if ended.as_raw_nonzero().get().unsigned_abs() == inner.id() {
            return Ok(());
        }
    }
}

fn inner(dir: &Path) -> Result<()> {
    let layout = Layout::in_dir(dir);
    let orders: Orders = serde_json::from_slice(&fs::read(layout.orders())?)?;
    if orders.lifetime == Lifetime::Owner {
        end_with_owner()?;
    }
    let disks = std::env::current_dir()?;
    let socket = layout.socket();
    let mut standing = Standing::up(orders, layout, disks, tell)?;
    let listener =
        UnixListener::bind(&socket).with_context(|| format!("listen on {}", socket.display()))?;
    tell(UP);
    for stream in listener.incoming() {
        match call::serve(&stream?, |call| standing.answer(call)) {
            Ok(Call::Down) => break,
            Ok(_) => {}
            Err(error) => eprintln!("a caller: {error:#}"),
        }
    }
    // All that it started ends with it, which is quicker than one after the other.
    std::process::exit(0)
}

/// Ends this process when whoever started the cluster has ended.
fn end_with_owner() -> Result<()> {
    thread::Builder::new()
        .name("owner".to_owned())
        .spawn(move || {
            // Nothing is ever written, so this returns at the owner's end.
            let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
            std::process::exit(0);
        })?;
    Ok(())
}

/// Tells whoever waits for the start; later, nobody may be there.
fn tell(what: &str) {
    let _ = writeln!(std::io::stdout(), "{what}");
}

/// Starts the outer of a cluster, and passes on what is said until it is up. What is returned ends the
/// cluster when it is dropped, if its lifetime is its owner's.
pub(super) fn start(
    layout: &Layout,
    orders: &Orders,
    say: &mut dyn FnMut(&str),
) -> Result<Option<ChildStdin>> {
    fs::write(layout.orders(), serde_json::to_vec(orders)?)?;
    let log = super::log(&layout.logs(), "keeper")?;
    let mut child = Command::new("/proc/self/exe")
        .args([KEEPER, "outer"])
        .arg(layout.dir())
        .stdin(match orders.lifetime {
            Lifetime::Owner => Stdio::piped(),
            Lifetime::Detached => Stdio::null(),
        })
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .context("start the keeper")?;
    let owner = child.stdin.take();
    let output = child.stdout.take().context("the keeper's output")?;
    for line in BufReader::new(output).lines() {
        let line = line?;
        if line == UP {
            return Ok(owner);
        }
        if let Some(reason) = line.strip_prefix(FAILED) {
            // The outer cleans up; only then may the next one start.
            child.wait()?;
            bail!("{reason}\nlogs are in {}", layout.logs().display());
        }
        say(&line);
    }
    bail!("the keeper ended; logs are in {}", layout.logs().display())
}
