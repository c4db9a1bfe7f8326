//! Removes links on a thread of its own: the kernel takes ten milliseconds and more over each.

use std::io;
use std::sync::mpsc;
use std::thread;

use tokio::sync::oneshot;

use crate::kernel::linux::flat;
use crate::kernel::netlink::{self, Rtnetlink};

/// Links that may wait for their removal.
const REMOVALS: usize = 4096;

/// A link that is down and waits for its removal.
#[derive(Debug)]
pub struct Removal(Option<oneshot::Receiver<io::Result<()>>>);

impl Removal {
    /// Of a link that was gone before.
    pub(super) fn done() -> Self {
        Self(None)
    }

    /// Returns when the link is gone. Dropping this instead removes it all the same.
    ///
    /// # Errors
    /// When the kernel refused.
    pub async fn finished(self) -> io::Result<()> {
        match self.0 {
            None => Ok(()),
            Some(outcome) => outcome
                .await
                .unwrap_or_else(|_| Err(io::Error::other("the thread that removes links ended"))),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Reaper {
    queue: mpsc::SyncSender<(u32, oneshot::Sender<io::Result<()>>)>,
    port: u32,
}

impl Reaper {
    pub(crate) fn start() -> io::Result<Self> {
        let mut netlink = Rtnetlink::open()?;
        let port = netlink.port();
        let (queue, links) = mpsc::sync_channel::<(u32, oneshot::Sender<_>)>(REMOVALS);
        thread::Builder::new()
            .name("weft-reaper".into())
            .spawn(move || {
                while let Ok((index, done)) = links.recv() {
                    let outcome = match flat(netlink.transact(vec![netlink::remove_link(index)])) {
                        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
                        outcome => outcome,
                    };
                    // Whoever asked need not wait.
                    let _ = done.send(outcome);
                }
            })?;
        Ok(Self { queue, port })
    }

    pub(crate) fn port(&self) -> u32 {
        self.port
    }

    pub(super) fn remove(&self, index: u32) -> io::Result<Removal> {
        let (done, outcome) = oneshot::channel();
        self.queue
            .try_send((index, done))
            .map_err(|_| io::Error::other("too many removals wait"))?;
        Ok(Removal(Some(outcome)))
    }
}
