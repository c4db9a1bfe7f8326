//! What stands while a demo is on, and how to look around in it.

use std::net::IpAddr;

use super::capture::Capture;
use super::net::{Netns, Privilege, Process, Segment};
use super::{Machine, StepError};

/// What stands while the demo is on. What is on top of another thing is dropped before it.
#[derive(Debug, Default)]
pub(super) struct Stage {
    pub(super) server: Option<Process>,
    pub(super) pods: Vec<Pod>,
    pub(super) machines: Vec<Machine>,
    pub(super) capture: Option<Capture>,
    pub(super) underlay: Option<(Segment, Netns)>,
    pub(super) privilege: Option<Privilege>,
}

#[derive(Debug)]
pub(super) struct Pod {
    pub(super) name: &'static str,
    /// Which of the machines it is on.
    pub(super) machine: usize,
    pub(super) netns: Netns,
    pub(super) addresses: Vec<IpAddr>,
}

impl Stage {
    pub(super) fn underlay(&self) -> Result<(&Segment, &Netns), StepError> {
        let (segment, netns) = self.underlay.as_ref().ok_or_else(nobody)?;
        Ok((segment, netns))
    }

    /// The pod that serves and the one that asks.
    pub(super) fn pair(&self) -> Result<[&Pod; 2], StepError> {
        match &self.pods[..] {
            [web, client] => Ok([web, client]),
            _ => Err(nobody()),
        }
    }

    pub(super) fn plaintext(&self) -> Option<u64> {
        self.capture
            .as_ref()
            .map(|capture| capture.counts().plaintext)
    }

    /// The ends of the agents' logs, for when something went wrong.
    pub(super) fn logs(&self) -> String {
        self.machines
            .iter()
            .map(|machine| (machine.name(), machine.log_tail()))
            .filter(|(_, log)| !log.is_empty())
            .map(|(name, log)| format!("--- {name} ---\n{log}\n"))
            .collect()
    }

    /// How to look around in what stands.
    pub(super) fn ways_in(&self) -> String {
        let user = match self.privilege {
            Some(Privilege::UserNamespace) => " -U --preserve-credentials",
            _ => "",
        };
        let mut text = "It stands until Ctrl-C. To look around, in another terminal:\n".to_owned();
        for machine in &self.machines {
            if let Some(pid) = machine.pid() {
                let name = machine.name();
                text +=
                    &format!("  nsenter -t {pid}{user} -m -n /proc/{pid}/exe status    # {name}\n");
            }
        }
        text + "Put `sh` in the place of `/proc/…/exe status` for a shell on that node."
    }
}

pub(super) fn nobody() -> StepError {
    StepError("an earlier step left nothing to work with".to_owned())
}
