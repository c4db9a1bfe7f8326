//! What is answered to `get=1`.

use std::fmt::Write;
use std::time::{Duration, SystemTime};

use data_encoding::HEXLOWER;

use crate::tunnel::userspace::configure::{PeerReading, Reading};

/// Writes all of the device, its keys too: the socket is root's.
pub(super) fn device(device: &Reading, out: &mut String) {
    if let Some(key) = &device.private_key {
        line(out, "private_key", HEXLOWER.encode(key.expose()));
    }
    line(out, "listen_port", device.listen_port);
    if device.fwmark != 0 {
        line(out, "fwmark", device.fwmark);
    }
    for peer in &device.peers {
        self::peer(peer, out);
    }
}

fn peer(peer: &PeerReading, out: &mut String) {
    let status = &peer.status;
    line(out, "public_key", HEXLOWER.encode(peer.key.as_bytes()));
    let preshared = peer
        .preshared_key
        .as_ref()
        .map_or(&[0; 32], |key| key.expose());
    line(out, "preshared_key", HEXLOWER.encode(preshared));
    line(out, "protocol_version", 1);
    if let Some(endpoint) = status.endpoint {
        line(out, "endpoint", endpoint);
    }
    let handshake = status.last_handshake.map_or(Duration::ZERO, |at| {
        at.duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default()
    });
    line(out, "last_handshake_time_sec", handshake.as_secs());
    line(out, "last_handshake_time_nsec", handshake.subsec_nanos());
    line(out, "tx_bytes", status.tx_bytes);
    line(out, "rx_bytes", status.rx_bytes);
    let keepalive = status.persistent_keepalive.unwrap_or(0);
    line(out, "persistent_keepalive_interval", keepalive);
    for prefix in &status.allowed_ips {
        line(out, "allowed_ip", prefix);
    }
}

fn line(out: &mut String, key: &str, value: impl std::fmt::Display) {
    // A string takes all.
    let _ = writeln!(out, "{key}={value}");
}
