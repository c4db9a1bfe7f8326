//! Health over HTTP on the loopback alone: `/healthz`, whether the agent looks after its node, and
//! `/readyz`, whether it can carry pods.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tracing::debug;

use super::Standing;

pub(super) const PORT: u16 = 6782;
/// The reconciler looks each second; one that has not for so long is stuck.
const STUCK: Duration = Duration::from_secs(30);
/// How long a caller may take.
const CALLER: Duration = Duration::from_secs(2);
/// Callers at once; more wait to be accepted.
const CALLERS: usize = 8;
/// A longer request is none of a probe's.
const MAX_REQUEST: usize = 4096;
/// Between tries to listen.
const AGAIN: Duration = Duration::from_secs(5);

/// Answers on one address for as long as it is not dropped. `failed` is told why it cannot listen.
pub(super) async fn serve(
    address: SocketAddr,
    standing: watch::Receiver<Standing>,
    failed: watch::Sender<Option<String>>,
) {
    let callers = Arc::new(Semaphore::new(CALLERS));
    loop {
        let listener = match TcpListener::bind(address).await {
            Ok(listener) => listener,
            Err(error) => {
                failed.send_replace(Some(format!(
                    "health on {address}: {error}; end what listens there"
                )));
                tokio::time::sleep(AGAIN).await;
                continue;
            }
        };
        failed.send_replace(None);
        while let Ok(permit) = Arc::clone(&callers).acquire_owned().await {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let standing = standing.clone();
                    tokio::spawn(async move {
                        let answered = tokio::time::timeout(CALLER, answer(stream, standing)).await;
                        if let Ok(Err(error)) = answered {
                            debug!(%error, "health");
                        }
                        drop(permit);
                    });
                }
                Err(error) => {
                    debug!(%error, "accept for health");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

/// Where it is asked: not every host has IPv6.
pub(super) fn addresses() -> impl Iterator<Item = SocketAddr> {
    let v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
    let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, PORT));
    let has_v6 = std::net::UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_ok();
    std::iter::once(v4).chain(has_v6.then_some(v6))
}

async fn answer(mut stream: TcpStream, standing: watch::Receiver<Standing>) -> io::Result<()> {
    let mut request = Vec::new();
    while !request.windows(4).any(|end| end == b"\r\n\r\n") && request.len() < MAX_REQUEST {
        if stream.read_buf(&mut request).await? == 0 {
            break;
        }
    }
    let reply = reply(&request, &standing.borrow().clone(), Instant::now());
    stream.write_all(reply.as_bytes()).await?;
    stream.shutdown().await
}

fn reply(request: &[u8], standing: &Standing, now: Instant) -> String {
    let line = request
        .split(|byte| *byte == b'\r')
        .next()
        .unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let mut words = line.split(' ');
    let (method, target) = (words.next(), words.next().unwrap_or_default());
    let path = target.split('?').next().unwrap_or_default();
    let (status, text) = match (method, path) {
        (Some("GET" | "HEAD"), "/healthz") => health(standing, now),
        (Some("GET" | "HEAD"), "/readyz") => match (&standing.unready, health(standing, now)) {
            (Some(why), _) => (UNAVAILABLE, why.clone()),
            (None, health) => health,
        },
        (Some("GET" | "HEAD"), _) => ("404 Not Found", "/healthz or /readyz".into()),
        _ => ("405 Method Not Allowed", "GET".into()),
    };
    let body = if method == Some("HEAD") { "" } else { &text };
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        text.len()
    )
}

const UNAVAILABLE: &str = "503 Service Unavailable";

fn health(standing: &Standing, now: Instant) -> (&'static str, String) {
    match standing.looked {
        Some(looked) if now.saturating_duration_since(looked) < STUCK => ("200 OK", "ok".into()),
        Some(looked) => {
            let age = now.saturating_duration_since(looked).as_secs();
            (
                UNAVAILABLE,
                format!("the last look at this node was {age} s ago"),
            )
        }
        None => (UNAVAILABLE, "this node was not looked at yet".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_are_answered_by_what_the_node_does() {
        let now = Instant::now();
        let says = |request: &str, standing: &Standing, words: &[&str]| {
            let reply = reply(request.as_bytes(), standing, now);
            for word in words {
                assert!(reply.contains(word), "{word:?} is not in {reply:?}");
            }
        };
        let ready = Standing {
            looked: Some(now),
            ..Standing::default()
        };
        says(
            "GET /healthz HTTP/1.1\r\n\r\n",
            &ready,
            &["200 OK", "\r\n\r\nok"],
        );
        says("GET /readyz?verbose HTTP/1.1\r\n\r\n", &ready, &["200 OK"]);
        let unready = Standing {
            unready: Some("no tunnel".into()),
            ..ready.clone()
        };
        says("GET /healthz HTTP/1.1\r\n\r\n", &unready, &["200 OK"]);
        says(
            "GET /readyz HTTP/1.1\r\n\r\n",
            &unready,
            &["503", "no tunnel"],
        );
        says(
            "HEAD /readyz HTTP/1.1\r\n\r\n",
            &unready,
            &["503", "Length: 9"],
        );
        let stuck = Standing {
            looked: now.checked_sub(STUCK),
            ..Standing::default()
        };
        says(
            "GET /healthz HTTP/1.1\r\n\r\n",
            &stuck,
            &["503", "30 s ago"],
        );
        says("GET /readyz HTTP/1.1\r\n\r\n", &stuck, &["503"]);
        says("GET / HTTP/1.1\r\n\r\n", &ready, &["404"]);
        says("POST /healthz HTTP/1.1\r\n\r\n", &ready, &["405"]);
        for garbage in ["", "\r\n", "GET", "\0\0\0\0", "GET  /healthz"] {
            assert!(reply(garbage.as_bytes(), &ready, now).starts_with("HTTP/1.1 40"));
        }
    }
}
