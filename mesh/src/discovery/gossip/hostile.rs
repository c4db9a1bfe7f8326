//! A member over a real socket that holds the secret and breaks the rules.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};

use super::channel::{self, Channel};
use super::message::{Message, Refusal};
use super::record::{Body, Claim, Instance, Signed, Stamp};
use super::session::{self, Greeter, SessionError};
use super::{CLAIM_WAIT, FoundingParams, Gossip, GossipConfig, Token};
use crate::discovery::{Announcement, Discovery};
use crate::identity::Identity;
use crate::{Endpoint, PublicKey, keystore};

struct Victim {
    gossip: Arc<Gossip>,
    _dir: tempfile::TempDir,
}

async fn victim() -> Victim {
    victim_that_dials(Vec::new()).await
}

async fn victim_that_dials(peers: Vec<Endpoint>) -> Victim {
    let dir = tempfile::tempdir().unwrap();
    let config = GossipConfig {
        state_dir: dir.path().to_owned(),
        listen: vec!["127.0.0.1:0".parse().unwrap()],
        founding: FoundingParams::default(),
        join: None,
        peers,
        fwmark: None,
        claim_wait: CLAIM_WAIT,
        allow_loopback: true,
    };
    let identity = Arc::new(keystore::identity(dir.path()).unwrap());
    let me = Announcement {
        name: "victim".parse().unwrap(),
        public_key: PublicKey::from_bytes([1; 32]),
        endpoints: Vec::new(),
        engine: None,
        names: Vec::new(),
        away: false,
    };
    Victim {
        gossip: Gossip::start(config, identity, me).await.unwrap(),
        _dir: dir,
    }
}

impl Victim {
    fn address(&self) -> SocketAddr {
        self.gossip.listening()[0]
    }

    async fn connect(&self, as_node: &Identity) -> Result<Channel<TcpStream>, SessionError> {
        let token: Token = self.gossip.join_token().parse().unwrap();
        let stream = TcpStream::connect(self.address()).await.unwrap();
        let mut channel = channel::initiate(stream, &token.secret, token.mesh).await?;
        session::meet(&mut channel, self.address()).await?;
        let greeter = Greeter {
            identity: as_node,
            instance: Instance::from_bytes([4; 16]),
            joining: true,
        };
        greeter.introduce(&mut channel, self.address()).await?;
        session::welcomed(&mut channel).await?;
        Ok(channel)
    }

    fn record(&self, of: &Identity, change: impl FnOnce(&mut Body)) -> Signed {
        let token: Token = self.gossip.join_token().parse().unwrap();
        let mut body = Body {
            name: "mallory".parse().unwrap(),
            key: PublicKey::from_bytes([2; 32]),
            endpoints: Vec::new(),
            names: Vec::new(),
            claim: None,
            grants: Vec::new(),
            away: false,
            stamp: Stamp {
                generation: 1,
                version: 1,
                instance: Instance::from_bytes([4; 16]),
            },
        };
        change(&mut body);
        Signed::sign(&body, of, token.mesh).unwrap()
    }

    fn counter(&self, name: &str) -> u64 {
        let counters = self.gossip.status().counters;
        counters.get(name).copied().unwrap_or(0)
    }

    async fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !condition(self) {
            assert!(Instant::now() < deadline, "not in time: {what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Until the other side closes.
async fn ended(mut channel: Channel<TcpStream>) {
    let all = async { while channel.receiver.receive().await.is_ok() {} };
    tokio::time::timeout(Duration::from_secs(5), all)
        .await
        .expect("the victim closes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_record_ends_the_connection_and_keeps_its_sender_away() {
    let victim = victim().await;
    let mallory = Identity::from_bytes(&[66; 32]);
    let mut channel = victim.connect(&mallory).await.unwrap();
    // One that this version cannot accept is passed over, one that is not signed is not.
    let odd = victim.record(&mallory, |body| {
        body.endpoints = vec!["10.32.0.1:6783".parse().unwrap()];
    });
    let mut bad = victim.record(&mallory, |_| {});
    bad.body.push(' ');
    let records = vec![odd, bad];
    channel
        .sender
        .send(&Message::Records { records })
        .await
        .unwrap();
    ended(channel).await;
    assert_eq!(victim.counter("records refused: endpoint"), 1);
    assert_eq!(victim.counter("records refused: signature"), 1);
    assert_eq!(victim.counter("connections ended: bad message"), 1);
    let again = victim.connect(&mallory).await.unwrap_err();
    let refused = matches!(&again, SessionError::Refused(r) if matches!(**r, Refusal::Penalty));
    assert!(refused, "{again}");
    // Others are not kept away.
    victim
        .connect(&Identity::from_bytes(&[67; 32]))
        .await
        .unwrap();
    assert_eq!(victim.gossip.status().records, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_held_range_is_not_taken_by_a_member_that_claims_it() {
    let victim = victim().await;
    victim
        .until("held", |v| !v.gossip.standing().claim.ranges().is_empty())
        .await;
    let own = victim.gossip.standing().claim.clone();
    let super::ClaimState::Held { slot, .. } = own else {
        panic!("{own:?}");
    };
    let mallory = Identity::from_bytes(&[66; 32]);
    let mut channel = victim.connect(&mallory).await.unwrap();
    let claim = Claim {
        slot,
        settled: true,
    };
    let greedy = victim.record(&mallory, |body| body.claim = Some(claim));
    let please = Message::GrantPlease { record: greedy };
    channel.sender.send(&please).await.unwrap();
    victim
        .until("heard", |v| v.counter("grants refused") == 1)
        .await;
    assert_eq!(victim.gossip.standing().claim, own);
    let roster = victim.gossip.roster().borrow().clone();
    let member = &roster.members[&mallory.id()];
    assert!(member.pod_cidrs.is_empty());
    // It speaks for nobody else.
    let other = victim.record(&Identity::from_bytes(&[5; 32]), |_| {});
    let please = Message::GrantPlease { record: other };
    channel.sender.send(&please).await.unwrap();
    ended(channel).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_bad_records_costs_one_check_a_connection() {
    let victim = victim().await;
    let mut tries = 0;
    for n in 0..40 {
        let mallory = Identity::from_bytes(&[n; 32]);
        let Ok(mut channel) = victim.connect(&mallory).await else {
            break;
        };
        let mut bad = victim.record(&mallory, |_| {});
        bad.body.push(' ');
        let records = vec![bad; 500];
        let _ = channel.sender.send(&Message::Records { records }).await;
        ended(channel).await;
        tries += 1;
    }
    assert!(
        tries < 20,
        "{tries} connections before the source was slowed"
    );
    assert_eq!(victim.counter("records refused: signature"), tries);
    assert!(victim.counter("connections refused: too many from one source") > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_node_that_answers_by_a_retired_secret_is_hung_up_on() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let victim = victim_that_dials(vec![Endpoint::Address(address)]).await;
    let old: Token = victim.gossip.join_token().parse().unwrap();
    victim.gossip.token_rotate().await.unwrap();
    let mallory = Identity::from_bytes(&[66; 32]);
    let met = async {
        loop {
            let (stream, from) = listener.accept().await.unwrap();
            let secret = |id| (id == old.secret.id()).then(|| old.secret.clone());
            let opened = channel::respond(stream, old.mesh, secret, |_| true).await;
            // The victim's new secret, which is tried first.
            let Ok(mut channel) = opened else { continue };
            let greeter = Greeter {
                identity: &mallory,
                instance: Instance::from_bytes([4; 16]),
                joining: false,
            };
            greeter.introduce(&mut channel, from).await.unwrap();
            return session::meet(&mut channel, from).await;
        }
    };
    let met = tokio::time::timeout(Duration::from_secs(20), met).await;
    let met = met.expect("the victim tries its older secret");
    let hung_up =
        matches!(&met, Err(SessionError::Refused(r)) if matches!(**r, Refusal::RetiredKey));
    assert!(hung_up, "{met:?}");
}
