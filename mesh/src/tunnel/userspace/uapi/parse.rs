//! What is asked by `set=1`: all of it is read before any of it is done.

use std::net::SocketAddr;

use data_encoding::HEXLOWER_PERMISSIVE;
use ipnet::IpNet;

use crate::tunnel::userspace::update::{PeerUpdate, Prefix, Update};
use crate::{PresharedKey, PrivateKey, PublicKey};

/// Reads the lines after `set=1`.
///
/// # Errors
/// EINVAL for a key or a value that the protocol has not, EPROTO for another version of it.
pub(super) fn update(lines: &str) -> Result<Update, i32> {
    let mut update = Update::default();
    for line in lines.lines().filter(|line| !line.is_empty()) {
        let (key, value) = line.split_once('=').ok_or(libc::EINVAL)?;
        if key == "public_key" {
            let key = PublicKey::from_bytes(bytes(value)?);
            update.peers.push(PeerUpdate::new(key));
        } else if let Some(peer) = update.peers.last_mut() {
            self::peer(peer, key, value)?;
        } else {
            device(&mut update, key, value)?;
        }
    }
    Ok(update)
}

fn device(update: &mut Update, key: &str, value: &str) -> Result<(), i32> {
    match key {
        "private_key" => {
            let key = bytes(value)?;
            let is_none = key == [0; 32];
            update.private_key = Some((!is_none).then(|| PrivateKey::from_bytes(key)));
        }
        "listen_port" => update.listen_port = Some(number(value)?),
        "fwmark" => update.fwmark = Some(number(value)?),
        "replace_peers" => update.replace_peers = is_true(value)?,
        _ => return Err(libc::EINVAL),
    }
    Ok(())
}

fn peer(peer: &mut PeerUpdate, key: &str, value: &str) -> Result<(), i32> {
    match key {
        "remove" => peer.remove = is_true(value)?,
        "update_only" => peer.update_only = is_true(value)?,
        "preshared_key" => {
            let key = bytes(value)?;
            let is_none = key == [0; 32];
            peer.preshared_key = Some((!is_none).then(|| PresharedKey::from_bytes(key)));
        }
        "endpoint" => {
            let endpoint: SocketAddr = value.parse().map_err(|_| libc::EINVAL)?;
            if endpoint.port() == 0 {
                return Err(libc::EINVAL);
            }
            peer.endpoint = Some(endpoint);
        }
        "persistent_keepalive_interval" => peer.persistent_keepalive = Some(number(value)?),
        "replace_allowed_ips" => peer.replace_allowed_ips = is_true(value)?,
        "allowed_ip" => {
            let (prefix, what) = match value.strip_prefix('-') {
                Some(prefix) => (prefix, Prefix::Remove),
                None => (value.strip_prefix('+').unwrap_or(value), Prefix::Add),
            };
            let prefix: IpNet = prefix.parse().map_err(|_| libc::EINVAL)?;
            peer.allowed_ips.push((prefix.trunc(), what));
        }
        "protocol_version" if value == "1" => {}
        "protocol_version" => return Err(libc::EPROTO),
        _ => return Err(libc::EINVAL),
    }
    Ok(())
}

fn bytes(value: &str) -> Result<[u8; 32], i32> {
    let bytes = HEXLOWER_PERMISSIVE.decode(value.as_bytes());
    let bytes = bytes.map_err(|_| libc::EINVAL)?;
    bytes.try_into().map_err(|_| libc::EINVAL)
}

fn number<T: std::str::FromStr>(value: &str) -> Result<T, i32> {
    value.parse().map_err(|_| libc::EINVAL)
}

fn is_true(value: &str) -> Result<bool, i32> {
    if value == "true" {
        Ok(true)
    } else {
        Err(libc::EINVAL)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: &str = "b85996fecc9c7f1fc6d2572a76eda11d59bcd20be8e543b15ce4bd85a8e75a33";
    const ZERO: &str = "0000000000000000000000000000000000000000000000000000000000000000";

    #[test]
    fn a_whole_change_is_read() {
        let text = format!(
            "private_key={KEY}\nfwmark=0\nlisten_port=12912\nreplace_peers=true\n\
             public_key={KEY}\npreshared_key={KEY}\nendpoint=[abcd:23::33%2]:51820\n\
             replace_allowed_ips=true\nallowed_ip=192.168.4.4/24\nallowed_ip=-10.0.0.0/8\n\
             public_key={ZERO}\nremove=true\npersistent_keepalive_interval=111\n\
             protocol_version=1\npreshared_key={ZERO}\nupdate_only=true\n\n"
        );
        let update = update(&text).unwrap();
        assert!(update.private_key.flatten().is_some());
        assert_eq!((update.fwmark, update.listen_port), (Some(0), Some(12912)));
        assert!(update.replace_peers);
        let [one, two] = &update.peers[..] else {
            panic!("two peers");
        };
        assert_eq!(one.endpoint.unwrap().to_string(), "[abcd:23::33%2]:51820");
        let prefix = |text: &str| text.parse::<IpNet>().unwrap();
        assert_eq!(
            one.allowed_ips,
            [
                (prefix("192.168.4.0/24"), Prefix::Add),
                (prefix("10.0.0.0/8"), Prefix::Remove)
            ]
        );
        assert!(one.replace_allowed_ips && !one.remove && !one.update_only);
        assert!(two.remove && two.update_only);
        assert_eq!(two.preshared_key, Some(None));
        assert_eq!(two.persistent_keepalive, Some(111));
    }

    #[test]
    fn what_the_protocol_has_not_is_refused_with_its_errno() {
        let peer = |line: &str| format!("public_key={KEY}\n{line}\n");
        for (line, errno) in [
            ("listen_port=65536".to_owned(), libc::EINVAL),
            ("listen_port".to_owned(), libc::EINVAL),
            ("mtu=1420".to_owned(), libc::EINVAL),
            ("private_key=00".to_owned(), libc::EINVAL),
            ("replace_peers=false".to_owned(), libc::EINVAL),
            ("allowed_ip=10.0.0.0/8".to_owned(), libc::EINVAL),
            (peer("endpoint=example.org:51820"), libc::EINVAL),
            (peer("endpoint=192.0.2.1:0"), libc::EINVAL),
            (peer("allowed_ip=10.0.0.0/33"), libc::EINVAL),
            (peer("persistent_keepalive_interval=70000"), libc::EINVAL),
            (peer("listen_port=1"), libc::EINVAL),
            (peer("protocol_version=2"), libc::EPROTO),
        ] {
            assert_eq!(update(&line).map(drop), Err(errno), "{line}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics_the_reader(text in "[a-z_]{0,12}=?[-+0-9a-f:./%\\[\\]\n]{0,80}") {
            let _ = update(&text);
            let _ = update(&format!("public_key={KEY}\n{text}"));
        }
    }
}
