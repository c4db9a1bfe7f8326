//! CHECK: whether an attachment still is as its ADD left it, in the kernel and in the result.

use std::net::IpAddr;
use std::os::fd::OwnedFd;

use weft_cni::api::{CheckRequest, Empty, Expected, Route};
use weft_cni::ipam::Lease;
use weft_cni::{Error, code};

use super::{Workloads, gateway};
use crate::kernel::veth::{Inside, PodLink};

impl Workloads {
    /// CHECK.
    ///
    /// # Errors
    /// [`code::CHECK_FAILED`] with everything that is not as ADD left it.
    pub async fn check(
        &self,
        request: &CheckRequest,
        netns: Option<OwnedFd>,
    ) -> Result<Empty, Error> {
        let netns = netns
            .ok_or_else(|| Error::new(code::PROTOCOL, "a CHECK comes with a network namespace"))?;
        let leases = self.leases.lock().await;
        let lease = leases.by_attachment(&request.attachment).cloned();
        drop(leases);
        let lease = lease.ok_or_else(|| {
            Error::new(
                code::UNKNOWN_CONTAINER,
                format!("{} is not attached", request.attachment),
            )
        })?;
        let failed = |e: &dyn std::fmt::Display| Error::new(code::CHECK_FAILED, e.to_string());
        let pod_link = request.attachment.ifname.to_string();
        let twin = netns.try_clone().map_err(|e| failed(&e))?;
        let inside = self.kernel.inside(twin, pod_link.clone()).await;
        let mut wrong = differences(&request.expected, &lease, &inside.map_err(|e| failed(&e))?);
        wrong.extend(self.ports_missing(&lease).await.map_err(|e| failed(&e))?);
        // A plugin behind us may have changed the MTU; the node's own may be another by now.
        let mtu = request.expected.mtu.or(lease.mtu);
        let pod = PodLink {
            host_link: lease.host_ifname,
            pod_link,
            addresses: lease.addresses,
            mtu: mtu.unwrap_or(self.node.borrow().pod_mtu),
        };
        let found = self.kernel.check(netns, pod).await;
        wrong.extend(found.map_err(|e| failed(&e))?);
        if wrong.is_empty() {
            return Ok(Empty {});
        }
        Err(failed(&format!(
            "{}: {}",
            request.attachment,
            wrong.join("; ")
        )))
    }
}

/// What the earlier result says and the lease or the pod do not have, and the other way round.
fn differences(expected: &Expected, lease: &Lease, inside: &Inside) -> Vec<String> {
    let said: Vec<IpAddr> = expected.addresses.iter().map(|net| net.addr()).collect();
    let foreign = expected
        .addresses
        .iter()
        .filter(|net| !lease.addresses.contains(&net.addr()))
        .map(|net| format!("{net} is not this container's"));
    let unsaid = lease
        .addresses
        .iter()
        .filter(|address| !said.contains(address))
        .map(|address| format!("{address} is missing from the result"));
    let mac = expected.mac.iter().filter_map(|said| {
        let is = inside.mac.map(|mac| mac.to_string())?;
        let differs = !is.eq_ignore_ascii_case(said);
        differs.then(|| format!("the Ethernet address is {is}, not {said}"))
    });
    let routes = expected
        .routes
        .iter()
        .filter(|route| !is_way_out(route) && !has_route(inside, route))
        .map(|route| match route.gw {
            Some(gw) => format!("the pod has no route to {} by {gw}", route.dst),
            None => format!("the pod has no route to {}", route.dst),
        });
    foreign.chain(unsaid).chain(mac).chain(routes).collect()
}

/// Our own default routes, which are looked for in any case.
fn is_way_out(route: &Route) -> bool {
    route.dst.prefix_len() == 0 && route.gw == Some(gateway(route.dst.addr()))
}

fn has_route(inside: &Inside, wanted: &Route) -> bool {
    inside.routes.iter().any(|(destination, gateway)| {
        *destination == wanted.dst.trunc() && (wanted.gw.is_none() || *gateway == wanted.gw)
    })
}

#[cfg(test)]
mod tests {
    use ipnet::IpNet;
    use weft_cni::Attachment;
    use weft_cni::ipam::State;

    use super::*;
    use crate::host::Mac;

    fn lease() -> Lease {
        Lease {
            attachment: Attachment {
                container_id: "c1".parse().unwrap(),
                ifname: "eth0".parse().unwrap(),
            },
            network: "weft".into(),
            addresses: vec!["10.32.1.7".parse().unwrap()],
            name: None,
            namespace: None,
            netns: "/run/netns/c1".into(),
            netns_inode: None,
            host_ifname: "weft1".into(),
            mtu: Some(1420),
            ports: Vec::new(),
            state: State::Bound,
            boot_id: "boot".into(),
            made: weft_cni::SinceBoot(1),
        }
    }

    fn expected(
        addresses: &[&str],
        mac: Option<&str>,
        routes: &[(&str, Option<&str>)],
    ) -> Expected {
        let routes = routes.iter().map(|(dst, gw)| Route {
            dst: dst.parse().unwrap(),
            gw: gw.map(|gw| gw.parse().unwrap()),
        });
        Expected {
            mac: mac.map(ToOwned::to_owned),
            mtu: None,
            addresses: addresses.iter().map(|net| net.parse().unwrap()).collect(),
            routes: routes.collect(),
        }
    }

    #[test]
    fn each_word_of_the_result_is_looked_for() {
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        let inside = Inside {
            mac: Some(Mac([6, 0, 0, 0, 0, 0xab])),
            routes: vec![
                (net("10.9.0.0/16"), Some("169.254.1.1".parse().unwrap())),
                (net("fd00::/64"), None),
            ],
        };
        let own = ["10.32.1.7/32"];
        for (result, wanted) in [
            (expected(&own, None, &[]), vec![]),
            (expected(&own, Some("06:00:00:00:00:AB"), &[]), vec![]),
            (
                expected(&own, Some("06:00:00:00:00:ac"), &[]),
                vec!["the Ethernet address is 06:00:00:00:00:ab, not 06:00:00:00:00:ac"],
            ),
            (
                expected(&["10.32.1.8/32"], None, &[]),
                vec![
                    "10.32.1.8/32 is not this container's",
                    "10.32.1.7 is missing from the result",
                ],
            ),
            (
                expected(
                    &own,
                    None,
                    &[
                        ("0.0.0.0/0", Some("169.254.1.1")),
                        ("10.9.0.0/16", None),
                        ("10.9.0.0/16", Some("169.254.1.1")),
                        ("fd00::1/64", None),
                    ],
                ),
                vec![],
            ),
            (
                expected(
                    &own,
                    None,
                    &[("10.9.0.0/16", Some("10.9.0.1")), ("10.8.0.0/16", None)],
                ),
                vec![
                    "the pod has no route to 10.9.0.0/16 by 10.9.0.1",
                    "the pod has no route to 10.8.0.0/16",
                ],
            ),
        ] {
            assert_eq!(differences(&result, &lease(), &inside), wanted);
        }
    }
}
