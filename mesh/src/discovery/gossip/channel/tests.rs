//! Two ends over a pipe in memory, and strangers.

use proptest::prelude::*;
use tokio::io::duplex;

use super::*;

const MESH: MeshId = MeshId::from_bytes([1; 16]);

fn secret(n: u8) -> Secret {
    Secret::from_bytes([n; 32])
}

async fn answer(bytes: &[u8]) -> (Vec<u8>, Result<(), ChannelError>) {
    let (mut near, far) = duplex(1 << 16);
    let ours = secret(1);
    let known = ours.id();
    let task = tokio::spawn(respond(
        far,
        MESH,
        move |id| (id == known).then_some(ours),
        |_| true,
    ));
    near.write_all(bytes).await.unwrap();
    near.shutdown().await.unwrap();
    let mut answer = Vec::new();
    let result = task.await.unwrap().map(|_| ());
    let _ = near.read_to_end(&mut answer).await;
    (answer, result)
}

#[tokio::test]
async fn two_holders_of_the_secret_talk_in_messages_of_any_size() {
    let (near, far) = duplex(1 << 16);
    let near_secret = secret(1);
    let opened = initiate(near, &near_secret, MESH);
    let answered = respond(far, MESH, |_| Some(secret(1)), |_| true);
    let (a, b) = tokio::join!(opened, answered);
    let (mut a, mut b) = (a.unwrap(), b.unwrap());
    assert_eq!(a.binding, b.binding);
    let long = Message::Params {
        text: "x".repeat(300_000),
    };
    let (sent, received) = tokio::join!(a.sender.send(&long), b.receiver.receive());
    sent.unwrap();
    assert!(matches!(received.unwrap(), Message::Params { text } if text.len() == 300_000));
    b.sender.send(&Message::Ping).await.unwrap();
    assert!(matches!(a.receiver.receive().await, Ok(Message::Ping)));
    let huge = Message::Params {
        text: "x".repeat(MAX_MESSAGE),
    };
    assert!(matches!(
        a.sender.send(&huge).await,
        Err(ChannelError::TooLarge)
    ));
}

#[tokio::test]
async fn another_secret_or_another_mesh_gets_no_byte() {
    for (asked, mesh) in [(secret(2), MESH), (secret(1), MeshId::from_bytes([2; 16]))] {
        let (near, far) = duplex(1 << 16);
        let opened = tokio::spawn(async move { initiate(near, &asked, mesh).await.map(|_| ()) });
        let refused = respond(far, MESH, |_| Some(secret(1)), |_| true).await;
        assert!(matches!(refused, Err(ChannelError::Sealed)), "{refused:?}");
        drop(refused);
        let opened = opened.await.unwrap();
        assert!(matches!(opened, Err(ChannelError::NoAnswer)), "{opened:?}");
    }
}

#[tokio::test]
async fn a_first_message_that_was_seen_gets_no_byte() {
    let (near, mut far) = duplex(1 << 16);
    let opened = tokio::spawn(async move { initiate(near, &secret(1), MESH).await.map(|_| ()) });
    let mut first = [0; PRELUDE + FLIGHT];
    far.read_exact(&mut first).await.unwrap();
    drop(far);
    assert!(opened.await.unwrap().is_err());
    let (answered, result) = answer(&first).await;
    assert_eq!((answered.len(), result.is_ok()), (FLIGHT, true));
    let (mut again, far) = duplex(1 << 16);
    again.write_all(&first).await.unwrap();
    let result = respond(far, MESH, |_| Some(secret(1)), |_| false).await;
    assert!(matches!(result, Err(ChannelError::Replay)));
    drop(result);
    let mut bytes = Vec::new();
    again.read_to_end(&mut bytes).await.unwrap();
    assert_eq!(bytes, b"");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn random_bytes_get_no_byte_and_no_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        begin in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut sent = Vec::new();
        if begin {
            sent.extend_from_slice(&MAGIC);
            sent.extend_from_slice(secret(1).id().as_bytes());
        }
        sent.extend_from_slice(&bytes);
        let (answered, result) = runtime.block_on(answer(&sent));
        prop_assert!(answered.is_empty() && result.is_err());
    }

    #[test]
    fn no_bytes_panic_the_prelude(bytes in any::<[u8; PRELUDE]>()) {
        let _ = parse_prelude(&bytes);
    }
}
