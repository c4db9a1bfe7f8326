//! Sysctls: kept, set, put back.

use weft_router::host::Desired;
use weft_router::kernel::{Kernel, Linux, sysctl};

use crate::routes::apply;
use crate::space::{self, sh};

fn value(key: &str) -> String {
    std::fs::read_to_string(format!("/proc/thread-self/root/proc/sys/{key}"))
        .unwrap()
        .trim()
        .to_owned()
}

#[test]
fn forwarding_is_set_once_and_put_back_by_another_process() {
    space::run(|| async {
        let state = tempfile::tempdir().unwrap();
        let kernel = Linux::open(state.path()).unwrap();
        let observed = kernel.observe().await.unwrap();
        let desired = Desired {
            sysctls: sysctl::forwarding(&observed),
            ..Desired::default()
        };
        apply(&kernel, &desired).await;
        assert_eq!(value(sysctl::IP_FORWARD), "1");
        assert_eq!(value(sysctl::IPV6_FORWARDING), "1");
        let again = Linux::open(state.path()).unwrap();
        again.cleanup().await.unwrap();
        assert_eq!(value(sysctl::IP_FORWARD), "0");
        assert_eq!(value(sysctl::IPV6_FORWARDING), "0");
        assert!(!state.path().join("sysctl.json").exists());
    });
}

#[test]
fn what_was_on_before_us_stays_on_after_us() {
    space::run(|| async {
        sh("echo 1 > /proc/sys/net/ipv4/ip_forward");
        let state = tempfile::tempdir().unwrap();
        let kernel = Linux::open(state.path()).unwrap();
        let observed = kernel.observe().await.unwrap();
        let desired = Desired {
            sysctls: sysctl::forwarding(&observed),
            ..Desired::default()
        };
        apply(&kernel, &desired).await;
        kernel.cleanup().await.unwrap();
        assert_eq!(value(sysctl::IP_FORWARD), "1");
    });
}
