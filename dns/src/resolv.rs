//! `/etc/resolv.conf`: what the host says of its name servers. It asks nobody anything.

use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// How often at most the file is looked at.
const EVERY: Duration = Duration::from_secs(5);
/// More of a file than this is not read.
const MAX_BYTES: u64 = 64 << 10;
/// More name servers than these are not asked; glibc asks three.
const MAX_SERVERS: usize = 8;

/// What a resolv.conf says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvConf {
    pub servers: Vec<IpAddr>,
    pub search: Vec<String>,
    /// Names with fewer dots are tried below `search` first: 0 to 15.
    pub ndots: u8,
    /// How long one server is waited for, if the file says so: 1 to 30 s.
    pub timeout: Option<Duration>,
    /// How often each server is asked: 1 to 5.
    pub attempts: u8,
    /// Lines that were not understood.
    pub ignored: usize,
}

impl Default for ResolvConf {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            search: Vec::new(),
            ndots: 1,
            timeout: None,
            attempts: 2,
            ignored: 0,
        }
    }
}

impl ResolvConf {
    /// Reads the text of a resolv.conf. A line that makes no sense is counted and passed over.
    pub fn parse(text: &str) -> Self {
        let mut conf = Self::default();
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            let understood = match words.next() {
                None => true,
                Some(word) if word.starts_with(['#', ';']) => true,
                Some("nameserver") => conf.server(words.next()),
                // The last of the two keywords holds, as in resolv.conf(5).
                Some("search" | "domain") => {
                    conf.search = words.map(str::to_owned).collect();
                    !conf.search.is_empty()
                }
                Some("options") => {
                    words.for_each(|word| conf.option(word));
                    true
                }
                Some("sortlist") => true,
                Some(_) => false,
            };
            conf.ignored += usize::from(!understood);
        }
        conf
    }

    /// Reads a file, at most 64 KiB of it.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(path: &Path) -> io::Result<Self> {
        let mut bytes = Vec::new();
        File::open(path)?.take(MAX_BYTES).read_to_end(&mut bytes)?;
        Ok(Self::parse(&String::from_utf8_lossy(&bytes)))
    }

    fn server(&mut self, word: Option<&str>) -> bool {
        // TODO(correctness): a link-local server with its scope, `fe80::1%eth0`.
        let Some(Ok(address)) = word.map(str::parse) else {
            return false;
        };
        if self.servers.len() < MAX_SERVERS && !self.servers.contains(&address) {
            self.servers.push(address);
        }
        true
    }

    fn option(&mut self, word: &str) {
        let Some((name, value)) = word.split_once(':') else {
            return;
        };
        let Ok(value) = value.parse::<u32>() else {
            return;
        };
        match name {
            "ndots" => self.ndots = value.min(15) as u8,
            "timeout" => self.timeout = Some(Duration::from_secs(value.clamp(1, 30).into())),
            "attempts" => self.attempts = value.clamp(1, 5) as u8,
            _ => {}
        }
    }

    /// The servers with the port of DNS.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.servers
            .iter()
            .map(|address| SocketAddr::new(*address, 53))
            .collect()
    }
}

/// A resolv.conf on disk, read again when it changes.
#[derive(Debug)]
pub struct ResolvFile {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    looked: Option<Instant>,
    stamp: Option<Stamp>,
    conf: ResolvConf,
}

/// What tells one state of the file from another: two writes may share a clock tick, and a file
/// renamed into place may be older than the one it replaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    modified: SystemTime,
    size: u64,
    inode: u64,
}

impl ResolvFile {
    /// The file is first read when it is first asked for.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            state: Mutex::default(),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the file says, as of at most 5 s before `now`. While it is away or cannot be read,
    /// what it said last.
    pub fn conf(&self, now: Instant) -> ResolvConf {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = |looked: Instant| now.saturating_duration_since(looked) < EVERY;
        if !state.looked.is_some_and(fresh) {
            state.looked = Some(now);
            self.look(&mut state);
        }
        state.conf.clone()
    }

    fn look(&self, state: &mut State) {
        let Ok(stamp) = stamp(&self.path) else { return };
        if state.stamp == Some(stamp) {
            return;
        }
        let Ok(conf) = ResolvConf::read(&self.path) else {
            return;
        };
        state.stamp = Some(stamp);
        state.conf = conf;
        let servers = &state.conf.servers;
        tracing::info!(path = %self.path.display(), ?servers, "name servers read");
        if state.conf.ignored > 0 {
            let lines = state.conf.ignored;
            tracing::warn!(path = %self.path.display(), lines, "lines not understood");
        }
    }
}

fn stamp(path: &Path) -> io::Result<Stamp> {
    let metadata = std::fs::metadata(path)?;
    Ok(Stamp {
        modified: metadata.modified()?,
        size: metadata.len(),
        inode: metadata.ino(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_resolv_conf_is_read_and_bad_lines_are_counted() {
        let text = "# a comment\n\
            ; another\n\
            nameserver 10.0.0.1\n\
            nameserver\t2001:db8::53 trailing words\n\
            nameserver 10.0.0.1\n\
            nameserver fe80::1%eth0\n\
            nameserver nonsense\n\
            nameserver\n\
            domain first.example\n\
            search one.example two.example\n\
            options ndots:5 timeout:1 attempts:99 rotate unknown:7 ndots:x\n\
            whatever this is\n\
            \n";
        let conf = ResolvConf::parse(text);
        assert_eq!(
            conf,
            ResolvConf {
                servers: vec!["10.0.0.1".parse().unwrap(), "2001:db8::53".parse().unwrap()],
                search: vec!["one.example".into(), "two.example".into()],
                ndots: 5,
                timeout: Some(Duration::from_secs(1)),
                attempts: 5,
                ignored: 4,
            }
        );
        assert_eq!(conf.addresses()[0].port(), 53);
    }

    #[test]
    fn the_number_of_servers_is_bounded() {
        let text: String = (0..200)
            .map(|at| format!("nameserver 10.0.0.{at}\n"))
            .collect();
        assert_eq!(ResolvConf::parse(&text).servers.len(), MAX_SERVERS);
    }

    #[test]
    fn a_changed_file_is_read_again_and_a_missing_one_remembered() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("resolv.conf");
        let file = ResolvFile::new(&path);
        let start = Instant::now();
        let servers = |seconds| {
            let conf = file.conf(start + Duration::from_secs(seconds));
            conf.servers
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
        };
        assert_eq!(servers(0), [""; 0]);
        std::fs::write(&path, "nameserver 10.0.0.1\n").unwrap();
        assert_eq!(servers(4), [""; 0], "looked at too soon");
        assert_eq!(servers(5), ["10.0.0.1"]);
        let new = directory.path().join("new");
        std::fs::write(&new, "nameserver 10.0.0.2\n").unwrap();
        std::fs::rename(&new, &path).unwrap();
        assert_eq!(servers(9), ["10.0.0.1"]);
        assert_eq!(servers(10), ["10.0.0.2"]);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(servers(20), ["10.0.0.2"]);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[a-z0-9:%#;. \\n\\t-]{0,200}|nameserver .*|options .*|\\PC*") {
            let conf = ResolvConf::parse(&text);
            prop_assert!(conf.ignored <= text.lines().count());
        }
    }
}
