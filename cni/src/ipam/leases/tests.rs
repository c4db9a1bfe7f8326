use std::path::Path;

use super::*;
use crate::ipam::{DiskStore, Loaded, MemoryStore};

fn ranges(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn dual() -> Vec<IpNet> {
    ranges(&["10.32.7.0/24", "fd00:7::/64"])
}

fn key(id: &str) -> Attachment {
    Attachment {
        container_id: id.parse().unwrap(),
        ifname: "eth0".parse().unwrap(),
    }
}

fn allocation(id: &str) -> Allocation {
    Allocation {
        attachment: key(id),
        network: "weft".into(),
        name: None,
        namespace: None,
        netns: format!("/run/netns/{id}"),
        netns_inode: None,
        host_ifname: format!("weft{id}"),
        mtu: 1420,
        ports: Vec::new(),
    }
}

fn at(seconds: u64) -> SinceBoot {
    SinceBoot(seconds * 1000)
}

fn opened(store: &MemoryStore, ranges: &[IpNet]) -> Leases {
    Leases::restore(Box::new(store.clone()), ranges).unwrap().0
}

fn text(lease: &Lease) -> String {
    super::list(&lease.addresses)
}

#[test]
fn a_port_of_the_host_leads_to_one_container() {
    let mut leases = opened(&MemoryStore::new("b"), &dual());
    let on = |id: &str, address: Option<&str>| Allocation {
        ports: vec![crate::PortMapping {
            host_port: 80,
            container_port: 8080,
            protocol: crate::Protocol::Tcp,
            host_ip: address.map(|text| text.parse().unwrap()),
        }],
        ..allocation(id)
    };
    leases.allocate(on("a", Some("192.0.2.1")), at(1)).unwrap();
    leases.allocate(on("b", Some("127.0.0.1")), at(1)).unwrap();
    let error = Error::from(leases.allocate(on("c", None), at(1)).unwrap_err());
    assert_eq!(error.code, code::TRY_AGAIN);
    assert!(
        error.msg.starts_with("port tcp 80 of the host leads to"),
        "{}",
        error.msg
    );
    // Held, its link is down: its packets have nowhere to go.
    leases.hold(&key("a")).unwrap();
    leases.release(&key("b")).unwrap();
    leases.allocate(on("c", None), at(1)).unwrap();
}

#[test]
fn an_attachment_gets_addresses_once() {
    let mut leases = opened(&MemoryStore::new("b"), &dual());
    let lease = leases.allocate(allocation("a"), at(1)).unwrap();
    assert_eq!(text(&lease), "10.32.7.2 and fd00:7::2");
    assert_eq!(lease.state, State::Pending);
    let error = leases.allocate(allocation("a"), at(2)).unwrap_err();
    assert_eq!(Error::from(error).code, code::TRY_AGAIN);
    leases.bind(&key("a")).unwrap();
    let error = Error::from(leases.allocate(allocation("a"), at(2)).unwrap_err());
    assert_eq!(
        (error.code, error.msg.as_str()),
        (
            code::ALREADY_ATTACHED,
            "eth0 of container a is attached already, as 10.32.7.2 and fd00:7::2"
        )
    );
    assert_eq!(leases.list().count(), 1);
}

#[test]
fn a_full_range_is_a_clear_error_and_the_next_release_frees_one() {
    let mut leases = opened(&MemoryStore::new("b"), &ranges(&["10.32.7.0/24"]));
    for n in 0..253 {
        leases
            .allocate(allocation(&format!("c{n}")), at(n))
            .unwrap();
    }
    let error = Error::from(leases.allocate(allocation("x"), at(9)).unwrap_err());
    assert_eq!(
        (error.code, error.msg.as_str()),
        (
            code::TRY_AGAIN,
            "range 10.32.7.0/24 is full: 253 of 253 addresses in use"
        )
    );
    leases.hold(&key("c5")).unwrap().unwrap();
    assert!(leases.allocate(allocation("x"), at(9)).is_err());
    let freed = leases
        .release_held(&["10.32.7.7".parse().unwrap()])
        .unwrap()
        .unwrap();
    assert_eq!(freed.attachment, key("c5"));
    let lease = leases.allocate(allocation("x"), at(9)).unwrap();
    assert_eq!(text(&lease), "10.32.7.7");
    assert_eq!(
        leases.usage(),
        [("10.32.7.0/24".parse().unwrap(), 253, 253)]
    );
}

#[test]
fn a_held_address_is_nobodys_while_its_container_comes_back() {
    let mut leases = opened(&MemoryStore::new("b"), &ranges(&["10.1.0.0/29"]));
    let first = leases.allocate(allocation("a"), at(1)).unwrap();
    leases.bind(&key("a")).unwrap();
    leases.hold(&key("a")).unwrap().unwrap();
    assert_eq!(leases.by_attachment(&key("a")), None);
    assert_eq!(leases.hold(&key("a")).unwrap(), None);
    assert_eq!(leases.release(&key("a")).unwrap(), None);
    let again = leases.allocate(allocation("a"), at(2)).unwrap();
    assert_ne!(first.addresses, again.addresses);
    assert_eq!(leases.release_held(&again.addresses).unwrap(), None);
    assert!(leases.release_held(&first.addresses).unwrap().is_some());
    assert_eq!(leases.list().count(), 1);
}

#[test]
fn a_restart_in_the_same_boot_finds_every_lease_as_it_was() {
    let store = MemoryStore::new("b");
    let mut leases = opened(&store, &dual());
    for (second, id) in ["pending", "bound", "held"].into_iter().enumerate() {
        leases.allocate(allocation(id), at(second as u64)).unwrap();
    }
    leases.bind(&key("bound")).unwrap();
    leases.hold(&key("held")).unwrap();
    let mut again = opened(&store, &dual());
    let both: Vec<_> = leases.list().zip(again.list()).collect();
    assert!(both.len() == 3 && both.iter().all(|(a, b)| a == b));
    let next = again.allocate(allocation("next"), at(9)).unwrap();
    assert_eq!(
        text(&next),
        "10.32.7.5 and fd00:7::5",
        "round robin goes on"
    );
}

#[test]
fn another_boot_voids_all_leases() {
    let store = MemoryStore::new("b");
    opened(&store, &dual())
        .allocate(allocation("a"), at(1))
        .unwrap();
    let (leases, restored) = Leases::restore(Box::new(store.reopen("c")), &dual()).unwrap();
    assert_eq!((leases.list().count(), restored.void), (0, 1));
}

#[test]
fn addresses_of_a_ruined_lease_are_held_back_until_they_are_given_back() {
    let dir = tempfile::tempdir().unwrap();
    let open = || Box::new(DiskStore::open(dir.path(), "b").unwrap());
    let range = ranges(&["10.1.0.0/29"]);
    let mut leases = Leases::restore(open(), &range).unwrap().0;
    leases.allocate(allocation("a"), at(1)).unwrap();
    std::fs::write(dir.path().join("10.1.0.2@b.lease"), b"\0\0\0").unwrap();
    let (mut leases, restored) = Leases::restore(open(), &range).unwrap();
    assert_eq!(restored.corrupt, leases.corrupt());
    let given: Vec<_> = (0..4)
        .map(|n| {
            text(
                &leases
                    .allocate(allocation(&format!("c{n}")), at(2))
                    .unwrap(),
            )
        })
        .collect();
    assert_eq!(given, ["10.1.0.3", "10.1.0.4", "10.1.0.5", "10.1.0.6"]);
    leases.allocate(allocation("x"), at(3)).unwrap_err();
    leases.give_back(&restored.corrupt[0]).unwrap();
    let lease = leases.allocate(allocation("x"), at(3)).unwrap();
    assert_eq!(text(&lease), "10.1.0.2");
}

#[test]
fn other_ranges_take_the_addresses_outside_them_and_leave_the_rest() {
    let store = MemoryStore::new("b");
    let mut leases = opened(&store, &dual());
    leases.allocate(allocation("a"), at(1)).unwrap();
    leases.bind(&key("a")).unwrap();
    assert_eq!(leases.replace_ranges(&dual()), []);
    let lost = leases.replace_ranges(&ranges(&["10.40.0.0/24", "fd00:7::/64"]));
    assert_eq!(lost.len(), 1);
    let (old, new) = leases.readdress(&key("a"), at(1)).unwrap();
    assert_eq!(text(&old), "10.32.7.2 and fd00:7::2");
    assert_eq!(text(&new), "10.40.0.2 and fd00:7::2");
    assert_eq!(new.state, State::Bound);
    let again = opened(&store, &dual());
    assert_eq!(again.list().collect::<Vec<_>>(), [&old, &new]);
    assert_eq!(again.strays(), std::slice::from_ref(&new));
    leases.release_held(&old.addresses).unwrap();
    assert_eq!(opened(&store, &dual()).list().collect::<Vec<_>>(), [&new]);
    let (same, also) = leases.readdress(&key("a"), at(2)).unwrap();
    assert_eq!(same, also);
    leases.replace_ranges(&[]);
    let error = Error::from(leases.readdress(&key("a"), at(3)).unwrap_err());
    assert_eq!(error.code, code::TRY_AGAIN);
    assert_eq!(leases.by_attachment(&key("a")), Some(&new));
}

/// A store whose process is killed, so to speak, before the act of that number.
#[derive(Debug)]
struct Dying {
    store: MemoryStore,
    acts: usize,
}

impl Dying {
    fn act(&mut self) -> io::Result<()> {
        self.acts = self
            .acts
            .checked_sub(1)
            .ok_or_else(|| io::Error::other("killed"))?;
        Ok(())
    }
}

impl Store for Dying {
    fn boot_id(&self) -> &str {
        self.store.boot_id()
    }
    fn load(&mut self) -> io::Result<Loaded> {
        self.store.load()
    }
    fn put(&mut self, lease: &Lease) -> io::Result<()> {
        self.act()?;
        self.store.put(lease)
    }
    fn remove(&mut self, addresses: &[IpAddr]) -> io::Result<()> {
        self.act()?;
        self.store.remove(addresses)
    }
    fn remove_corrupt(&mut self, corrupt: &Corrupt) -> io::Result<()> {
        self.act()?;
        self.store.remove_corrupt(corrupt)
    }
}

#[test]
fn killed_between_any_two_writes_no_address_is_lost_or_given_twice() {
    for acts in 0..8 {
        let store = MemoryStore::new("b");
        let dying = Dying {
            store: store.clone(),
            acts,
        };
        let mut leases = Leases::restore(Box::new(dying), &dual()).unwrap().0;
        let story = |leases: &mut Leases| -> Result<(), LeaseError> {
            leases.allocate(allocation("a"), at(1))?;
            leases.bind(&key("a"))?;
            leases.replace_ranges(&ranges(&["10.40.0.0/24", "fd00:7::/64"]));
            let (old, _) = leases.readdress(&key("a"), at(2))?;
            leases.release_held(&old.addresses)?;
            leases.hold(&key("a"))?;
            leases.release_held(&["10.40.0.2".parse().unwrap(), "fd00:7::2".parse().unwrap()])?;
            Ok(())
        };
        assert_eq!(story(&mut leases).is_ok(), acts >= 6, "{acts}");
        let live = leases.list().filter(|lease| lease.is_live()).count();
        assert!(live <= 1, "{acts}");
        let mut again = opened(&store, &dual());
        let live = again.list().filter(|lease| lease.is_live()).count();
        let kept = again.list().count();
        // put, put, put new, remove old, hold, remove
        assert_eq!(
            (live, kept),
            [
                (0, 0),
                (1, 1),
                (1, 1),
                (1, 2),
                (1, 1),
                (0, 1),
                (0, 0),
                (0, 0)
            ][acts],
            "{acts}"
        );
        let taken: Vec<IpAddr> = again.list().flat_map(|l| l.addresses.clone()).collect();
        let next = again.allocate(allocation("x"), at(9)).unwrap();
        assert!(!next.addresses.iter().any(|at| taken.contains(at)));
    }
}

#[test]
fn a_lease_that_cannot_be_kept_is_not_given() {
    let dir = tempfile::tempdir().unwrap();
    let store = Box::new(DiskStore::open(dir.path(), "b").unwrap());
    let mut leases = Leases::restore(store, &ranges(&["10.1.0.0/29"])).unwrap().0;
    let obstacle = |name: &str| dir.path().join(Path::new(name));
    std::fs::create_dir(obstacle("10.1.0.2@b.lease")).unwrap();
    let error = Error::from(leases.allocate(allocation("a"), at(1)).unwrap_err());
    assert_eq!(error.code, code::IO);
    assert!(error.msg.contains("10.1.0.2@b.lease"), "{error}");
    assert_eq!(leases.by_attachment(&key("a")), None);
    leases.allocate(allocation("a"), at(2)).unwrap();
}
