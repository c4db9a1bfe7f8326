//! Datagrams on the tunnel's port that are not WireGuard's: they are the control side's, which may use
//! the port's mapping in a NAT and learn a path's MTU. WireGuard's messages begin with a type from 1
//! to 4 and three zeros (section 5.4 of its paper), so whatever begins otherwise is free for that.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};

use super::table::Path;
use super::wire::{DATA, INITIATION};

/// Datagrams that wait for the control side; those that come then are dropped and counted.
const WAITING: usize = 64;

/// A datagram that is not WireGuard's. Nothing of it is authentic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    pub bytes: Vec<u8>,
    pub source: SocketAddr,
    /// This host's address that it was sent to, where it is known.
    pub destination: Option<IpAddr>,
}

/// Whether a datagram would be WireGuard's, whoever sent it.
pub(super) fn is_wireguard(bytes: &[u8]) -> bool {
    matches!(bytes, [INITIATION..=DATA, 0, 0, 0, ..])
}

/// Who takes what is not WireGuard's.
#[derive(Default)]
pub(super) struct Others(Mutex<Option<SyncSender<Datagram>>>);

impl Others {
    /// From now on this one takes them.
    pub(super) fn taken(&self) -> Receiver<Datagram> {
        let (sender, receiver) = sync_channel(WAITING);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
        receiver
    }

    /// Whether somebody takes it, and has room.
    pub(super) fn offer(&self, bytes: &[u8], path: Path) -> bool {
        let taker = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(taker) = &*taker else {
            return false;
        };
        let datagram = Datagram {
            bytes: bytes.to_vec(),
            source: path.remote,
            destination: path.local,
        };
        taker.try_send(datagram).is_ok()
    }
}

/// Why a datagram of the control side is not sent as it is.
pub(super) fn refused(bytes: &[u8]) -> io::Result<()> {
    match is_wireguard(bytes) {
        true => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it begins as a message of WireGuard's does",
        )),
        false => Ok(()),
    }
}
