//! Listens for changes that others make to links, addresses, routes and nftables.
//!
//! It tells that there was one, never which: what is there is asked of the kernel. What goes on in
//! other people's tables (kube-proxy's, say, at every Service's change) is no news, but for what
//! could come in our way.

use std::io;

use netlink_sys::Socket;
use rustix::net::{RecvFlags, recv};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::{debug, warn};

use super::nft::is_news;
use super::socket::{DATAGRAM, frames};

/// `RTNLGRP_*`: links; IPv4 and IPv6 addresses and routes.
const ROUTE_GROUPS: [u32; 5] = [1, 5, 7, 9, 11];
/// `NFNLGRP_NFTABLES`
const NFT_GROUPS: [u32; 1] = [7];
/// Room for what a storm of changes brings before it is read; more than that is one "look again".
const RECEIVE_BUFFER: u32 = 1 << 20;

/// The listening tasks; they end with this value.
#[derive(Debug)]
pub(crate) struct Monitor {
    changed: watch::Receiver<u64>,
    tasks: Vec<JoinHandle<()>>,
}

impl Monitor {
    /// `own` are the ports of our sockets, whose changes are no news.
    pub(crate) fn start(own: Vec<u32>) -> io::Result<Self> {
        let (sender, changed) = watch::channel(0);
        let route = listen(libc::NETLINK_ROUTE, &ROUTE_GROUPS)?;
        let mut tasks = vec![tokio::spawn(watch(
            route,
            own.clone(),
            sender.clone(),
            |_| true,
        ))];
        // A kernel without nftables has no table to lose.
        if let Ok(nft) = listen(libc::NETLINK_NETFILTER, &NFT_GROUPS) {
            tasks.push(tokio::spawn(watch(nft, own, sender, is_news)));
        }
        Ok(Self { changed, tasks })
    }

    pub(crate) fn changed(&self) -> watch::Receiver<u64> {
        self.changed.clone()
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

fn listen(protocol: i32, groups: &[u32]) -> io::Result<AsyncFd<Socket>> {
    let mut socket = Socket::new(protocol as isize)?;
    socket.bind_auto()?;
    socket.set_rx_buf_sz(RECEIVE_BUFFER)?;
    for group in groups {
        socket.add_membership(*group)?;
    }
    socket.set_non_blocking(true)?;
    register(socket)
}

#[allow(unsafe_code)]
fn register(socket: Socket) -> io::Result<AsyncFd<Socket>> {
    // SAFETY: the socket owns its descriptor, names the same one always, and closes it only when
    // dropped, which is when the registration has ended.
    let registered = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) };
    Ok(registered?)
}

async fn watch(
    socket: AsyncFd<Socket>,
    own: Vec<u32>,
    changed: watch::Sender<u64>,
    matters: fn(&[u8]) -> bool,
) {
    let mut buffer = vec![0; DATAGRAM];
    loop {
        let Ok(mut ready) = socket.readable().await else {
            return;
        };
        let mut news = false;
        loop {
            match recv(socket.get_ref(), &mut buffer[..], RecvFlags::DONTWAIT) {
                Ok((_, length)) => {
                    let length = length.min(buffer.len());
                    news |= frames(&buffer[..length]).any(|frame| {
                        !own.contains(&frame.port_number()) && matters(frame.into_inner())
                    });
                }
                Err(rustix::io::Errno::AGAIN) => break,
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::NOBUFS) => {
                    debug!("netlink notifications were lost; looking again");
                    news = true;
                }
                Err(error) => {
                    warn!(%error, "listening for changes by netlink ended");
                    return;
                }
            }
        }
        ready.clear_ready();
        if news {
            changed.send_modify(|count| *count = count.wrapping_add(1));
        }
    }
}
