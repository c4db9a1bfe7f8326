//! A dozen specifications of upstream's own suite, unchanged: those that tell most in little time.
//! The whole of its conformance is `cluster e2e '\[sig-network\].*\[Conformance\]'`.

use anyhow::Result;
use weft_tests::cluster::e2e::{self, Words};
use weft_tests::cluster::of_tests;
use weft_tests::lab::ensure;

/// Runs what `focus` chooses, which has to be so many specifications.
fn pass(focus: &str, wanted: usize) -> Result<()> {
    let focus = format!(r"\[sig-network\] ({focus}).*\[Conformance\]");
    let specs = e2e::run(&of_tests()?, &focus, None, Words::Kept)?;
    let failed: Vec<_> = specs.iter().filter(|spec| !spec.passed).collect();
    ensure(failed.is_empty(), format!("{failed:#?}"))?;
    ensure(
        specs.len() == wanted,
        format!("{wanted} specifications wanted, ran: {specs:#?}"),
    )
}

pub(super) fn upstreams_suite_of_services_passes() -> Result<()> {
    pass(
        "Services should (serve a basic endpoint|be able to create a functioning NodePort\
         |have session affinity work for)\
         |EndpointSlice should support a Service with multiple endpoint IPs\
         |DNS should provide DNS for (services|the cluster)",
        7,
    )
}

pub(super) fn upstreams_suite_of_pods_and_ports_passes() -> Result<()> {
    pass(
        "Networking Granular Checks: Pods should function for .*: http|HostPort validates",
        3,
    )
}

pub(super) fn upstreams_suite_of_datagrams_passes() -> Result<()> {
    pass(
        "Networking Granular Checks: Pods should function for .*: udp",
        2,
    )
}
