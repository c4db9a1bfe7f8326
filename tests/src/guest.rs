//! A guest with a kernel that has WireGuard, for what the kernel of this machine may not have. The
//! guest runs one program of ours, `weft-guest`; they talk by lines on its serial port.

mod archive;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::lab::have;
use crate::runner::skip;
use archive::Archive;

/// What the guest's lines begin with; the rest of the serial port is the kernel's.
pub const SAYS: &str = "weft: ";
/// Keys have been changed after so long: the paper's REKEY_AFTER_TIME is 120 s.
pub const REKEYED: Duration = Duration::from_secs(126);
/// Where `.ci/guest-kernel` puts the kernel, unless the variable says otherwise.
const DEFAULT: &str = "target/guest";
const VARIABLE: &str = "WEFT_GUEST_KERNEL";
const MEMORY_MB: &str = "384";

/// An echo server, until its socket fails.
pub fn answer(socket: &UdpSocket) {
    let mut buffer = [0; 2048];
    while let Ok((len, source)) = socket.recv_from(&mut buffer) {
        // What is lost is asked for again, or counted.
        let _ = socket.send_to(&buffer[..len], source);
    }
}

/// Asks an echo server ten times a second for so long; how often nothing came back, after the first
/// answer.
///
/// # Errors
/// When there never was one, or the socket fails.
pub fn echoes(socket: &UdpSocket, to: SocketAddr, time: Duration) -> Result<u64> {
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    let began = Instant::now();
    let mut answered = false;
    let (mut number, mut lost) = (0_u64, 0);
    let mut buffer = [0; 64];
    while began.elapsed() < time {
        number += 1;
        socket.send_to(&number.to_be_bytes(), to)?;
        // One of before may come late.
        let come = loop {
            match socket.recv(&mut buffer) {
                Ok(8) if buffer[..8] == number.to_be_bytes() => break true,
                Ok(_) => {}
                Err(_) => break false,
            }
        };
        answered |= come;
        lost += u64::from(answered && !come);
        thread::sleep(Duration::from_millis(100));
    }
    ensure!(answered, "{to} never answered");
    Ok(lost)
}

/// A running guest. Dropped, it is switched off.
#[derive(Debug)]
pub struct Guest {
    child: Child,
    input: ChildStdin,
    lines: Receiver<String>,
    /// What it printed so far, for whoever asks why it failed.
    heard: Vec<String>,
}

impl Guest {
    /// Boots `program` as the init of a guest whose `eth0` is the TAP device `tap`.
    ///
    /// # Errors
    /// A skip where qemu, busybox or the kernel is missing.
    pub fn boot(program: &Path, tap: &str) -> Result<Self> {
        have("qemu-system-x86_64")?;
        let busybox = busybox()?;
        let kernel = kernel()?;
        let folder = tempfile::tempdir()?;
        let archive = folder.path().join("initrd");
        fs::write(&archive, archive_of(program, &busybox, &kernel)?)?;

        let mut child = Command::new("qemu-system-x86_64")
            .args(["-accel", "tcg", "-cpu", "max", "-M", "pc", "-m", MEMORY_MB])
            .args([
                "-nodefaults",
                "-no-user-config",
                "-no-reboot",
                "-display",
                "none",
            ])
            .args(["-serial", "stdio"])
            .args(["-device", "virtio-net-pci,netdev=n0,romfile="])
            .arg("-netdev")
            .arg(format!("tap,id=n0,ifname={tap},script=no,downscript=no"))
            .arg("-kernel")
            .arg(kernel.join("vmlinuz"))
            .arg("-initrd")
            .arg(&archive)
            .args([
                "-append",
                "console=ttyS0 panic=-1 mitigations=off tsc=reliable quiet",
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .context("start qemu-system-x86_64")?;
        let input = child.stdin.take().context("qemu's input")?;
        let output = child.stdout.take().context("qemu's output")?;
        let (sender, lines) = channel();
        thread::spawn(move || {
            // The archive stays until qemu has ended.
            let _folder = folder;
            for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).trim_end().to_owned();
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self {
            child,
            input,
            lines,
            heard: Vec::new(),
        })
    }

    /// Waits until the guest says `word`.
    ///
    /// # Errors
    /// When it says that it failed, ends, or is silent for so long.
    pub fn wait(&mut self, word: &str, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(line) = self.lines.recv_timeout(left) else {
                bail!(
                    "the guest did not say {word:?}; it said:\n{}",
                    self.heard.join("\n")
                );
            };
            let said = line.split_once(SAYS).map(|(_, said)| said.to_owned());
            self.heard.push(line);
            match said {
                Some(said) if said == word => return Ok(()),
                Some(said) if said.starts_with("failed") => {
                    bail!("the guest {said}\n{}", self.heard.join("\n"))
                }
                _ => {}
            }
        }
    }

    /// Lets the guest go on.
    ///
    /// # Errors
    /// When it has ended.
    pub fn go(&mut self) -> Result<()> {
        self.tell("go")
    }

    /// Tells the guest a word.
    ///
    /// # Errors
    /// When it has ended.
    pub fn tell(&mut self, word: &str) -> Result<()> {
        self.input
            .write_all(format!("{word}\n").as_bytes())
            .context("write to the guest's serial port")
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The folder with `vmlinuz` and `modules/`, the modules named in the order in which they load.
fn kernel() -> Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("the workspace")?;
    let folder = std::env::var_os(VARIABLE).map_or_else(|| root.join(DEFAULT), PathBuf::from);
    if !folder.join("vmlinuz").exists() {
        let place = folder.display();
        return skip(format!(
            "there is no guest kernel in {place}: .ci/guest-kernel fetches one"
        ));
    }
    Ok(folder)
}

/// The program that configures the guest's interfaces; a static one, for there is nothing else.
fn busybox() -> Result<PathBuf> {
    let places = ["/bin/busybox", "/usr/bin/busybox"].map(PathBuf::from);
    let found = places.into_iter().find(|place| place.exists());
    found.map_or_else(|| skip("busybox is not installed"), Ok)
}

fn archive_of(program: &Path, busybox: &Path, kernel: &Path) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for folder in ["dev", "proc", "sys", "bin", "modules"] {
        archive.folder(folder);
    }
    archive.console("dev/console");
    archive.file("init", &fs::read(program)?);
    archive.file("bin/busybox", &fs::read(busybox)?);
    for entry in fs::read_dir(kernel.join("modules"))? {
        let path = entry?.path();
        let name = path
            .file_name()
            .context("a module's name")?
            .to_string_lossy()
            .into_owned();
        archive.file(&format!("modules/{name}"), &fs::read(&path)?);
    }
    for library in libraries(program)? {
        let inside = library.to_string_lossy().trim_start_matches('/').to_owned();
        archive.file(&inside, &fs::read(&library)?);
    }
    Ok(archive.finish())
}

/// The shared libraries that the program needs, the loader among them; none for a static one.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd")
        .arg(program)
        .output()
        .context("run ldd")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let paths: Vec<_> = text
        .lines()
        .flat_map(str::split_whitespace)
        .filter(|word| word.starts_with('/'))
        .map(PathBuf::from)
        .collect();
    let is_static = text.contains("not a dynamic") || text.contains("statically linked");
    ensure!(
        !paths.is_empty() || is_static || !output.status.success(),
        "ldd said: {text}"
    );
    Ok(paths)
}
