//! The configuration that tells a runtime to use us: rendered, and put where it looks.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::{SpecVersion, atomic};

/// Sorted first by runtimes that take the first of the directory.
pub const FILE: &str = "05-weft.conflist";

/// What is to be said in the conflist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflist {
    /// The network's name.
    pub name: String,
    /// The agent's socket; `None` is the default one.
    pub socket: Option<PathBuf>,
    /// Bytes; `None` leaves it to the agent.
    pub mtu: Option<u32>,
    /// Reference plugins to run behind ours.
    pub behind: Vec<Behind>,
}

/// A reference plugin that is chained behind ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behind {
    Portmap,
    Bandwidth,
}

impl Conflist {
    /// The file's text. `cniVersion` is one that runtimes in the field know; newer ones find
    /// theirs in `cniVersions`. With plugins behind ours that list ends at 1.0.0, since a runtime
    /// speaks one version with all of a chain and the reference plugins of current distributions
    /// refuse 1.1.0; GC and STATUS are the price.
    pub fn render(&self) -> String {
        let mut ours = json!({ "type": "weft-cni" });
        if let Some(socket) = &self.socket {
            ours["socket"] = socket.to_string_lossy().into();
        }
        if let Some(mtu) = self.mtu {
            ours["mtu"] = mtu.into();
        }
        // A runtime tells each plugin that says so, and one is enough.
        if !self.behind.contains(&Behind::Portmap) {
            ours["capabilities"] = json!({ "portMappings": true });
        }
        let newest = match self.behind.as_slice() {
            [] => SpecVersion::NEWEST,
            _ => SpecVersion::V1_0_0,
        };
        let versions = SpecVersion::ALL.into_iter().filter(|each| *each <= newest);
        let mut plugins = vec![ours];
        plugins.extend(self.behind.iter().map(|each| plugin(*each)));
        let object = json!({
            "cniVersion": SpecVersion::V1_0_0.as_str(),
            "cniVersions": versions.map(SpecVersion::as_str).collect::<Vec<_>>(),
            "name": self.name,
            "plugins": plugins,
        });
        format!("{object:#}\n")
    }
}

fn plugin(behind: Behind) -> Value {
    match behind {
        Behind::Portmap => json!({
            "type": "portmap",
            "capabilities": { "portMappings": true },
        }),
        Behind::Bandwidth => json!({
            "type": "bandwidth",
            "capabilities": { "bandwidth": true },
        }),
    }
}

/// Whether a file had to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Installed {
    Written,
    /// It stood there as it should be.
    AsItWas,
}

/// Puts the conflist into a runtime's directory (`/etc/cni/net.d`), which is made if it is not
/// there. Runtimes watch it: they never see half a file, nor a write that changes nothing.
///
/// # Errors
/// With the file's name in it.
pub fn install(dir: &Path, conflist: &Conflist) -> io::Result<Installed> {
    let path = dir.join(FILE);
    let text = conflist.render();
    if fs::read(&path).is_ok_and(|present| present == text.as_bytes()) {
        return Ok(Installed::AsItWas);
    }
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(dir)
        .map_err(|e| atomic::named("make", dir, &e))?;
    atomic::write(&path, text.as_bytes(), 0o644)?;
    Ok(Installed::Written)
}

/// Takes the conflist away: runtimes start no more containers on us.
///
/// # Errors
/// With the file's name in it; one that is not there is as good as removed.
pub fn remove(dir: &Path) -> io::Result<()> {
    atomic::remove(&dir.join(FILE))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> Conflist {
        Conflist {
            name: "weft".into(),
            socket: Some("/run/other/weft.sock".into()),
            mtu: Some(1400),
            behind: vec![Behind::Portmap, Behind::Bandwidth],
        }
    }

    #[test]
    fn the_conflist_is_as_runtimes_want_it() {
        let golden = r#"{
  "cniVersion": "1.0.0",
  "cniVersions": [
    "0.3.1",
    "0.4.0",
    "1.0.0"
  ],
  "name": "weft",
  "plugins": [
    {
      "mtu": 1400,
      "socket": "/run/other/weft.sock",
      "type": "weft-cni"
    },
    {
      "capabilities": {
        "portMappings": true
      },
      "type": "portmap"
    },
    {
      "capabilities": {
        "bandwidth": true
      },
      "type": "bandwidth"
    }
  ]
}
"#;
        assert_eq!(full().render(), golden);
    }

    #[test]
    fn alone_it_offers_every_version_and_says_nothing_that_is_not_asked() {
        let alone = Conflist {
            name: "weft".into(),
            socket: None,
            mtu: None,
            behind: Vec::new(),
        };
        let value: Value = serde_json::from_str(&alone.render()).unwrap();
        assert_eq!(
            value["plugins"],
            json!([{ "type": "weft-cni", "capabilities": { "portMappings": true } }])
        );
        let versions = json!(["0.3.1", "0.4.0", "1.0.0", "1.1.0"]);
        assert_eq!(value["cniVersions"], versions);
    }

    #[test]
    fn it_is_written_once_and_again_only_when_it_differs() {
        let dir = tempfile::tempdir().unwrap();
        let net_d = dir.path().join("cni/net.d");
        assert_eq!(install(&net_d, &full()).unwrap(), Installed::Written);
        assert_eq!(install(&net_d, &full()).unwrap(), Installed::AsItWas);
        let plain = Conflist {
            behind: Vec::new(),
            ..full()
        };
        assert_eq!(install(&net_d, &plain).unwrap(), Installed::Written);
        assert_eq!(
            fs::read_to_string(net_d.join(FILE)).unwrap(),
            plain.render()
        );
        assert_eq!(fs::read_dir(&net_d).unwrap().count(), 1);
        remove(&net_d).unwrap();
        remove(&net_d).unwrap();
        assert_eq!(fs::read_dir(&net_d).unwrap().count(), 0);
    }
}
