//! `cluster`: a Kubernetes cluster on this machine, in namespaces of its own, to try weft in.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};
use weft_tests::cluster::{Cluster, Lifetime, Options, e2e, keeper, usual_dir};

/// A Kubernetes cluster on this machine, of upstream's own programs, in namespaces of its own
#[derive(Parser)]
#[command(name = "cluster")]
struct Arguments {
    #[command(subcommand)]
    act: Act,
}

#[derive(Subcommand)]
enum Act {
    /// Start it; the first time, build Kubernetes, which takes minutes
    Up(Options),

    /// End it and take everything away
    Down,

    /// Say what stands and what was seen on the underlay
    Status,

    /// Run kubectl as an administrator
    #[command(trailing_var_arg = true, disable_help_flag = true)]
    Kubectl {
        #[arg(allow_hyphen_values = true)]
        arguments: Vec<String>,
    },

    /// Run a program on a node, or on the underlay beside them (`outside`)
    #[command(trailing_var_arg = true)]
    Run {
        /// `node-1`, …, or `outside`
        node: String,
        #[arg(required = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },

    /// Run upstream's end-to-end suite
    E2e {
        /// Which specifications, a regular expression
        focus: String,

        /// Which of them not
        #[arg(long)]
        skip: Option<String>,
    },

    /// Change a node, or a program of it
    #[command(subcommand)]
    Node(NodeAct),

    /// Only build what a cluster is made of
    Build,
}

#[derive(Subcommand)]
enum NodeAct {
    /// Switch a new node on, or one that was switched off
    Add { node: String },
    /// Switch a node off, as a power cut does
    Off { node: String },
    /// Empty the disk of a node that is switched off
    Wipe { node: String },
    /// Put weft's state of a node on the disk of one that is switched off or new
    Clone { from: String, to: String },
    /// Switch a node off and on again
    Reboot { node: String },
    /// Kill its containerd, kubelet or kube-proxy
    Kill { node: String, program: String },
    /// Start that again
    Start { node: String, program: String },
}

fn main() -> ExitCode {
    if let Some(code) = keeper::main() {
        return code;
    }
    match act(Arguments::parse().act) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn act(act: Act) -> Result<ExitCode> {
    let mut say = |what: &str| println!("{what}");
    match act {
        Act::Up(options) => up(options)?,
        Act::Down => Cluster::down(&usual_dir())?,
        Act::Status => status(&open()?)?,
        Act::Kubectl { arguments } => {
            return become_it(open()?.kubectl_command()?.args(arguments));
        }
        Act::Run { node, words } => {
            let cluster = open()?;
            let (program, arguments) = words.split_first().context("no program")?;
            let mut command = match &*node {
                "outside" => cluster.outside(program)?,
                node => cluster.on_node(node, program)?,
            };
            return become_it(command.args(arguments));
        }
        Act::E2e { focus, skip } => return run_suite(&focus, skip.as_deref()),
        Act::Node(act) => node(&open()?, &act)?,
        Act::Build => {
            let upstream = weft_tests::cluster::Upstream::ready(&mut say)?;
            println!("Kubernetes is in {}", upstream.dir().display());
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn open() -> Result<Cluster> {
    Cluster::open(&usual_dir())
}

fn up(options: Options) -> Result<()> {
    let started = Instant::now();
    Cluster::up(&usual_dir(), options, Lifetime::Detached, &mut |what| {
        println!("{what}")
    })?;
    println!(
        "\nup in {:.1} s. Now, each after `cargo run -p weft-tests --bin cluster --`:\n\
         \x20 kubectl get nodes,pods -A -o wide\n\
         \x20 run node-1 ip route            (a program on a node; `outside` is beside the nodes)\n\
         \x20 e2e 'Granular Checks.*http'    (upstream's suite)\n\
         \x20 node add node-9                (also off, wipe, clone, reboot, kill, start)\n\
         \x20 status                         (with what was seen in the clear on the underlay)\n\
         \x20 down",
        started.elapsed().as_secs_f32()
    );
    Ok(())
}

fn status(cluster: &Cluster) -> Result<()> {
    let status = cluster.status()?;
    print!("{}", cluster.kubectl(&["get", "nodes", "-o", "wide"])?);
    let seen = &status.capture;
    println!(
        "\non the underlay: {} frames of WireGuard, {} with a pod's address in the clear{}",
        seen.wireguard,
        seen.plaintext,
        match seen.kernel_dropped {
            0 => String::new(),
            lost => format!(", {lost} not looked at"),
        }
    );
    for (what, count) in &seen.samples {
        println!("  {count} of {what}");
    }
    for ended in &status.ended {
        println!("has ended by itself: {ended}");
    }
    println!("logs: {}", cluster.logs().display());
    Ok(())
}

fn node(cluster: &Cluster, act: &NodeAct) -> Result<()> {
    match act {
        NodeAct::Add { node } => cluster.add(node),
        NodeAct::Off { node } => cluster.remove(node),
        NodeAct::Wipe { node } => cluster.wipe(node),
        NodeAct::Clone { from, to } => cluster.clone_state(from, to),
        NodeAct::Reboot { node } => cluster.reboot(node),
        NodeAct::Kill { node, program } => cluster.kill(node, program),
        NodeAct::Start { node, program } => cluster.start(node, program),
    }
}

fn run_suite(focus: &str, skip: Option<&str>) -> Result<ExitCode> {
    let cluster = open()?;
    let started = Instant::now();
    let specs = e2e::run(&cluster, focus, skip, e2e::Words::Shown)?;
    ensure!(!specs.is_empty(), "{focus:?} chooses nothing of the suite");
    println!();
    for spec in &specs {
        let word = if spec.passed { "passed" } else { "FAILED" };
        println!("{word} {:6.1} s  {}", spec.took.as_secs_f32(), spec.name);
        if let Some(first) = spec.reason.lines().next() {
            println!("                 {first}");
        }
    }
    let failed = specs.iter().filter(|spec| !spec.passed).count();
    println!(
        "\n{} passed, {failed} failed, in {:.0} s",
        specs.len() - failed,
        started.elapsed().as_secs_f32()
    );
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Becomes the command, so that its terminal, signals and exit code are this one's.
fn become_it(command: &mut Command) -> Result<ExitCode> {
    Err(command.exec()).with_context(|| format!("run {:?}", command.get_program()))
}
