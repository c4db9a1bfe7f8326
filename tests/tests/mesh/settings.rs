//! Settings through the real command line, and agents that get in each other's way.

use std::fs;

use anyhow::Result;
use weft_tests::lab::{Lab, LabNode, ensure, eventually, have};

use crate::support::{PATIENCE, refused, says, weft_up};

fn state(node: &LabNode) -> String {
    node.machine().state_dir().display().to_string()
}

pub(super) fn a_bad_setting_is_named_with_its_file_and_what_is_allowed() -> Result<()> {
    let lab = Lab::new()?;
    let a = lab.node("a")?;
    let file = a.machine().node().dir().join("weft.toml");
    let path = file.display().to_string();
    let state = state(&a);
    let from_file = |text: &str, words: &[&str]| -> Result<()> {
        fs::write(&file, text)?;
        let said = refused(&mut weft_up(
            &a,
            &["--config", &path, "--state-dir", &state],
        ))?;
        says(&said, words)?;
        says(&said, &[&path])
    };
    from_file("prot = 6783\n", &["prot", "line 1", "`port`"])?;
    from_file(
        "name = \"a\"\nport = 0\n",
        &["port", "line 2", "1 to 65535"],
    )?;
    from_file("tunnel = \"fast\"\n", &["tunnel", "fast", "userspace"])?;
    from_file("pool = \"10.32.0.0\"\n", &["pool", "10.32.0.0"])?;
    from_file("name = a\n", &["line 1"])?;
    fs::remove_file(&file)?;
    let said = refused(&mut weft_up(&a, &["--config", &path]))?;
    says(&said, &[&path, "No such file"])?;

    let mut environment = weft_up(&a, &["--state-dir", &state]);
    environment.env("WEFT_NODE_PREFIX", "30");
    says(&refused(&mut environment)?, &["30", "17..=28"])?;
    let said = refused(&mut weft_up(
        &a,
        &["--state-dir", &state, "--pool", "10.0.0.0/7"],
    ))?;
    says(&said, &["pool", "10.0.0.0/7", "/8 to /23"])?;
    ensure(
        !a.machine().state_dir().exists(),
        "a refused start left a state directory",
    )
}

pub(super) fn a_flag_overrides_the_environment_and_that_the_file() -> Result<()> {
    let lab = Lab::new()?;
    let a = lab.node("a")?;
    let file = a.machine().node().dir().join("weft.toml");
    fs::write(
        &file,
        "name = \"of-file\"\nport = 7001\ndns-domain = \"file.example\"\nfwmark = 0\n",
    )?;
    let path = file.display().to_string();
    let said = refused(weft_up(&a, &["--state-dir", &state(&a)]).env("WEFT_CONFIG", &path))?;
    says(&said, &["fwmark", &path])?;
    fs::write(
        &file,
        "name = \"of-file\"\nport = 7001\ndns-domain = \"file.example\"\n",
    )?;
    let log = fs::File::create(a.machine().log())?;
    let mut command = weft_up(&a, &["--name", "of-flag", "--state-dir", &state(&a)]);
    command
        .env("WEFT_CONFIG", &path)
        .env("WEFT_PORT", "7002")
        .env("WEFT_NAME", "of-environment")
        .stdout(log.try_clone()?)
        .stderr(log);
    let mut agent = command.spawn()?;
    let status = eventually("the agent says where it is reached", PATIENCE, || {
        let status = a.status()?;
        says(&status["mesh"]["endpoints"].to_string(), &[":7002"])?;
        Ok(status)
    })?;
    agent.kill()?;
    agent.wait()?;
    ensure(status["mesh"]["name"] == "of-flag", &status["mesh"])?;
    ensure(status["dns"]["domain"] == "file.example", &status["dns"])
}

pub(super) fn a_second_agent_on_one_state_directory_is_refused() -> Result<()> {
    let lab = Lab::new()?;
    let mut a = lab.node("a")?;
    a.up(&[])?;
    let state = state(&a);
    let socket = a.machine().node().dir().join("second.sock");
    let socket = socket.display().to_string();
    let arguments = ["--socket", &socket, "--state-dir", &state, "--port", "7001"];
    let said = refused(&mut weft_up(&a, &arguments))?;
    says(&said, &[&state, "in use by another agent"])?;
    a.status().map(drop)
}

pub(super) fn a_second_agent_on_one_socket_is_refused() -> Result<()> {
    have("ip")?;
    let lab = Lab::new()?;
    let mut a = lab.node("a")?;
    a.up(&[])?;
    eventually("the routes stand", PATIENCE, || {
        says(&a.run(&["ip", "route"])?, &["unreachable 10.32.0.0/12"])
    })?;
    let before = a.run(&["ip", "route"])?;
    let other = a.machine().node().dir().join("other");
    let other = other.display().to_string();
    let said = refused(&mut weft_up(&a, &["--state-dir", &other, "--port", "7001"]))?;
    says(
        &said,
        &[
            "/run/weft/weft.sock",
            "another agent listens there",
            "--socket",
        ],
    )?;
    a.status()?;
    ensure(
        a.run(&["ip", "route"])? == before,
        "the second agent changed the routes",
    )
}

pub(super) fn without_an_agent_the_command_line_says_so() -> Result<()> {
    let lab = Lab::new()?;
    let mut a = lab.node("a")?;
    let ask = |node: &LabNode, words: &[&str]| refused(node.machine().own("weft").args(words));
    let questions: [&[&str]; 4] = [&["status"], &["token", "list"], &["forget", "b"], &["down"]];
    for question in questions {
        says(
            &ask(&a, question)?,
            &["no agent answers at /run/weft/weft.sock", "`weft up`"],
        )?;
    }
    a.up(&[])?;
    says(
        &ask(&a, &["forget", "nobody"])?,
        &["no node is called nobody"],
    )?;
    says(&ask(&a, &["forget", "a"])?, &["this node"])?;
    // Its name server listens once its range is final.
    eventually("the name server answers", PATIENCE, || {
        says(&ask(&a, &["dns", "lookup", "nothing"])?, &["no such name"])
    })?;
    // A socket that a killed agent left is as good as none.
    a.kill()?;
    says(
        &ask(&a, &["status"])?,
        &["no agent answers at /run/weft/weft.sock"],
    )
}
