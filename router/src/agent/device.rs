//! The tunnel's device, kept as the roster wants it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use ipnet::IpNet;
use tracing::{debug, info, warn};
use weft_mesh::device::{Change, DeviceConfig, DeviceStatus};
use weft_mesh::diff::diff;
use weft_mesh::tunnel::userspace::{Access, SOCKETS};
use weft_mesh::tunnel::{AnyTunnel, Tunnel};
use weft_mesh::{PrivateKey, Roster};

use super::peers::{Look, Peers};
use super::probes::Probes;
use crate::config::Config;
use crate::control::{EngineStatus, PeerStatus};
use crate::host::MESH_LINK;

/// The device, who its peers are, and what the last look found.
pub(super) struct Device {
    config: Arc<Config>,
    private_key: PrivateKey,
    pub(super) probes: Probes,
    pub(super) peers: Peers,
    tunnel: Option<(AnyTunnel, String)>,
    status: DeviceStatus,
    /// Why nobody is heard.
    deaf: Option<String>,
}

impl Device {
    pub(super) fn new(config: Arc<Config>, private_key: PrivateKey, probes: Probes) -> Self {
        Self {
            config,
            private_key,
            probes,
            peers: Peers::default(),
            tunnel: None,
            status: DeviceStatus::default(),
            deaf: None,
        }
    }

    /// Why this node carries nothing, in words.
    pub(super) fn unready(&self) -> Option<String> {
        match self.tunnel {
            None => Some("there is no tunnel yet".into()),
            Some(_) => self.deaf.clone(),
        }
    }

    /// Whose WireGuard it is.
    pub(super) fn kind(&self) -> Option<&'static str> {
        self.tunnel.as_ref().map(|(tunnel, _)| match tunnel {
            AnyTunnel::Kernel(_) => "kernel",
            AnyTunnel::Userspace(_) => "userspace",
        })
    }

    /// Whether pods lose the mesh when this process ends.
    pub(super) fn ends_with_us(&self) -> bool {
        !matches!(self.tunnel, Some((AnyTunnel::Kernel(_), _)))
    }

    /// Opens the device if it is not open, and again if somebody deleted its link. True if it did.
    ///
    /// # Errors
    /// Why there is no device, in words.
    pub(super) fn open(&mut self, link_is_gone: bool) -> Result<bool, String> {
        if self.tunnel.is_some() && link_is_gone {
            warn!(link = MESH_LINK, "the link was deleted; it is made again");
            self.tunnel = None;
        }
        if self.tunnel.is_some() {
            return Ok(false);
        }
        let (tunnel, reason) = AnyTunnel::open(self.config.tunnel, MESH_LINK)
            .map_err(|error| format!("no tunnel: {error}"))?;
        info!("{reason}");
        if let AnyTunnel::Userspace(tunnel) = &tunnel
            && let Err(error) = tunnel.serve(Path::new(SOCKETS), Access::ReadOnly)
        {
            warn!(%error, dir = SOCKETS, "`wg show` will not find {MESH_LINK}");
        }
        self.tunnel = Some((tunnel, reason));
        self.probes.reopen();
        Ok(true)
    }

    /// Brings the device to what the roster wants, but for peers that go: their routes go first.
    ///
    /// # Errors
    /// What the device refused, in words.
    pub(super) async fn bring(&mut self, roster: &Roster, pools: &[IpNet]) -> Result<(), String> {
        let Some((tunnel, _)) = &self.tunnel else {
            self.status = DeviceStatus::default();
            return Ok(());
        };
        self.status = tunnel
            .status()
            .await
            .map_err(|error| format!("ask the tunnel: {error}"))?;
        let look = look(&self.config, &self.status, &self.probes, pools);
        self.peers.update(roster, look);
        let wanted = DeviceConfig {
            private_key: self.private_key.clone(),
            listen_port: self.config.port,
            fwmark: self.config.fwmark,
            peers: self.peers.wanted(roster),
        };
        let mut changes = Vec::new();
        let out = self
            .peers
            .out_of_time(roster, &self.status, SystemTime::now());
        for member in out.collect::<Vec<_>>() {
            warn!(peer = %member.name, "this host's clock was set back: the peer is made anew");
            let public_key = member.public_key;
            self.status.peers.remove(&public_key);
            changes.push(Change::RemovePeer { public_key });
        }
        let is_kept = |change: &Change| !matches!(change, Change::RemovePeer { .. });
        let wanted = diff(&wanted, &self.status, &BTreeMap::new());
        changes.extend(wanted.into_iter().filter(is_kept));
        if changes.is_empty() {
            return Ok(());
        }
        debug!(?changes, "tunnel");
        let applied = tunnel.apply(&changes).await;
        let applied = applied.map_err(|error| format!("change the tunnel: {error}"));
        self.deaf = match &applied {
            // Of what fails, a port that is taken is all peers' loss.
            Err(why) => {
                let is = tunnel.status().await.map_or(0, |status| status.listen_port);
                (is != self.config.port).then(|| why.clone())
            }
            Ok(()) => None,
        };
        applied
    }

    /// Removes the peers that are members no more.
    ///
    /// # Errors
    /// What the device refused, in words.
    pub(super) async fn remove_gone(&self, roster: &Roster) -> Result<(), String> {
        let Some((tunnel, _)) = &self.tunnel else {
            return Ok(());
        };
        let known: BTreeSet<_> = roster
            .members
            .values()
            .map(|member| member.public_key)
            .collect();
        let gone = self.status.peers.keys().filter(|key| !known.contains(*key));
        let changes: Vec<Change> = gone
            .map(|key| Change::RemovePeer { public_key: *key })
            .collect();
        if changes.is_empty() {
            return Ok(());
        }
        tunnel
            .apply(&changes)
            .await
            .map_err(|error| format!("remove a peer from the tunnel: {error}"))
    }

    /// The peers for `weft status`.
    pub(super) fn peers_report(&self, roster: &Roster, pools: &[IpNet]) -> Vec<PeerStatus> {
        self.peers.report(
            roster,
            look(&self.config, &self.status, &self.probes, pools),
        )
    }

    /// The device for `weft status`.
    pub(super) fn report(&self) -> EngineStatus {
        let (Some((_, reason)), Some(kind)) = (&self.tunnel, self.kind()) else {
            return EngineStatus::default();
        };
        let drops = self
            .status
            .drops
            .iter()
            .map(|(reason, n)| ((*reason).to_owned(), *n));
        EngineStatus {
            link: MESH_LINK.into(),
            kind: kind.into(),
            reason: reason
                .split_once(": ")
                .map_or(reason.as_str(), |(_, why)| why)
                .into(),
            public_key: self.private_key.public_key().to_string(),
            port: self.config.port,
            drops: drops.collect(),
        }
    }
}

fn look<'a>(
    config: &Config,
    status: &'a DeviceStatus,
    probes: &'a Probes,
    pools: &'a [IpNet],
) -> Look<'a> {
    Look {
        status,
        probes,
        pools,
        port: config.port,
        fwmark: config.fwmark,
        underlay_mtu: config.underlay_mtu,
        now: Instant::now(),
    }
}
