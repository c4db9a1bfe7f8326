//! Leases on a real disk: the process killed, the disk full, the disk read-only. Each test runs
//! itself again as a child for that.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::IpAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use ipnet::IpNet;
use weft_cni::ipam::{Allocation, DiskStore, Lease, Leases, Restored, State};
use weft_cni::{Attachment, Error, SinceBoot, code};

/// Set in the child: the directory of its leases.
const DIR: &str = "WEFT_TEST_LEASES";

fn open(dir: &Path) -> (Leases, Restored) {
    let ranges: [IpNet; 2] = [
        "10.32.7.0/27".parse().unwrap(),
        "fd00:7::/64".parse().unwrap(),
    ];
    let store = DiskStore::open(dir, "boot").unwrap();
    Leases::restore(Box::new(store), &ranges).unwrap()
}

fn key(id: &str) -> Attachment {
    Attachment {
        container_id: id.parse().unwrap(),
        ifname: "eth0".parse().unwrap(),
    }
}

fn add(leases: &mut Leases, id: &str) -> Result<Lease, Error> {
    let wanted = Allocation {
        attachment: key(id),
        network: "weft".into(),
        name: None,
        namespace: None,
        netns: "/run/netns/x".into(),
        netns_inode: None,
        host_ifname: "weft1".into(),
        mtu: 1420,
        ports: Vec::new(),
    };
    leases.allocate(wanted, SinceBoot::now())?;
    Ok(leases.bind(&key(id))?)
}

/// This test again, with the directory given, by `prefix`.
fn child(test: &str, prefix: &[&str], dir: &Path) -> Command {
    let exe = env::current_exe().unwrap();
    let words = prefix.iter().map(Into::into).chain([exe.into_os_string()]);
    let words: Vec<std::ffi::OsString> = words.collect();
    let mut command = Command::new(&words[0]);
    command
        .args(&words[1..])
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(DIR, dir);
    command
}

#[test]
fn killed_at_any_moment_no_lease_is_lost_and_no_address_is_given_twice() {
    if let Some(dir) = env::var_os(DIR) {
        return come_and_go(Path::new(&dir));
    }
    let dir = tempfile::tempdir().unwrap();
    let mut told: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
    for round in 0..12 {
        let test = "killed_at_any_moment_no_lease_is_lost_and_no_address_is_given_twice";
        let mut process = child(test, &[], dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        // The round's number of acts seen, then killed in the middle of a later one.
        let mut unsure = None;
        let mut hear = |line: String| {
            let words: Vec<&str> = line.split(' ').collect();
            match words.as_slice() {
                ["has", id, addresses @ ..] => {
                    let addresses = addresses.iter().map(|at| at.parse().unwrap());
                    told.insert((*id).to_owned(), addresses.collect());
                }
                ["frees", id] => unsure = told.remove(*id).map(|_| (*id).to_owned()),
                _ => {}
            }
        };
        lines
            .by_ref()
            .take(20 + round * 7)
            .for_each(|line| hear(line.unwrap()));
        process.kill().unwrap();
        process.wait().unwrap();
        lines.for_each(|line| hear(line.unwrap()));

        let (mut leases, restored) = open(dir.path());
        assert_eq!(restored, Restored::default());
        let kept: BTreeMap<String, Vec<IpAddr>> = leases
            .list()
            .map(|lease| {
                let id = lease.attachment.container_id.to_string();
                (id, lease.addresses.clone())
            })
            .collect();
        for (id, addresses) in &told {
            assert_eq!(kept.get(id), Some(addresses), "round {round}: {id}");
        }
        let more: Vec<&String> = kept.keys().filter(|id| !told.contains_key(*id)).collect();
        // At most the one that was on its way out, or the one that was on its way in.
        assert!(more.len() <= 1, "round {round}: {more:?}, {unsure:?}");
        let mut all: Vec<&IpAddr> = kept.values().flatten().collect();
        let count = all.len();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), count, "round {round}: an address twice");
        let files = fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(files, kept.len(), "round {round}: litter");
        for id in more {
            leases.release(&key(id)).unwrap();
        }
    }
}

/// Allocates and releases until killed, saying each act when it is done, or about to be undone.
fn come_and_go(dir: &Path) {
    let (mut leases, _) = open(dir);
    let pid = std::process::id();
    // Ends the line that the test harness began.
    println!();
    for n in 0_u64.. {
        let count = leases.list().count();
        if count > 20 || (count > 4 && n % 3 == 0) {
            let nth = n as usize * 7 % count;
            let lease = leases.list().nth(nth).unwrap().clone();
            println!("frees {}", lease.attachment.container_id);
            leases.release(&lease.attachment).unwrap();
        } else {
            let id = format!("c{pid}-{n}");
            let lease = add(&mut leases, &id).unwrap();
            println!("has {id} {} {}", lease.addresses[0], lease.addresses[1]);
        }
        // A killed test must not leave this behind for long.
        if n > 1_000_000 {
            break;
        }
        if n % 16 == 0 {
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}

#[test]
fn a_full_and_a_read_only_disk_are_clear_errors_that_change_nothing() {
    if let Some(dir) = env::var_os(DIR) {
        return fill(Path::new(&dir));
    }
    let dir = tempfile::tempdir().unwrap();
    let mount = "mount -t tmpfs -o size=32k weft \"$WEFT_TEST_LEASES\" && exec \"$0\" \"$@\"";
    let prefix = [
        "unshare",
        "--user",
        "--map-root-user",
        "--mount",
        "sh",
        "-c",
        mount,
    ];
    let test = "a_full_and_a_read_only_disk_are_clear_errors_that_change_nothing";
    let output = child(test, &prefix, dir.path()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// In a file system of its own.
fn fill(dir: &Path) {
    let leases_dir = dir.join("leases");
    let (mut leases, _) = open(&leases_dir);
    let first = add(&mut leases, "first").unwrap();
    let ballast = dir.join("ballast");
    fs::write(&ballast, vec![1; 64 << 10]).unwrap_err();
    let refused = |leases: &mut Leases, why: &str| {
        let error = add(leases, "second").unwrap_err();
        assert_eq!(error.code, code::IO);
        assert!(error.msg.contains("10.32.7."), "{error}");
        assert!(error.msg.contains(why), "{error}");
        assert_eq!(leases.by_attachment(&key("second")), None);
        assert_eq!(leases.list().collect::<Vec<_>>(), [&first]);
        assert_eq!(open(&leases_dir).0.list().collect::<Vec<_>>(), [&first]);
    };
    refused(&mut leases, "No space left on device");
    fs::remove_file(&ballast).unwrap();
    let remount = |how: &str| {
        let mount = Command::new("mount").args(["-o", how]).arg(dir).status();
        assert!(mount.unwrap().success());
    };
    remount("remount,bind,ro");
    refused(&mut leases, "Read-only file system");
    leases.release(&key("first")).unwrap_err();
    assert!(leases.by_attachment(&key("first")).is_some());
    remount("remount,bind,rw");
    assert_eq!(add(&mut leases, "second").unwrap().state, State::Bound);
    leases.release(&key("first")).unwrap().unwrap();
}
