//! The result of an ADD, in the shape of each version of the specification, and earlier results
//! read back.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::api::{Dns, Route};
use crate::{Error, SpecVersion, code};

/// More than this many interfaces, addresses or routes in an earlier result are refused.
const MOST: usize = 1024;

/// What a chain of plugins has made of a container's network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct AddResult {
    #[serde(default, deserialize_with = "nullable")]
    pub interfaces: Vec<Interface>,
    #[serde(default, deserialize_with = "nullable")]
    pub ips: Vec<Ip>,
    #[serde(default, deserialize_with = "nullable")]
    pub routes: Vec<ResultRoute>,
    #[serde(default, deserialize_with = "nullable")]
    pub dns: Dns,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Interface {
    pub name: String,
    #[serde(default)]
    pub mac: Option<String>,
    /// From 1.1.0 on.
    #[serde(default)]
    pub mtu: Option<u32>,
    /// The namespace's path; absent or empty is the host.
    #[serde(default)]
    pub sandbox: Option<String>,
    /// From 1.1.0 on.
    #[serde(default, rename = "socketPath")]
    pub socket_path: Option<String>,
    /// From 1.1.0 on.
    #[serde(default, rename = "pciID")]
    pub pci_id: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Ip {
    pub address: IpNet,
    #[serde(default)]
    pub gateway: Option<IpAddr>,
    /// Its place in `interfaces`.
    #[serde(default)]
    pub interface: Option<u32>,
}

/// A route with what 1.1.0 added.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ResultRoute {
    #[serde(flatten)]
    pub route: Route,
    #[serde(default)]
    pub mtu: Option<u32>,
    #[serde(default)]
    pub advmss: Option<u32>,
    #[serde(default)]
    pub priority: Option<u32>,
    #[serde(default)]
    pub table: Option<u32>,
    #[serde(default)]
    pub scope: Option<u8>,
}

impl From<Route> for ResultRoute {
    fn from(route: Route) -> Self {
        Self {
            route,
            mtu: None,
            advmss: None,
            priority: None,
            table: None,
            scope: None,
        }
    }
}

impl AddResult {
    /// Reads a result of any version that we speak.
    ///
    /// # Errors
    /// [`code::DECODE`] when it is not one, or is beyond all bounds.
    pub fn parse(value: &Value) -> Result<Self, Error> {
        let failed = |why: String| Error::new(code::DECODE, format!("prevResult: {why}"));
        // A list would be taken as the fields in their order.
        if !value.is_object() {
            return Err(failed("not an object".to_owned()));
        }
        let result = Self::deserialize(value).map_err(|e| failed(e.to_string()))?;
        for (key, count) in [
            ("interfaces", result.interfaces.len()),
            ("ips", result.ips.len()),
            ("routes", result.routes.len()),
        ] {
            if count > MOST {
                return Err(failed(format!("{count} {key}, {MOST} are allowed")));
            }
        }
        let beyond = |ip: &Ip| {
            ip.interface
                .is_some_and(|index| index as usize >= result.interfaces.len())
        };
        if let Some(ip) = result.ips.iter().find(|ip| beyond(ip)) {
            return Err(failed(format!("{} is on no interface", ip.address)));
        }
        Ok(result)
    }

    /// Puts another result behind this one, whose DNS counts unless it is empty.
    pub fn extend(&mut self, mut other: Self) {
        let before = self.interfaces.len() as u32;
        for ip in &mut other.ips {
            ip.interface = ip.interface.map(|index| index + before);
        }
        self.interfaces.append(&mut other.interfaces);
        self.ips.append(&mut other.ips);
        self.routes.append(&mut other.routes);
        if other.dns != Dns::default() {
            self.dns = other.dns;
        }
    }

    /// The object that the specification of that version wants.
    pub fn to_json(&self, version: SpecVersion) -> Value {
        let mut object = json!({
            "cniVersion": version.as_str(),
            "interfaces": self.interfaces.iter().map(|each| interface(each, version)).collect::<Vec<_>>(),
            "ips": self.ips.iter().map(|each| ip(each, version)).collect::<Vec<_>>(),
            "dns": self.dns,
        });
        if !self.routes.is_empty() {
            let routes = self.routes.iter().map(|each| route(each, version));
            object["routes"] = routes.collect();
        }
        object
    }
}

fn interface(interface: &Interface, version: SpecVersion) -> Value {
    let mut object = Map::new();
    object.insert("name".into(), interface.name.as_str().into());
    put(&mut object, "mac", interface.mac.as_deref());
    put(&mut object, "sandbox", interface.sandbox.as_deref());
    if version >= SpecVersion::V1_1_0 {
        put(&mut object, "mtu", interface.mtu);
        put(&mut object, "socketPath", interface.socket_path.as_deref());
        put(&mut object, "pciID", interface.pci_id.as_deref());
    }
    object.into()
}

fn ip(ip: &Ip, version: SpecVersion) -> Value {
    let mut object = Map::new();
    object.insert("address".into(), ip.address.to_string().into());
    put(&mut object, "gateway", ip.gateway.map(|at| at.to_string()));
    put(&mut object, "interface", ip.interface);
    if version < SpecVersion::V1_0_0 {
        let family = match ip.address {
            IpNet::V4(_) => "4",
            IpNet::V6(_) => "6",
        };
        object.insert("version".into(), family.into());
    }
    object.into()
}

fn route(route: &ResultRoute, version: SpecVersion) -> Value {
    let mut object = Map::new();
    object.insert("dst".into(), route.route.dst.to_string().into());
    put(&mut object, "gw", route.route.gw.map(|at| at.to_string()));
    if version >= SpecVersion::V1_1_0 {
        put(&mut object, "mtu", route.mtu);
        put(&mut object, "advmss", route.advmss);
        put(&mut object, "priority", route.priority);
        put(&mut object, "table", route.table);
        put(&mut object, "scope", route.scope);
    }
    object.into()
}

fn put(object: &mut Map<String, Value>, key: &str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        object.insert(key.to_owned(), value.into());
    }
}

/// Go writes an empty list as `null`.
fn nullable<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests;
