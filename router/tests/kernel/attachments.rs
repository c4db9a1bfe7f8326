//! Attachments against a real kernel, without an agent around them: what is left undone at first.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ipnet::IpNet;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use weft_cni::api::{AddReply, AddRequest, DelRequest};
use weft_cni::ipam::{Allocation, DiskStore, Leases};
use weft_cni::{Attachment, SinceBoot, note};
use weft_router::attach::{Node, Workloads};
use weft_router::kernel::Linux;
use weft_router::kernel::veth::{PodLink, host_link};

use crate::space::{self, Pod, sh, try_sh, until};

const BOOT: &str = "boot";

/// A node's state, in which one agent follows another.
struct Bed {
    dir: TempDir,
}

impl Bed {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { dir }
    }

    fn leases(&self) -> PathBuf {
        self.dir.path().join("leases")
    }

    fn notes(&self) -> PathBuf {
        self.dir.path().join("notes")
    }

    fn workloads(&self) -> Arc<Workloads> {
        let workloads = Workloads::restore(
            Linux::open(self.dir.path()).unwrap(),
            &self.leases(),
            self.notes(),
            BOOT,
            "weft.local".into(),
            &ranges(),
        );
        Arc::new(workloads.unwrap())
    }

    fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.leases()).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    /// Leases that an earlier agent kept.
    fn earlier(&self) -> Leases {
        let store = DiskStore::open(&self.leases(), BOOT).unwrap();
        Leases::restore(Box::new(store), &ranges()).unwrap().0
    }
}

/// Looks after the attachments until it is dropped.
struct Tending(JoinHandle<()>);

impl Tending {
    fn of(workloads: &Arc<Workloads>) -> Self {
        Self(tokio::spawn(Arc::clone(workloads).tend()))
    }
}

impl Drop for Tending {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn ranges() -> Vec<IpNet> {
    vec!["10.32.1.0/24".parse().unwrap()]
}

fn key(id: &str) -> Attachment {
    Attachment {
        container_id: id.parse().unwrap(),
        ifname: "eth0".parse().unwrap(),
    }
}

fn del(id: &str) -> DelRequest {
    DelRequest {
        attachment: key(id),
        network: "net".into(),
        netns_path: None,
    }
}

fn ready(workloads: &Arc<Workloads>) {
    let node = Node {
        addresses: vec!["10.32.1.1".parse().unwrap()],
        ranges: ranges(),
        pod_mtu: 1420,
        ..Node::default()
    };
    workloads.node_is(node);
}

async fn add(workloads: &Arc<Workloads>, id: &str, pod: &Pod) -> AddReply {
    let request = AddRequest {
        attachment: key(id),
        netns_path: pod.path(),
        network: "net".into(),
        name: None,
        namespace: None,
        mtu: None,
        ports: Vec::new(),
    };
    workloads.add(request, Some(pod.netns())).await.unwrap()
}

/// A link as an attach makes it, with no lease for it.
async fn made(state: &Path, id: &str, address: &str, pod: &Pod) -> String {
    let link = PodLink {
        host_link: host_link(id, "eth0"),
        pod_link: "eth0".into(),
        addresses: vec![address.parse().unwrap()],
        mtu: 1420,
    };
    let kernel = Linux::open(state).unwrap();
    kernel.attach(pod.netns(), link.clone()).await.unwrap();
    link.host_link
}

fn is_there(link: &str) -> bool {
    try_sh(&format!("ip link show {link}")).0
}

#[test]
fn a_del_that_the_kernel_refuses_succeeds_and_is_done_later() {
    space::run(|| async {
        let bed = Bed::new();
        let workloads = bed.workloads();
        workloads.settle().await.unwrap();
        ready(&workloads);
        let pod = Pod::new();
        let link = add(&workloads, "a", &pod).await.host_ifname;
        // No veth of ours bears the name, so the kernel's side refuses to touch it.
        sh(&format!(
            "ip link del {link} && ip tuntap add {link} mode tun"
        ));
        workloads.del(&del("a")).await.unwrap();
        assert_eq!(bed.files().len(), 1, "held until somebody looked");
        let _tending = Tending::of(&workloads);
        workloads.links_are(vec![link.clone()]);
        until("the lease is given back", || bed.files().is_empty()).await;
        assert!(is_there(&link));
    });
}

#[test]
fn a_held_lease_and_its_link_are_removed_while_the_agent_runs() {
    space::run(|| async {
        let bed = Bed::new();
        let pod = Pod::new();
        let link = made(bed.dir.path(), "a", "10.32.1.2", &pod).await;
        let mut earlier = bed.earlier();
        let wanted = Allocation {
            attachment: key("a"),
            network: "net".into(),
            name: None,
            namespace: None,
            netns: "/run/netns/a".into(),
            netns_inode: None,
            host_ifname: link.clone(),
            mtu: 1420,
            ports: Vec::new(),
        };
        earlier.allocate(wanted, SinceBoot::now()).unwrap();
        earlier.bind(&key("a")).unwrap();
        earlier.hold(&key("a")).unwrap();
        let workloads = bed.workloads();
        let _tending = Tending::of(&workloads);
        workloads.links_are(vec![link.clone()]);
        until("the lease is given back", || bed.files().is_empty()).await;
        assert!(!is_there(&link));
    });
}

#[test]
fn what_is_held_for_a_link_that_another_lease_has_leaves_the_link_alone() {
    space::run(|| async {
        let bed = Bed::new();
        let workloads = bed.workloads();
        workloads.settle().await.unwrap();
        ready(&workloads);
        let pod = Pod::new();
        let link = add(&workloads, "a", &pod).await.host_ifname;
        drop(workloads);
        // Killed between the two steps of a change of addresses: both leases are there.
        let mut store = DiskStore::open(&bed.leases(), BOOT).unwrap();
        let mut older = bed.earlier().by_attachment(&key("a")).cloned().unwrap();
        older.addresses = vec!["10.99.0.2".parse().unwrap()];
        older.made = SinceBoot(1);
        weft_cni::ipam::Store::put(&mut store, &older).unwrap();
        let workloads = bed.workloads();
        workloads.settle().await.unwrap();
        assert_eq!(bed.files(), [format!("10.32.1.2@{BOOT}.lease")]);
        assert!(is_there(&link));
    });
}

#[test]
fn a_note_left_while_the_agent_runs_is_settled_at_the_next_look() {
    space::run(|| async {
        let bed = Bed::new();
        let workloads = bed.workloads();
        workloads.settle().await.unwrap();
        ready(&workloads);
        let pods = [Pod::new(), Pod::new()];
        let gone = add(&workloads, "a", &pods[0]).await.host_ifname;
        let kept = add(&workloads, "b", &pods[1]).await.host_ifname;
        let _tending = Tending::of(&workloads);
        note::leave(&bed.notes(), &del("a"), SinceBoot::now()).unwrap();
        workloads.links_are(vec![gone.clone(), kept.clone()]);
        until("the lease is given back", || bed.files().len() == 1).await;
        assert!(!is_there(&gone) && is_there(&kept));
        until("the note is taken", || {
            note::list(&bed.notes(), 9).unwrap().is_empty()
        })
        .await;
    });
}

#[test]
fn a_ruined_leases_addresses_are_free_when_the_link_that_may_bear_them_is_gone() {
    space::run(|| async {
        let bed = Bed::new();
        let pod = Pod::new();
        let link = made(bed.dir.path(), "a", "10.32.1.2", &pod).await;
        std::fs::create_dir_all(bed.leases()).unwrap();
        std::fs::write(bed.leases().join(format!("10.32.1.2@{BOOT}.lease")), b"{").unwrap();
        let workloads = bed.workloads();
        assert_eq!(bed.files(), [format!("10.32.1.2@{BOOT}.corrupt")]);
        workloads.settle().await.unwrap();
        assert!(!is_there(&link) && bed.files().is_empty());
    });
}

#[test]
fn an_add_goes_by_the_ranges_that_the_node_has_now() {
    space::run(|| async {
        let bed = Bed::new();
        let workloads = bed.workloads();
        workloads.settle().await.unwrap();
        ready(&workloads);
        let pods = [Pod::new(), Pod::new()];
        add(&workloads, "a", &pods[0]).await;
        workloads.node_is(Node {
            ranges: vec!["10.32.9.0/24".parse().unwrap()],
            pod_mtu: 1420,
            ..Node::default()
        });
        // Nobody tends: the ADD itself takes the ranges, and the first pod to the first address.
        let reply = add(&workloads, "b", &pods[1]).await;
        assert_eq!(reply.addresses[0].address, "10.32.9.3/32".parse().unwrap());
        assert!(bed.files().iter().all(|name| name.starts_with("10.32.9.")));
    });
}
