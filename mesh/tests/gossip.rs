//! Gossip over real sockets on the loopback: joining, finding all from one, restarts, forgetting,
//! refusals.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use weft_mesh::discovery::gossip::{
    CLAIM_WAIT, ClaimState, ForgetError, FoundingParams, Gossip, GossipConfig, Join, StartError,
    TargetState,
};
use weft_mesh::discovery::{Announcement, Discovery, ProblemKind};
use weft_mesh::{Endpoint, PublicKey, ServedName, keystore};

const PATIENCE: Duration = Duration::from_secs(20);

fn announcement(name: &str, key: u8) -> Announcement {
    Announcement {
        name: name.parse().unwrap(),
        public_key: PublicKey::from_bytes([key; 32]),
        endpoints: Vec::new(),
        engine: None,
        names: Vec::new(),
        away: false,
    }
}

fn config(dir: &Path) -> GossipConfig {
    GossipConfig {
        state_dir: dir.to_owned(),
        listen: vec!["127.0.0.1:0".parse().unwrap()],
        founding: FoundingParams::default(),
        join: None,
        peers: Vec::new(),
        fwmark: None,
        claim_wait: CLAIM_WAIT,
        allow_loopback: true,
    }
}

fn join(token: &str, host: SocketAddr) -> Option<Join> {
    Some(Join {
        token: token.parse().unwrap(),
        hosts: vec![Endpoint::Address(host)],
    })
}

struct Running {
    gossip: Arc<Gossip>,
    me: Announcement,
    address: SocketAddr,
}

/// Starts a node and lets it announce the address that it got.
async fn start(config: GossipConfig, name: &str, key: u8) -> Running {
    let identity = Arc::new(keystore::identity(&config.state_dir).unwrap());
    let mut me = announcement(name, key);
    let gossip = Gossip::start(config, identity, me.clone()).await.unwrap();
    let address = gossip.listening()[0];
    me.endpoints = vec![Endpoint::Address(address)];
    gossip.announce(me.clone());
    Running {
        gossip,
        me,
        address,
    }
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

impl Running {
    fn held(&self) -> bool {
        matches!(self.gossip.standing().claim, ClaimState::Held { .. })
    }

    fn slot(&self) -> Option<u32> {
        match self.gossip.standing().claim {
            ClaimState::Held { slot, .. } => Some(slot),
            _ => None,
        }
    }

    /// How many others are known with their ranges.
    fn sees(&self) -> usize {
        let roster = self.gossip.roster().borrow().clone();
        roster
            .members
            .values()
            .filter(|m| m.pod_cidrs.len() == 2)
            .count()
    }

    fn has(&self, kind: ProblemKind) -> bool {
        let own = self.gossip.own();
        let own = own.borrow();
        own.problems.iter().any(|p| p.kind == kind)
    }

    fn counter(&self, name: &str) -> u64 {
        self.gossip
            .status()
            .counters
            .get(name)
            .copied()
            .unwrap_or(0)
    }
}

fn dirs(number: usize) -> Vec<tempfile::TempDir> {
    (0..number).map(|_| tempfile::tempdir().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_told_one_peer_finds_all() {
    let dirs = dirs(4);
    let first = start(config(dirs[0].path()), "n0", 1).await;
    until("the founder holds a range", || first.held()).await;
    let token = first.gossip.join_token();
    let mut nodes = vec![first];
    for n in 1..4_u8 {
        let mut config = config(dirs[usize::from(n)].path());
        config.join = join(&token, nodes[0].address);
        nodes.push(start(config, &format!("n{n}"), n + 1).await);
    }
    for node in &nodes {
        until("each sees three others with ranges", || node.sees() == 3).await;
    }
    let mut slots: Vec<_> = nodes.iter().filter_map(Running::slot).collect();
    slots.sort_unstable();
    slots.dedup();
    assert_eq!(slots.len(), 4);
    let status = nodes[3].gossip.status();
    assert!(
        status
            .targets
            .iter()
            .all(|t| t.state == TargetState::Established)
    );

    // A name appears everywhere, and goes with a goodbye; the ranges stay.
    let mut me = nodes[1].me.clone();
    let range = nodes[1].gossip.own().borrow().ranges[0];
    let address = range.hosts().nth(5).unwrap();
    me.names = vec![ServedName {
        name: "web".into(),
        addresses: vec![address],
    }];
    nodes[1].gossip.announce(me.clone());
    let begun = Instant::now();
    let serves = |node: &Running| {
        let roster = node.gossip.roster().borrow().clone();
        roster.members.values().any(|m| !m.names.is_empty())
    };
    until("the name is heard", || serves(&nodes[3])).await;
    assert!(begun.elapsed() < Duration::from_secs(1));
    me.away = true;
    nodes[1].gossip.announce(me);
    nodes[1].gossip.shutdown().await;
    until("the name is gone", || !serves(&nodes[3])).await;
    assert_eq!(nodes[3].sees(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_comes_back_without_a_token_and_keeps_its_range() {
    let dirs = dirs(2);
    let first = start(config(dirs[0].path()), "a", 1).await;
    let mut second = config(dirs[1].path());
    second.join = join(&first.gossip.join_token(), first.address);
    let second = start(second, "b", 2).await;
    until("both see each other", || {
        first.sees() == 1 && second.sees() == 1
    })
    .await;
    let slot = second.slot();
    second.gossip.shutdown().await;
    drop(second);
    let again = start(config(dirs[1].path()), "b", 2).await;
    assert_eq!(again.slot(), slot);
    assert_eq!(again.sees(), 1, "the roster was kept");
    until("it is connected again", || {
        let targets = again.gossip.status().targets;
        targets.iter().any(|t| t.state == TargetState::Established)
    })
    .await;
    assert_eq!(first.sees(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forgotten_node_is_gone_everywhere_is_refused_and_learns_by_whom() {
    let dirs = dirs(3);
    let a = start(config(dirs[0].path()), "a", 1).await;
    let token = a.gossip.join_token();
    let mut others = Vec::new();
    for n in [1_u8, 2] {
        let mut config = config(dirs[usize::from(n)].path());
        config.join = join(&token, a.address);
        others.push(start(config, ["a", "b", "c"][usize::from(n)], n + 1).await);
    }
    let (b, c) = (&others[0], &others[1]);
    until("all see all", || {
        a.sees() == 2 && b.sees() == 2 && c.sees() == 2
    })
    .await;
    let unknown = b.gossip.forget("nobody").await;
    assert!(matches!(unknown, Err(ForgetError::Unknown(_))));
    let oneself = b.gossip.forget("b").await;
    assert!(matches!(oneself, Err(ForgetError::Oneself(_))));
    b.gossip.forget("c").await.unwrap();
    until("a and b have dropped it", || a.sees() == 1 && b.sees() == 1).await;
    until("it knows by whom", || {
        let own = c.gossip.own();
        let own = own.borrow();
        let by = own.forgotten.as_ref().and_then(|f| f.by_name.clone());
        by.as_deref() == Some("b")
    })
    .await;
    assert_eq!(c.sees(), 0);
    c.gossip.shutdown().await;
    // Nor does it come back by a token.
    let mut config = config(dirs[2].path());
    config.join = join(&token, a.address);
    let c = start(config, "c", 3).await;
    assert_eq!(c.gossip.standing().claim, ClaimState::Forgotten);
    assert_eq!(a.gossip.status().records, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotated_token_admits_nobody_new_and_the_new_one_does() {
    let dirs = dirs(3);
    let a = start(config(dirs[0].path()), "a", 1).await;
    let old = a.gossip.join_token();
    let new = a.gossip.token_rotate().await.unwrap();
    assert_eq!(a.gossip.join_token(), new);
    assert_eq!(a.gossip.token_list().len(), 2);
    let mut with_old = config(dirs[1].path());
    with_old.join = join(&old, a.address);
    let b = start(with_old, "b", 2).await;
    until("the old token is refused with the reason", || {
        let targets = b.gossip.status().targets;
        let error = targets.first().and_then(|t| t.last_error.clone());
        error.is_some_and(|e| e.contains("retired"))
    })
    .await;
    assert_eq!(b.gossip.standing().claim, ClaimState::Joining);
    let mut with_new = config(dirs[2].path());
    with_new.join = join(&new, a.address);
    let c = start(with_new, "c", 3).await;
    until("the new token lets in", || a.sees() == 1 && c.sees() == 1).await;
}

/// Makes what is written of `file` end in an error, until the guard is dropped.
struct Refusing(std::path::PathBuf);

impl Refusing {
    fn writes_of(file: &str, dir: &Path) -> Self {
        let path = dir.join(format!("{file}.new"));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Refusing {
    fn drop(&mut self) {
        std::fs::remove_dir(&self.0).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_disk_refuses_is_not_done_and_is_said() {
    let dirs = dirs(2);
    let a = start(config(dirs[0].path()), "a", 1).await;
    let token = a.gossip.join_token();
    let mut joining = config(dirs[1].path());
    joining.join = join(&token, a.address);
    let b = start(joining, "b", 2).await;
    until("all see all", || a.sees() == 1 && b.sees() == 1).await;
    let refusing = Refusing::writes_of("keyring.json", dirs[0].path());
    assert!(a.gossip.token_rotate().await.is_err());
    assert_eq!(a.gossip.token_list().len(), 1);
    assert_eq!(a.gossip.join_token(), token);
    drop(refusing);
    let refusing = Refusing::writes_of("tombstones.json", dirs[0].path());
    assert!(a.gossip.forget("b").await.is_err());
    assert_eq!((a.sees(), a.gossip.status().forgotten), (1, 0));
    drop(refusing);
    let refusing = Refusing::writes_of("roster.json", dirs[0].path());
    b.gossip.announce(announcement("b", 3));
    until("it is a problem", || a.has(ProblemKind::Storage)).await;
    drop(refusing);
    until("and none any more", || !a.has(ProblemKind::Storage)).await;
    a.gossip.forget("b").await.unwrap();
    assert_eq!(a.sees(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_was_joined_by_is_listed_once() {
    let dirs = dirs(2);
    let a = start(config(dirs[0].path()), "a", 1).await;
    let mut joining = config(dirs[1].path());
    joining.join = join(&a.gossip.join_token(), a.address);
    let b = start(joining, "b", 2).await;
    let targets = || b.gossip.status().targets;
    until("it is known by name", || {
        b.sees() == 1 && targets().iter().all(|t| t.name.is_some())
    })
    .await;
    assert_eq!(targets().len(), 1, "{:?}", targets());
}

async fn bytes_for(address: SocketAddr, sent: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(sent).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_and_replays_get_no_byte_and_a_wrong_token_is_said() {
    let dirs = dirs(3);
    let a = start(config(dirs[0].path()), "a", 1).await;
    assert_eq!(bytes_for(a.address, b"GET / HTTP/1.0\r\n\r\n").await, b"");

    // A joiner of another mesh, through a tap that keeps its first message.
    let other = start(config(dirs[1].path()), "x", 9).await;
    let mut lost = config(dirs[2].path());
    lost.join = join(&other.gossip.join_token(), a.address);
    let lost = start(lost, "lost", 3).await;
    until("it says that nobody answered", || {
        let targets = lost.gossip.status().targets;
        let error = targets.first().and_then(|t| t.last_error.clone());
        error.is_some_and(|e| e.contains("wrong token, or not weft"))
    })
    .await;
    assert!(a.counter("handshakes refused: unknown key") > 0);
    lost.gossip.shutdown().await;

    let tap = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut joining = config(&dirs[2].path().join("again"));
    joining.join = join(&a.gossip.join_token(), tap.local_addr().unwrap());
    let joining = start(joining, "b", 4).await;
    let (mut caller, _) = tap.accept().await.unwrap();
    let mut first = vec![0; 61];
    caller.read_exact(&mut first).await.unwrap();
    drop((caller, tap));
    joining.gossip.shutdown().await;
    assert!(bytes_for(a.address, &first).await.len() >= 48);
    assert_eq!(bytes_for(a.address, &first).await, b"");
    assert_eq!(a.counter("handshakes refused: replay"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_of_one_name_are_both_named_and_one_keeps_it() {
    let dirs = dirs(2);
    let a = start(config(dirs[0].path()), "same", 1).await;
    let mut config = config(dirs[1].path());
    config.join = join(&a.gossip.join_token(), a.address);
    let b = start(config, "same", 2).await;
    until("both have ranges", || a.sees() == 1 && b.sees() == 1).await;
    until("both say so", || {
        a.has(ProblemKind::NameClash) && b.has(ProblemKind::NameClash)
    })
    .await;
    let name = |of: &Running| {
        let roster = of.gossip.roster().borrow().clone();
        roster.members.values().next().unwrap().name.to_string()
    };
    assert_eq!(name(&b), "same", "the founder's");
    assert!(name(&a).starts_with("same-"), "{}", name(&a));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cloned_disk_is_named_on_both_machines() {
    let dirs = dirs(3);
    let a = start(config(dirs[0].path()), "a", 1).await;
    let mut joining = config(dirs[1].path());
    joining.join = join(&a.gossip.join_token(), a.address);
    let b = start(joining, "b", 2).await;
    until("joined", || a.sees() == 1 && b.sees() == 1).await;
    b.gossip.shutdown().await;
    drop(b);
    for entry in std::fs::read_dir(dirs[1].path()).unwrap() {
        let from = entry.unwrap().path();
        std::fs::copy(&from, dirs[2].path().join(from.file_name().unwrap())).unwrap();
    }
    let b = start(config(dirs[1].path()), "b", 2).await;
    let clone = start(config(dirs[2].path()), "b", 2).await;
    let began = Instant::now();
    until("both name it", || {
        b.has(ProblemKind::Cloned) && clone.has(ProblemKind::Cloned)
    })
    .await;
    until("and so does the other", || a.has(ProblemKind::Cloned)).await;
    let took = began.elapsed();
    println!("named everywhere after {took:?}");
    assert!(took < Duration::from_secs(10), "{took:?}");
    // The last word of each is written.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let kept = |dir: &tempfile::TempDir| std::fs::read(dir.path().join("own.json")).unwrap();
    let before = (kept(&dirs[1]), kept(&dirs[2]));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(
        (kept(&dirs[1]), kept(&dirs[2])),
        before,
        "they do not fight on"
    );
}

#[tokio::test]
async fn a_name_that_resolves_into_the_mesh_is_not_dialled() {
    let dirs = dirs(1);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut config = config(dirs[0].path());
    config.founding.pool4 = "127.0.0.0/12".parse().unwrap();
    for host in ["localhost", "127.0.0.1"] {
        config.peers.push(format!("{host}:{port}").parse().unwrap());
    }
    let a = start(config, "a", 1).await;
    let targets = || a.gossip.status().targets;
    until("both are given up on", || {
        targets().iter().filter(|t| t.failures > 0).count() == 2
    })
    .await;
    let error = targets().iter().find_map(|t| {
        let error = t.last_error.clone()?;
        error.contains("lies inside the mesh").then_some(error)
    });
    assert!(error.is_some(), "{:?}", targets());
    let accepted = tokio::time::timeout(Duration::from_millis(300), listener.accept()).await;
    assert!(accepted.is_err(), "dialled");
}

/// Opens a connection from another address of the loopback and says nothing on it.
async fn silent(from: &str, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
    socket.connect(to).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_opens_connections_and_is_silent_shuts_nobody_else_out() {
    let dirs = dirs(2);
    let a = start(config(dirs[0].path()), "a", 1).await;
    until("held", || a.held()).await;
    let mut held = Vec::new();
    for _ in 0..60 {
        held.push(silent("127.0.0.2", a.address).await);
    }
    let refused = "connections refused: too many half open from one source";
    until("most are refused", || a.counter(refused) == 44).await;
    let began = Instant::now();
    let mut joining = config(dirs[1].path());
    joining.join = join(&a.gossip.join_token(), a.address);
    let b = start(joining, "b", 2).await;
    until("another joins meanwhile", || b.sees() == 1).await;
    let took = began.elapsed();
    assert!(took < Duration::from_secs(3), "{took:?}");
    until("who says nothing for 3 s is dropped", || {
        a.counter("handshakes refused: too slow") == 16
    })
    .await;
    let took = began.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[tokio::test]
async fn a_state_directory_is_for_one_mesh_and_one_agent() {
    let dirs = dirs(2);
    let a = start(config(dirs[0].path()), "a", 1).await;
    let other = start(config(dirs[1].path()), "b", 2).await;
    let token = other.gossip.join_token();
    let identity = Arc::new(keystore::identity(dirs[0].path()).unwrap());
    let again = Gossip::start(
        config(dirs[0].path()),
        Arc::clone(&identity),
        announcement("a", 1),
    );
    assert!(matches!(again.await, Err(StartError::InUse(_))));
    a.gossip.shutdown().await;
    drop(a);
    let mut wrong = config(dirs[0].path());
    wrong.join = join(&token, other.address);
    let refused = Gossip::start(wrong, identity, announcement("a", 1)).await;
    let text = refused.unwrap_err().to_string();
    assert!(text.contains("use another state directory"), "{text}");
}

#[tokio::test]
async fn a_damaged_roster_is_set_aside_and_a_damaged_keyring_is_an_error() {
    let dirs = dirs(1);
    let a = start(config(dirs[0].path()), "a", 1).await;
    until("held", || a.held()).await;
    a.gossip.shutdown().await;
    drop(a);
    let file = |name: &str| dirs[0].path().join(name);
    std::fs::write(file("roster.json"), b"[{\"id\":").unwrap();
    let a = start(config(dirs[0].path()), "a", 1).await;
    assert!(a.held() && file("roster.json.bad").exists());
    a.gossip.shutdown().await;
    drop(a);
    std::fs::write(file("keyring.json"), b"garbage").unwrap();
    let identity = Arc::new(keystore::identity(dirs[0].path()).unwrap());
    let refused = Gossip::start(config(dirs[0].path()), identity, announcement("a", 1)).await;
    let text = refused.unwrap_err().to_string();
    assert!(text.contains("keyring.json"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_nodes_find_each_other_by_one() {
    let dirs = dirs(20);
    let first = start(config(dirs[0].path()), "n0", 1).await;
    let token = first.gossip.join_token();
    let mut nodes = vec![first];
    for n in 1..20_u8 {
        let mut config = config(dirs[usize::from(n)].path());
        config.join = join(&token, nodes[0].address);
        nodes.push(start(config, &format!("n{n}"), n + 1).await);
    }
    until("all see all", || nodes.iter().all(|n| n.sees() == 19)).await;
    until("all are connected with all", || {
        let up = |n: &Running| {
            let targets = n.gossip.status().targets;
            let nodes = targets
                .iter()
                .filter(|t| t.state == TargetState::Established);
            let mut ids: Vec<_> = nodes.filter_map(|t| t.node.clone()).collect();
            ids.sort();
            ids.dedup();
            ids.len() == 19
        };
        nodes.iter().all(up)
    })
    .await;
}
