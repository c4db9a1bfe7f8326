use std::io::{Cursor, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(5)
}

fn add() -> CniRequest {
    CniRequest::Add(AddRequest {
        attachment: Attachment {
            container_id: "c1".parse().unwrap(),
            ifname: "eth0".parse().unwrap(),
        },
        netns_path: "/run/netns/c1".into(),
        network: "weft".into(),
        name: Some("web".into()),
        namespace: None,
        mtu: None,
        ports: Vec::new(),
    })
}

#[test]
fn a_request_has_its_place_in_the_envelope() {
    let status = CniRequest::Status(StatusRequest {
        network: "weft".into(),
    });
    let text = |request: Request| String::from_utf8(request.encode().unwrap()).unwrap();
    assert_eq!(
        text(Request::Cni(Box::new(status))),
        r#"{"v":1,"cni":{"STATUS":{"network":"weft"}}}"#
    );
    assert_eq!(
        text(Request::Control(serde_json::json!({"peers": {}}))),
        r#"{"v":1,"control":{"peers":{}}}"#
    );
}

#[test]
fn a_request_survives_the_wire() {
    let body = Request::Cni(Box::new(add())).encode().unwrap();
    let Request::Cni(back) = Request::decode(&body).unwrap() else {
        panic!("another kind of request");
    };
    assert_eq!(*back, add());
}

#[test]
fn a_reply_is_a_value_or_an_error() {
    let body = encode_reply(Ok(Empty {})).unwrap();
    assert_eq!(body, br#"{"v":1,"ok":{}}"#);
    assert_eq!(decode_reply::<Empty>(&body), Ok(Empty {}));
    let error = Error::new(code::TRY_AGAIN, "later").with_details("much");
    let body = encode_reply::<Empty>(Err(error.clone())).unwrap();
    assert_eq!(
        String::from_utf8(body.clone()).unwrap(),
        r#"{"v":1,"error":{"code":11,"msg":"later","details":"much"}}"#
    );
    assert_eq!(decode_reply::<Empty>(&body), Err(error));
}

#[test]
fn another_version_is_named_before_anything_else_is_read() {
    let error = Request::decode(br#"{"v":2,"new":true}"#).unwrap_err();
    assert_eq!(error.code, code::PROTOCOL);
    assert!(error.msg.contains("version 2"), "{error}");
}

#[test]
fn a_descriptor_comes_with_its_frame_and_is_closed_on_exec() {
    let (near, far) = UnixStream::pair().unwrap();
    let file = tempfile::tempfile().unwrap();
    (&file).write_all(b"inside").unwrap();
    send_with_fd(&near, b"one", Some(file.as_fd()), soon()).unwrap();
    send_with_fd(&near, b"two", None, soon()).unwrap();
    let (body, fd) = recv_with_fd(&far, soon()).unwrap().unwrap();
    assert_eq!(body, b"one");
    let fd = fd.unwrap();
    assert_eq!(rustix::fs::fstat(&fd).unwrap().st_size, 6);
    let flags = rustix::io::fcntl_getfd(&fd).unwrap();
    assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
    let (body, fd) = recv_with_fd(&far, soon()).unwrap().unwrap();
    assert_eq!((body.as_slice(), fd.is_none()), (&b"two"[..], true));
    drop(near);
    assert!(recv_with_fd(&far, soon()).unwrap().is_none());
}

#[test]
fn a_frame_larger_than_the_socket_buffer_gets_through_with_its_descriptor() {
    let (near, far) = UnixStream::pair().unwrap();
    let body = vec![7; MAX_FRAME];
    std::thread::scope(|scope| {
        scope.spawn(|| send_with_fd(&near, &body, Some(far.as_fd()), soon()).unwrap());
        let (got, fd) = recv_with_fd(&far, soon()).unwrap().unwrap();
        assert!(got == body && fd.is_some());
    });
}

#[test]
fn a_silent_peer_costs_no_more_than_the_deadline() {
    let (near, far) = UnixStream::pair().unwrap();
    (&near).write_all(&[0, 0]).unwrap();
    let start = Instant::now();
    let deadline = start + Duration::from_millis(50);
    let error = recv_with_fd(&far, deadline).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    assert!(start.elapsed() < Duration::from_secs(4));
}

#[test]
fn a_frame_cut_short_or_too_long_is_an_error() {
    let kind = |bytes: &[u8]| read_frame(&mut Cursor::new(bytes)).map_err(|e| e.kind());
    assert_eq!(kind(&[]), Ok(None));
    assert_eq!(kind(&[0, 0, 0, 1, 9]), Ok(Some(vec![9])));
    assert_eq!(kind(&[0, 0]), Err(std::io::ErrorKind::UnexpectedEof));
    assert_eq!(
        kind(&[0, 0, 0, 5, 1]),
        Err(std::io::ErrorKind::UnexpectedEof)
    );
    assert_eq!(kind(&[255, 0, 0, 0]), Err(std::io::ErrorKind::InvalidData));
}

proptest! {
    #[test]
    fn random_bytes_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        let _ = read_frame(&mut Cursor::new(&bytes));
        let _ = Request::decode(&bytes);
        let _ = decode_reply::<AddReply>(&bytes);
    }
}
