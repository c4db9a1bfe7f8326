//! `/etc/resolv.conf`: what the host says of its name servers. It asks nobody anything.

use std::net::{IpAddr, SocketAddr};
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

    fn server(&mut self, word: Option<&str>) -> bool {
        // A scope (`fe80::1%eth0`) cannot be kept in an address, and is not understood.
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
    /// Its time and size: an editor may write twice within a clock tick.
    stamp: Option<(SystemTime, u64)>,
    conf: ResolvConf,
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
        let stamp = std::fs::metadata(&self.path).and_then(|it| Ok((it.modified()?, it.len())));
        let Ok(stamp) = stamp else { return };
        if state.stamp == Some(stamp) {
            return;
        }
        let Ok(text) = read(&self.path) else { return };
        state.stamp = Some(stamp);
        state.conf = ResolvConf::parse(&text);
        let servers = &state.conf.servers;
        tracing::info!(path = %self.path.display(), ?servers, "name servers read");
        if state.conf.ignored > 0 {
            let lines = state.conf.ignored;
            tracing::warn!(path = %self.path.display(), lines, "lines not understood");
        }
    }
}

fn read(path: &Path) -> std::io::Result<String> {
    use std::io::Read;
    let mut bytes = Vec::new();
    std::fs::File::open(path)?
        .take(MAX_BYTES)
        .read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
