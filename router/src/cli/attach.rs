//! `weft attach` and `weft detach`: what the CNI plugin does, for a container that no runtime
//! attaches.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use weft_cni::Attachment;
use weft_cni::api::{AddReply, AddRequest, CniRequest, DelRequest, Empty};

use crate::attach::HAND_NETWORK;
use crate::control::ask_cni;

#[derive(Debug, clap::Args)]
pub(super) struct AttachArgs {
    #[command(flatten)]
    target: Target,

    /// The name that every node answers with the container's addresses, in the mesh's domain
    #[arg(long, value_name = "NAME")]
    name: Option<String>,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct DetachArgs {
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, clap::Args)]
struct Target {
    /// A process of the container, or the path of its network namespace
    #[arg(value_name = "PID | NETNS PATH")]
    container: String,

    /// The interface inside the container
    #[arg(long, value_name = "NAME", default_value = "eth0")]
    interface: String,
}

impl Target {
    fn path(&self) -> PathBuf {
        match self.container.parse::<u32>() {
            Ok(pid) => format!("/proc/{pid}/ns/net").into(),
            Err(_) => self.container.clone().into(),
        }
    }

    /// The namespace and who is meant: a namespace is named by its device and inode, so that each
    /// process in it and each path to it mean the same container.
    fn open(&self) -> anyhow::Result<(File, Attachment)> {
        let path = self.path();
        let file = File::open(&path).with_context(|| {
            format!(
                "{}: give the id of a running process or the path of a network namespace",
                path.display()
            )
        })?;
        let own = File::open("/proc/self/ns/net").context("/proc/self/ns/net")?;
        let (it, us) = (file.metadata()?, own.metadata()?);
        if it.dev() != us.dev() {
            bail!("{} is no network namespace", path.display());
        }
        if it.ino() == us.ino() {
            bail!(
                "{} is this host's own network namespace: only a container's can be attached",
                path.display()
            );
        }
        let attachment = Attachment {
            container_id: format!("netns-{}", it.ino()).try_into()?,
            ifname: self.interface.clone().try_into()?,
        };
        Ok((file, attachment))
    }
}

pub(super) fn attach(args: &AttachArgs, socket: &Path) -> anyhow::Result<()> {
    let (netns, attachment) = args.target.open()?;
    let request = AddRequest {
        attachment,
        netns_path: args.target.path().display().to_string(),
        network: HAND_NETWORK.into(),
        name: args.name.clone(),
        namespace: None,
        mtu: None,
        ports: Vec::new(),
    };
    let reply: AddReply = ask_cni(socket, CniRequest::Add(request), Some(netns.as_fd()))?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&reply)?);
        return Ok(());
    }
    for address in reply.addresses {
        println!("{}", address.address.addr());
    }
    Ok(())
}

pub(super) fn detach(args: &DetachArgs, socket: &Path) -> anyhow::Result<()> {
    let (_netns, attachment) = args.target.open()?;
    let request = DelRequest {
        attachment,
        network: HAND_NETWORK.into(),
        netns_path: Some(args.target.path().display().to_string()),
    };
    let Empty {} = ask_cni(socket, CniRequest::Del(request), None)?;
    Ok(())
}
