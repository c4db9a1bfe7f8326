use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::ipam::State;

fn lease(addresses: &[&str], boot_id: &str) -> Lease {
    Lease {
        attachment: crate::Attachment {
            container_id: "c1".parse().unwrap(),
            ifname: "eth0".parse().unwrap(),
        },
        network: "weft".into(),
        addresses: addresses.iter().map(|at| at.parse().unwrap()).collect(),
        name: Some("web".into()),
        namespace: None,
        netns: "/run/netns/c1".into(),
        netns_inode: Some(7),
        host_ifname: "weft1".into(),
        mtu: Some(1420),
        ports: Vec::new(),
        state: State::Pending,
        boot_id: boot_id.into(),
        made: crate::SinceBoot(1),
    }
}

/// What every store must do; `open` opens the same store in the boot of that name.
fn conforms(open: &dyn Fn(&str) -> Box<dyn Store>) {
    let mut store = open("boot-1");
    assert_eq!(store.boot_id(), "boot-1");
    assert_eq!(store.load().unwrap(), Loaded::default());

    let mut first = lease(&["10.32.7.9", "fd00::9"], "boot-1");
    let second = lease(&["10.32.7.10", "fd00::a"], "boot-1");
    store.put(&second).unwrap();
    store.put(&first).unwrap();
    first.state = State::Bound;
    store.put(&first).unwrap();
    let loaded = open("boot-1").load().unwrap();
    assert_eq!(loaded.leases, [first.clone(), second.clone()]);
    assert_eq!((loaded.void, loaded.corrupt), (0, vec![]));

    store.remove(&second.addresses).unwrap();
    store.remove(&second.addresses).unwrap();
    store.remove(&first.addresses[..1]).unwrap();
    assert_eq!(open("boot-1").load().unwrap().leases, [first]);

    let later = open("boot-2").load().unwrap();
    assert_eq!((later.leases, later.void), (vec![], 1));
    assert_eq!(open("boot-1").load().unwrap(), Loaded::default());
}

#[test]
fn the_memory_store_conforms() {
    let store = MemoryStore::default();
    conforms(&|boot_id| Box::new(store.reopen(boot_id)));
}

#[test]
fn the_disk_store_conforms() {
    let dir = tempfile::tempdir().unwrap();
    conforms(&|boot_id| Box::new(DiskStore::open(dir.path(), boot_id).unwrap()));
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_ruined_lease_is_set_aside_and_its_addresses_are_still_known() {
    let dir = tempfile::tempdir().unwrap();
    let good = serde_json::to_vec(&lease(&["10.32.7.5"], "b")).unwrap();
    for inside in [&b""[..], b"{}", &good[..40], &good] {
        let file = dir.path().join("10.32.7.9+fd00::9@b.lease");
        fs::write(&file, inside).unwrap();
        let mut store = DiskStore::open(dir.path(), "b").unwrap();
        let loaded = store.load().unwrap();
        let corrupt = Corrupt {
            file: dir.path().join("10.32.7.9+fd00::9@b.corrupt"),
            addresses: lease(&["10.32.7.9", "fd00::9"], "b").addresses,
        };
        assert_eq!((loaded.leases, loaded.void), (vec![], 0));
        assert_eq!(loaded.corrupt, std::slice::from_ref(&corrupt));
        assert_eq!(
            store.load().unwrap().corrupt,
            std::slice::from_ref(&corrupt),
            "again"
        );
        store.remove_corrupt(&corrupt).unwrap();
        assert_eq!(store.load().unwrap(), Loaded::default());
    }
}

#[test]
fn half_written_files_are_swept_and_strange_ones_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    for name in [
        ".tmp-77-10.32.7.9@b.lease",
        "10.32.7.8@old.lease",
        "10.32.7.7@old.corrupt",
        "README",
        "nonsense@b.lease",
        "10.32.7.9.lease",
    ] {
        fs::write(dir.path().join(name), b"{").unwrap();
    }
    let loaded = DiskStore::open(dir.path(), "b").unwrap().load().unwrap();
    assert_eq!((loaded.void, loaded.corrupt), (1, vec![]));
    assert_eq!(
        names(dir.path()),
        ["10.32.7.9.lease", "README", "nonsense@b.lease"]
    );
}

#[test]
fn a_lease_file_is_root_s_own() {
    let dir = tempfile::tempdir().unwrap();
    let leases = dir.path().join("state/leases");
    let mut store = DiskStore::open(&leases, "b").unwrap();
    store.put(&lease(&["10.32.7.9"], "b")).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&leases), 0o700);
    assert_eq!(mode(&leases.join("10.32.7.9@b.lease")), 0o600);
}

#[test]
fn what_cannot_be_written_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = DiskStore::open(dir.path(), "b").unwrap();
    fs::create_dir(dir.path().join("10.32.7.9@b.lease")).unwrap();
    let error = store.put(&lease(&["10.32.7.9"], "b")).unwrap_err();
    assert!(error.to_string().contains("10.32.7.9@b.lease"), "{error}");
    assert_eq!(names(dir.path()), ["10.32.7.9@b.lease"]);
    for bad in ["", "a/b", "..", &"x".repeat(65)] {
        assert!(DiskStore::open(dir.path(), bad).is_err(), "{bad:?}");
    }
}

proptest::proptest! {
    #[test]
    fn no_file_name_does_harm(name in ".{0,80}(@b)?(\\.lease|\\.corrupt)?") {
        let _ = parse_name(&name);
    }
}
