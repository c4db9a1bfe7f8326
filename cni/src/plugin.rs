//! The plugin: one verb, one call of the agent, one JSON object on standard output.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use rustix::fs::{OFlags, fstat, fstatfs, stat};
use serde_json::Value;

use crate::api::{
    AddReply, AddRequest, CheckRequest, CniRequest, DelRequest, Empty, Expected, GcRequest,
    MAX_FRAME, Request, StatusRequest,
};
use crate::client::{CallError, call};
use crate::conf::{self, NetConf};
use crate::env::{self, Invocation, Target};
use crate::result::{AddResult, Interface, Ip, ResultRoute};
use crate::{Attachment, Error, SinceBoot, SpecVersion, code, loopback, note};

/// What the plugin is called by: `loopback` is another plugin, in the same file.
pub const NAMES: [&str; 2] = ["weft-cni", loopback::NAME];

const ADD_WITHIN: Duration = Duration::from_secs(60);
/// Short, since a note does as well.
const DEL_WITHIN: Duration = Duration::from_secs(20);
const CHECK_WITHIN: Duration = Duration::from_secs(20);
const GC_WITHIN: Duration = Duration::from_secs(60);
const STATUS_WITHIN: Duration = Duration::from_secs(5);

/// `NSFS_MAGIC` of `linux/magic.h`.
const NSFS: u64 = 0x6e73_6673;
/// `RT_TABLE_MAIN` of `linux/rtnetlink.h`.
const MAIN_TABLE: u32 = 254;

/// The whole run of the plugin: environment and standard input in, standard output and exit code
/// out. Also what `weft` does when it is called by one of [`NAMES`].
pub fn run() -> ExitCode {
    // What goes to standard error is lost in many runtimes; a panic becomes an error like others.
    panic::set_hook(Box::new(|_| {}));
    let mut input = Vec::new();
    let answer = caught(|| {
        let mut stdin = io::stdin().lock().take(MAX_FRAME as u64 + 1);
        stdin
            .read_to_end(&mut input)
            .map_err(|e| Error::new(code::IO, format!("read standard input: {e}")))?;
        if input.len() > MAX_FRAME {
            let msg = format!("the configuration is longer than {MAX_FRAME} bytes");
            return Err(Error::new(code::INVALID_CONFIG, msg));
        }
        answer(|name| std::env::var_os(name), &input, SinceBoot::now())
    });
    let (said, exit) = match answer {
        Ok(None) => return ExitCode::SUCCESS,
        Ok(Some(value)) => (value, ExitCode::SUCCESS),
        Err(error) => {
            let version = conf::version_text(&input)
                .filter(|text| SpecVersion::parse(text).is_ok())
                .unwrap_or_else(|| SpecVersion::NEWEST.to_string());
            (error.to_json(&version), ExitCode::FAILURE)
        }
    };
    match writeln!(io::stdout(), "{said}") {
        Ok(()) => exit,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Whether this process was started by that name.
fn called_by(name: &str) -> bool {
    let program = std::env::args_os().next();
    program.is_some_and(|program| Path::new(&program).file_name() == Some(name.as_ref()))
}

/// What one call says, `None` for nothing.
fn answer(
    variables: impl Fn(&str) -> Option<OsString>,
    input: &[u8],
    now: SinceBoot,
) -> Result<Option<Value>, Error> {
    let invocation = env::parse(variables)?;
    if invocation == Invocation::Version {
        let version = conf::version_text(input);
        let version = version.unwrap_or_else(|| SpecVersion::NEWEST.to_string());
        return Ok(Some(SpecVersion::answer(&version)));
    }
    let conf = conf::parse(input)?;
    if called_by(loopback::NAME) {
        return loopback::answer(invocation, conf);
    }
    match invocation {
        Invocation::Add(target) => add(target, conf).map(Some),
        Invocation::Check(target) => check(target, conf).map(|()| None),
        Invocation::Del { attachment, netns } => del(attachment, netns, conf, now).map(|()| None),
        Invocation::Gc => gc(conf).map(|()| None),
        Invocation::Status => status(conf).map(|()| None),
        Invocation::Version => Ok(None),
    }
}

fn add(target: Target, conf: NetConf) -> Result<Value, Error> {
    let netns = open_netns(&target.netns)?;
    let arg = |key| {
        target
            .args
            .get(key)
            .cloned()
            .filter(|text: &String| !text.is_empty())
    };
    let request = CniRequest::Add(AddRequest {
        attachment: target.attachment.clone(),
        netns_path: target.netns.clone(),
        network: conf.name,
        name: conf
            .workload
            .or_else(|| arg("WEFT_NAME"))
            .or_else(|| arg("K8S_POD_NAME")),
        namespace: arg("K8S_POD_NAMESPACE"),
        mtu: conf.mtu,
        ports: conf.ports,
    });
    let reply: AddReply = call(
        &conf.socket,
        Request::Cni(Box::new(request)),
        Some(netns.as_fd()),
        ADD_WITHIN,
    )?;
    let mut result = conf.prev_result.unwrap_or_default();
    result.extend(made(reply, &target.attachment, target.netns));
    if conf.dns != crate::api::Dns::default() {
        result.dns = conf.dns;
    }
    Ok(result.to_json(conf.version))
}

/// The agent's reply as a result: the host's end first, then the container's.
fn made(reply: AddReply, attachment: &Attachment, netns: String) -> AddResult {
    let end = |name: &str, mac: String, sandbox| Interface {
        name: name.to_owned(),
        mac: Some(mac),
        mtu: Some(reply.mtu),
        sandbox,
        ..Interface::default()
    };
    let ips = reply.addresses.iter().map(|each| Ip {
        address: each.address,
        gateway: Some(each.gateway),
        interface: Some(1),
    });
    AddResult {
        ips: ips.collect(),
        interfaces: vec![
            end(&reply.host_ifname, reply.host_mac, None),
            end(attachment.ifname.as_str(), reply.mac, Some(netns)),
        ],
        routes: reply.routes.into_iter().map(Into::into).collect(),
        dns: reply.dns,
    }
}

fn check(target: Target, conf: NetConf) -> Result<(), Error> {
    needs("CHECK", SpecVersion::V0_4_0, conf.version)?;
    let prev = conf
        .prev_result
        .ok_or_else(|| missing("CHECK", "prevResult"))?;
    let netns = open_netns(&target.netns)?;
    let expected = expected(prev, &target);
    let request = CniRequest::Check(CheckRequest {
        attachment: target.attachment,
        network: conf.name,
        netns_path: target.netns,
        expected,
    });
    let request = Request::Cni(Box::new(request));
    let Empty {} = call(&conf.socket, request, Some(netns.as_fd()), CHECK_WITHIN)?;
    Ok(())
}

/// What the earlier result says of this attachment's interface, other interfaces left out.
fn expected(prev: AddResult, target: &Target) -> Expected {
    let sandbox = |each: &Interface| each.sandbox.clone().filter(|path| !path.is_empty());
    let ours = prev.interfaces.iter().position(|each| {
        each.name == target.attachment.ifname.as_str()
            && sandbox(each).as_ref() == Some(&target.netns)
    });
    let on_ours = |ip: &&Ip| ip.interface.is_none() || ip.interface.map(|at| at as usize) == ours;
    let is_main = |each: &ResultRoute| each.table.is_none_or(|table| table == MAIN_TABLE);
    let interface = ours.map(|at| &prev.interfaces[at]);
    Expected {
        mac: interface.and_then(|each| each.mac.clone()),
        mtu: interface.and_then(|each| each.mtu),
        addresses: prev
            .ips
            .iter()
            .filter(on_ours)
            .map(|ip| ip.address)
            .collect(),
        routes: prev
            .routes
            .into_iter()
            .filter(is_main)
            .map(|each| each.route)
            .collect(),
    }
}

/// Succeeds whenever the agent has done it or is sure to hear of it.
fn del(
    attachment: Attachment,
    netns_path: Option<String>,
    conf: NetConf,
    now: SinceBoot,
) -> Result<(), Error> {
    let del = DelRequest {
        attachment,
        network: conf.name,
        netns_path,
    };
    let request = Request::Cni(Box::new(CniRequest::Del(del.clone())));
    match call::<Empty>(&conf.socket, request, None, DEL_WITHIN) {
        Ok(Empty {}) => Ok(()),
        Err(CallError::Refused(error)) if error.code != code::PROTOCOL => Err(error),
        // The link goes with its namespace; the lease waits for the agent.
        Err(away) => note::leave(&note::dir(&conf.socket), &del, now).map_err(|e| {
            Error::new(code::IO, format!("leave a note for the agent: {e}"))
                .with_details(away.to_string())
        }),
    }
}

fn gc(conf: NetConf) -> Result<(), Error> {
    needs("GC", SpecVersion::V1_1_0, conf.version)?;
    // Absent is not empty: that would take every attachment away.
    let valid = conf
        .valid_attachments
        .ok_or_else(|| missing("GC", "cni.dev/valid-attachments"))?;
    let request = CniRequest::Gc(GcRequest {
        network: conf.name,
        valid,
    });
    let Empty {} = call(
        &conf.socket,
        Request::Cni(Box::new(request)),
        None,
        GC_WITHIN,
    )?;
    Ok(())
}

fn status(conf: NetConf) -> Result<(), Error> {
    needs("STATUS", SpecVersion::V1_1_0, conf.version)?;
    let request = CniRequest::Status(StatusRequest { network: conf.name });
    let request = Request::Cni(Box::new(request));
    match call::<Empty>(&conf.socket, request, None, STATUS_WITHIN) {
        Ok(Empty {}) => Ok(()),
        Err(error) => {
            let mut error = Error::from(error);
            error.code = code::NOT_AVAILABLE;
            Err(error)
        }
    }
}

/// The container's network namespace, which must be one, and not the runtime's own.
pub(crate) fn open_netns(path: &str) -> Result<File, Error> {
    let failed = |e: io::Error| {
        let number = match e.kind() {
            io::ErrorKind::NotFound => code::UNKNOWN_CONTAINER,
            _ => code::IO,
        };
        Error::new(number, format!("open the network namespace {path}: {e}"))
    };
    let wrong = |what| {
        let msg = format!("CNI_NETNS {path} is {what}");
        Error::new(code::INVALID_ENVIRONMENT, msg)
    };
    // A pipe of that name must not keep us waiting.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits() as i32)
        .open(path)
        .map_err(failed)?;
    let kind = fstatfs(&file).map_err(|e| failed(e.into()))?.f_type;
    if kind as u64 != NSFS {
        return Err(wrong("not a namespace"));
    }
    let theirs = fstat(&file).map_err(|e| failed(e.into()))?;
    let own = stat("/proc/self/ns/net").map_err(|e| failed(e.into()))?;
    if (theirs.st_dev, theirs.st_ino) == (own.st_dev, own.st_ino) {
        return Err(wrong("the runtime's own network namespace"));
    }
    Ok(file)
}

fn needs(verb: &str, least: SpecVersion, version: SpecVersion) -> Result<(), Error> {
    if version >= least {
        return Ok(());
    }
    let msg = format!("{verb} came with cniVersion {least}; the configuration says {version}");
    Err(Error::new(code::INCOMPATIBLE_VERSION, msg))
}

fn missing(verb: &str, key: &str) -> Error {
    let msg = format!("the network configuration's {key:?} is missing; {verb} needs it");
    Error::new(code::INVALID_CONFIG, msg)
}

/// The answer, or the panic as an error.
fn caught<T>(act: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    panic::catch_unwind(AssertUnwindSafe(act)).unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied());
        let msg = format!("weft-cni panicked: {}", text.unwrap_or("without a word"));
        Err(Error::new(code::INTERNAL, msg))
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_panic_becomes_an_error() {
        let panics = |text: String| caught::<()>(move || panic!("{text}")).unwrap_err();
        let error = panics("index 3".into());
        assert_eq!(
            (error.code, error.msg.as_str()),
            (100, "weft-cni panicked: index 3")
        );
        assert_eq!(caught(|| Ok(7)), Ok(7));
    }

    #[test]
    fn a_check_expects_what_the_result_says_of_its_own_interface() {
        let prev = serde_json::json!({
            "interfaces": [
                {"name": "weft1"},
                {"name": "eth0", "mac": "aa:bb", "sandbox": "/run/netns/c1"},
                {"name": "net1", "sandbox": "/run/netns/c1"},
                {"name": "eth0", "sandbox": "/run/netns/c2"}],
            "ips": [
                {"address": "10.0.0.1/32", "interface": 1},
                {"address": "10.0.0.2/32", "interface": 2},
                {"address": "10.0.0.3/32", "interface": 3}],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "10.9.0.0/16", "table": 7}]
        });
        let target = Target {
            attachment: Attachment {
                container_id: "c1".parse().unwrap(),
                ifname: "eth0".parse().unwrap(),
            },
            netns: "/run/netns/c1".into(),
            args: BTreeMap::new(),
        };
        let expected = expected(AddResult::parse(&prev).unwrap(), &target);
        assert_eq!(expected.mac.as_deref(), Some("aa:bb"));
        assert_eq!(expected.addresses, ["10.0.0.1/32".parse().unwrap()]);
        assert_eq!(expected.routes.len(), 1);
    }

    #[test]
    fn what_is_no_namespace_of_a_container_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let plain = dir.path().join("plain");
        std::fs::write(&plain, b"").unwrap();
        let path = |path: &std::path::Path| path.to_str().unwrap().to_owned();
        for (path, number) in [
            (path(&dir.path().join("gone")), code::UNKNOWN_CONTAINER),
            (path(&plain), code::INVALID_ENVIRONMENT),
            (path(dir.path()), code::INVALID_ENVIRONMENT),
            ("/proc/self/ns/net".to_owned(), code::INVALID_ENVIRONMENT),
        ] {
            assert_eq!(open_netns(&path).unwrap_err().code, number, "{path}");
        }
    }
}
