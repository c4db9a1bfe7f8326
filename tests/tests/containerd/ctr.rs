//! Containers of containerd's own client, `ctr run --cni`.

use std::fs;

use anyhow::Result;
use weft_tests::lab::{Lab, ensure, eventually};
use weft_tests::runtime::{Containerd, IMAGE, Networks, PAGE, PATIENCE, prepare};

use crate::{addresses, no_leases};

pub(super) fn a_container_fetches_a_page_from_another_node() -> Result<()> {
    let image = prepare()?;
    let lab = Lab::new()?;
    let nodes = lab.mesh(&["a", "b"])?;
    let networks = Networks::weft();
    let runtimes = [
        Containerd::start(&nodes[0], &image, &networks)?,
        Containerd::start(&nodes[1], &image, &networks)?,
    ];
    let serve = ["/bin/busybox", "httpd", "-f", "-p", "80", "-h", "/www"];
    let mut web = runtimes[0].run("web", &serve)?;
    let found = eventually("the container is attached", PATIENCE, || {
        if let Some(ended) = web.try_wait()? {
            let text = fs::read_to_string(runtimes[0].dir().join("web"))?;
            return Ok(Err(anyhow::anyhow!(
                "ctr ended: {ended}: {text}\n{}",
                runtimes[0].said()
            )));
        }
        addresses(&nodes[0], "weft-lab-web").map(|found| Ok(found[0]))
    })??;
    let url = format!("http://{found}/");
    let words = [
        "run",
        "--rm",
        "--cni",
        IMAGE,
        "fetch",
        "/bin/busybox",
        "wget",
        "-q",
        "-O",
        "-",
        &url,
    ];
    let page = eventually("the page is fetched", PATIENCE, || runtimes[1].ctr(&words))?;
    ensure(page == PAGE, format!("{page:?}"))?;
    no_leases(&nodes[1])?;
    runtimes[0].ctr(&["task", "kill", "--signal", "SIGKILL", "web"])?;
    web.wait()?;
    no_leases(&nodes[0])
}
