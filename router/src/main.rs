//! `weft`, the node agent and its command line; `weft-cni`, where it is called by that name.

fn main() -> std::process::ExitCode {
    weft_router::cli::main()
}
