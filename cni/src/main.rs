//! `weft-cni`, the CNI plugin binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    weft_cni::plugin::run()
}
