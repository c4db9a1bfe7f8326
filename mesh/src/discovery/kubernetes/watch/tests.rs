//! A watch against a server that answers by a script, one answer a request.

use std::collections::VecDeque;
use std::sync::Mutex;

use kube::Config;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::discovery::kubernetes::kinds::WeftRanges;
use crate::discovery::kubernetes::object::Claimed;
use crate::discovery::kubernetes::world::Change;

const PATIENCE: Duration = Duration::from_secs(20);

/// The server: what it was asked, line by line.
struct Server {
    asked: Arc<Mutex<Vec<String>>>,
    news: mpsc::Receiver<Change>,
    feeds: Arc<Feeds>,
}

/// Starts a watch of ranges against a server with these answers; the last stays open.
async fn server(answers: Vec<(u16, Vec<Value>)>) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&asked);
    tokio::spawn(async move {
        let mut answers = VecDeque::from(answers);
        while let Some((code, lines)) = answers.pop_front() {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                stream.read_buf(&mut request).await.unwrap();
            }
            let request = String::from_utf8(request).unwrap();
            heard
                .lock()
                .unwrap()
                .push(request.lines().next().unwrap().to_owned());
            let body: String = lines.iter().map(|line| format!("{line}\n")).collect();
            let head = format!(
                "HTTP/1.1 {code} X\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n"
            );
            stream.write_all((head + &body).as_bytes()).await.unwrap();
            if answers.is_empty() {
                // The watch goes on, and nothing happens.
                std::future::pending::<()>().await;
            }
        }
    });
    let mut config = Config::new(format!("http://{address}").parse().unwrap());
    config.default_retry = false;
    let (sender, news) = mpsc::channel(16);
    let feeds = Arc::new(Feeds::default());
    tokio::spawn(watch::<WeftRanges>(Setup {
        client: Client::try_from(config).unwrap(),
        feeds: Arc::clone(&feeds),
        me: "a".parse().unwrap(),
        news: sender,
    }));
    Server { asked, news, feeds }
}

impl Server {
    async fn news(&mut self) -> Update<String, Claimed> {
        match tokio::time::timeout(PATIENCE, self.news.recv()).await {
            Ok(Some(Change::Claims(update))) => update,
            other => panic!("no news of claims: {other:?}"),
        }
    }

    /// The whole list, by name.
    async fn list(&mut self) -> Vec<String> {
        match self.news().await {
            Update::All(all) => all.into_keys().collect(),
            other => panic!("no list: {other:?}"),
        }
    }

    fn asked(&self, n: usize) -> String {
        self.asked.lock().unwrap()[n].clone()
    }
}

fn range(n: u8, version: &str) -> Value {
    json!({
        "metadata": {
            "name": format!("10.32.{n}.0-24"),
            "resourceVersion": version,
            "ownerReferences": [{"kind": "Node", "name": "a", "uid": "u"}],
        },
        "spec": {"node": "a", "range": format!("10.32.{n}.0/24")},
    })
}

fn event(kind: &str, object: Value) -> Value {
    json!({"type": kind, "object": object})
}

fn bookmark(version: &str, ends: bool) -> Value {
    let annotations = if ends {
        json!({INITIAL_END: "true"})
    } else {
        json!({})
    };
    let metadata = json!({"resourceVersion": version, "annotations": annotations});
    event(
        "BOOKMARK",
        json!({"kind": "WeftRange", "apiVersion": "weft.dev/v1alpha1", "metadata": metadata}),
    )
}

fn status(code: u16, message: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": message,
        "reason": "X", "metadata": {}})
}

#[tokio::test]
async fn a_list_is_streamed_a_watch_resumed_and_one_too_old_begun_anew() {
    let list = |version| vec![event("ADDED", range(1, "5")), bookmark(version, true)];
    let mut first = list("10");
    first.push(event("MODIFIED", range(2, "11")));
    first.push(event("DELETED", range(1, "12")));
    first.push(bookmark("15", false));
    let mut server = server(vec![
        (200, first),
        (
            200,
            vec![event("ERROR", status(410, "too old resource version"))],
        ),
        (200, list("20")),
    ])
    .await;
    assert_eq!(server.list().await, ["10.32.1.0-24"]);
    assert!(matches!(server.news().await, Update::Put(name, Ok(_)) if name == "10.32.2.0-24"));
    assert!(matches!(server.news().await, Update::Gone(name) if name == "10.32.1.0-24"));
    assert_eq!(server.list().await, ["10.32.1.0-24"]);
    assert!(
        server.asked(0).contains("sendInitialEvents=true"),
        "{}",
        server.asked(0)
    );
    assert!(server.asked(0).contains("resourceVersion=0"));
    assert!(
        server.asked(1).contains("resourceVersion=15"),
        "{}",
        server.asked(1)
    );
    assert!(!server.asked(1).contains("sendInitialEvents"));
    assert!(server.asked(2).contains("sendInitialEvents=true"));
}

#[tokio::test]
async fn a_server_that_was_set_back_is_asked_for_everything() {
    let list = |version, n| {
        (
            200,
            vec![event("ADDED", range(n, "1")), bookmark(version, true)],
        )
    };
    let mut server = server(vec![
        list("100", 1),
        (200, vec![bookmark("50", false)]),
        list("50", 2),
        (
            504,
            vec![status(
                504,
                "Timeout: Too large resource version: 50, current: 20",
            )],
        ),
        list("20", 3),
    ])
    .await;
    for n in 1..=3 {
        assert_eq!(server.list().await, [format!("10.32.{n}.0-24")]);
    }
    assert!(
        server.asked(1).contains("resourceVersion=100"),
        "{}",
        server.asked(1)
    );
}

#[tokio::test]
async fn a_server_that_streams_no_lists_is_asked_for_pages() {
    let page = |n, more: &str| {
        let metadata = json!({"resourceVersion": "30", "continue": more});
        // One of the two is an object that is none.
        (
            200,
            vec![
                json!({"metadata": metadata, "items": [range(n, "1"), {"metadata": {"name": format!("x{n}")}, "spec": 7}]}),
            ],
        )
    };
    let mut server = server(vec![
        (422, vec![status(422, "sendInitialEvents is forbidden")]),
        page(1, "next"),
        page(2, ""),
        (200, vec![event("ADDED", range(3, "31"))]),
    ])
    .await;
    assert_eq!(
        server.list().await,
        ["10.32.1.0-24", "10.32.2.0-24", "x1", "x2"]
    );
    assert!(matches!(server.news().await, Update::Put(name, _) if name == "10.32.3.0-24"));
    assert!(server.asked(1).contains("resourceVersion=0") && server.asked(1).contains("limit=500"));
    assert!(
        server.asked(2).contains("continue=next"),
        "{}",
        server.asked(2)
    );
    assert!(
        server.asked(3).contains("resourceVersion=30"),
        "{}",
        server.asked(3)
    );
}

#[tokio::test]
async fn what_is_forbidden_is_said_and_tried_again() {
    let mut server = server(vec![
        (403, vec![status(403, "weftranges is forbidden: no right")]),
        (200, vec![bookmark("1", true)]),
    ])
    .await;
    let mut changed = server.feeds.changed();
    let told = async {
        while server.feeds.problems(Instant::now()).is_empty() {
            changed.changed().await.unwrap();
        }
    };
    tokio::time::timeout(PATIENCE, told).await.unwrap();
    let problem = server.feeds.problems(Instant::now()).remove(0);
    assert!(problem.text.contains("no right"), "{}", problem.text);
    assert!(server.list().await.is_empty());
    let deadline = Instant::now() + PATIENCE;
    while !server.feeds.problems(Instant::now()).is_empty() {
        assert!(Instant::now() < deadline, "the problem is over");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
