//! The small programs of a demo's pods: one serves a page, another fetches it. Each is this binary
//! under another name.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::net::{Netns, Process};
use super::{Machine, StepError, lookup};

const SERVE: &str = "weft-demo-serve";
const FETCH: &str = "weft-demo-fetch";
const PORT: u16 = 80;
const PATIENCE: Duration = Duration::from_secs(5);
/// No page of ours is larger.
const MAX_PAGE: u64 = 64 * 1024;

/// What a pod fetched, and from where.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Fetched {
    pub address: IpAddr,
    pub page: String,
    pub ms: f64,
}

/// Runs one of the demo's own programs, if this process was started as one.
pub fn helper() -> Option<ExitCode> {
    let mut arguments = std::env::args();
    let program = arguments.next()?;
    let result = match Path::new(&program).file_name()?.to_str()? {
        SERVE => serve(&arguments.next().unwrap_or_default()),
        FETCH => fetch(&arguments.next().unwrap_or_default()),
        lookup::LOOKUP => {
            let name = arguments.next().unwrap_or_default();
            lookup::run(&name, &arguments.next().unwrap_or_default())
        }
        _ => return None,
    };
    Some(match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    })
}

/// Starts to serve `page` over HTTP in a pod, on port 80 of each of its addresses.
///
/// # Errors
/// When it cannot be started.
pub fn start(machine: &Machine, pod: &Netns, page: &str) -> Result<Process, StepError> {
    let mut child = machine
        .own_in(pod, SERVE)
        .arg(page)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(StepError::io("start the page's server"))?;
    let mut ready = [0; 1];
    let said = child.stdout.take().map(|mut out| out.read(&mut ready));
    let process = Process::new(child);
    match said {
        Some(Ok(1)) => Ok(process),
        _ => Err(StepError("the page's server did not start".to_owned())),
    }
}

/// Fetches the page at `address` from inside a pod.
///
/// # Errors
/// Why it did not come.
pub fn get(machine: &Machine, pod: &Netns, address: IpAddr) -> Result<Fetched, StepError> {
    let output = machine
        .own_in(pod, FETCH)
        .arg(address.to_string())
        .stdin(Stdio::null())
        .output()
        .map_err(StepError::io("run the fetch"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(StepError(format!("fetch from {address}: {}", said.trim())));
    }
    serde_json::from_slice(&output.stdout)
        .map_err(|error| StepError(format!("fetch from {address}: {error}")))
}

fn serve(page: &str) -> io::Result<()> {
    // One socket for both families, unless the kernel has but one.
    let listener =
        TcpListener::bind(("::", PORT)).or_else(|_| TcpListener::bind(("0.0.0.0", PORT)))?;
    println!("listening");
    loop {
        let (stream, _) = listener.accept()?;
        // One who goes away in the middle is his own loss.
        let _ = answer(stream, page);
    }
}

fn answer(mut stream: TcpStream, page: &str) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut request = Vec::new();
    let mut part = [0; 1024];
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        let length = stream.read(&mut part)?;
        if length == 0 || request.len() > MAX_PAGE as usize {
            return Ok(());
        }
        request.extend_from_slice(&part[..length]);
    }
    let length = page.len();
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{page}"
    )
}

fn fetch(address: &str) -> io::Result<()> {
    let started = Instant::now();
    let address: IpAddr = address.parse().map_err(io::Error::other)?;
    let mut stream = TcpStream::connect_timeout(&SocketAddr::new(address, PORT), PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "GET / HTTP/1.1\r\nHost: demo\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.take(MAX_PAGE).read_to_string(&mut answer)?;
    let Some((_, page)) = answer
        .split_once("\r\n\r\n")
        .filter(|_| answer.starts_with("HTTP/1.1 200 "))
    else {
        return Err(io::Error::other("no page in the answer"));
    };
    let fetched = Fetched {
        address,
        page: page.to_owned(),
        ms: started.elapsed().as_secs_f64() * 1000.0,
    };
    println!("{}", serde_json::to_string(&fetched)?);
    Ok(())
}
