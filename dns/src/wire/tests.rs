//! Replies as bytes, well formed and not.

use proptest::prelude::*;

use super::testing::{Made, question};
use super::write::OPT_LEN;
use super::*;
use crate::query::{Received, Request, receive};

fn request(edns: Option<bool>) -> Request {
    match receive(&query(99, &question("NAME.example", 1), edns, false)) {
        Received::Request(request) => *request,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_reply_is_passed_on_with_the_clients_id_spelling_and_times_counted_down() {
    let made = Made::new(&question("name.example", 1))
        .answer(1, 300, &[1, 2, 3, 4])
        .answer(0xff01, 100, b"nobody knows what");
    let out = made
        .clone()
        .reply()
        .unauthoritative()
        .write(&request(None), 512, 50);
    let want = Made::new(&question("NAME.example", 1))
        .answer(1, 250, &[1, 2, 3, 4])
        .answer(0xff01, 50, b"nobody knows what");
    assert_eq!(out[..2], [0, 99]);
    assert_eq!(out[2..4], [QR | RD, RA]);
    assert_eq!(out[4..], want.0[4..]);
}

#[test]
fn a_cut_reply_keeps_every_whole_record_that_fits_and_says_so() {
    let mut made = Made::new(&question("name.example", 1));
    for at in 0..100 {
        made = made.answer(1, 60, &[10, 0, 0, at]);
    }
    let reply = made.reply();
    for (edns, limit) in [(None, 512), (Some(false), 512), (Some(true), 1232)] {
        let out = reply.write(&request(edns), limit, 0);
        let count = usize::from(u16_at(&out, 6).unwrap());
        let opt = edns.map_or(0, |_| OPT_LEN);
        assert_eq!(count, (limit - opt - 30) / 16);
        assert_eq!(out.len(), 30 + 16 * count + opt);
        assert!(is_truncated(&out));
        Reply::parse(out).unwrap();
    }
    let whole = reply.write(&request(None), 65_535, 0);
    assert!(!is_truncated(&whole));
    assert_eq!(u16_at(&whole, 6), Ok(100));
}

#[test]
fn hints_that_do_not_fit_leave_no_trace() {
    let made = Made::new(&question("name.example", 1))
        .answer(1, 60, &[1; 4])
        .additional(16, 60, &[0; 600]);
    let out = made.reply().write(&request(None), 512, 0);
    assert!(!is_truncated(&out));
    assert_eq!((u16_at(&out, 6), u16_at(&out, 10)), (Ok(1), Ok(0)));
}

#[test]
fn the_opt_of_another_hop_goes_no_further() {
    let opt = [0, 0, 41, 16, 0, 0, 0, 0x80, 0, 0, 4, 0, 15, 0, 0];
    let mut made = Made::new(&question("name.example", 1)).answer(1, 60, &[1; 4]);
    made.0.extend_from_slice(&opt);
    made.0[11] = 1;
    let bare = made.clone().reply().write(&request(None), 512, 0);
    assert_eq!((bare.len(), u16_at(&bare, 10)), (46, Ok(0)));
    let ours = made.reply().write(&request(Some(true)), 512, 0);
    assert_eq!(ours[46..], [0, 0, 41, 4, 208, 0, 0, 0x80, 0, 0, 0]);
}

#[test]
fn ad_is_told_to_those_who_asked() {
    let mut made = Made::new(&question("name.example", 1)).answer(1, 60, &[1; 4]);
    made.0[3] |= AD;
    let reply = made.reply();
    let asked = |edns| reply.write(&request(edns), 512, 0)[3] & AD != 0;
    assert!(asked(Some(true)));
    let mut silent = request(None);
    silent.wants_authentic = false;
    assert_eq!(reply.write(&silent, 512, 0)[3] & AD, 0);
}

#[test]
fn malformed_replies_are_refused() {
    let good = Made::new(&question("name.example", 1))
        .answer(1, 60, &[1; 4])
        .0;
    for end in 0..good.len() {
        assert!(Reply::parse(good[..end].to_vec()).is_err(), "{end} bytes");
    }
    let mut forward = good.clone();
    forward[31] = 200;
    assert_eq!(Reply::parse(forward), Err(WireError::Name));
    let mut to_itself = good.clone();
    to_itself[31] = 30;
    assert_eq!(Reply::parse(to_itself), Err(WireError::Name));
    let mut question = good;
    question[2] &= !QR;
    assert_eq!(Reply::parse(question), Err(WireError::NotAReply));
}

#[test]
fn no_reply_of_the_corpus_does_harm() {
    let mut read = 0;
    crate::corpus::each_variant(env!("CARGO_MANIFEST_DIR"), "reply", |bytes| {
        let Ok(reply) = Reply::parse(bytes.to_vec()) else {
            return;
        };
        read += 1;
        reply.lifetime();
        for edns in [None, Some(true)] {
            let out = reply.write(&request(edns), 512, 7);
            assert!(out.len() <= 512);
            assert!(Reply::parse(out).is_ok());
        }
    });
    assert!(read > 100, "{read} were read at all");
}

proptest! {
    #[test]
    fn whatever_parses_is_written_within_the_limit_and_parses_again(
        mut bytes in prop::collection::vec(any::<u8>(), 0..400),
        records in 0u8..4,
        limit in 512usize..1300,
        age in any::<u32>(),
    ) {
        // Random headers rarely pass; make these likely to.
        if bytes.len() > 12 {
            bytes[2] |= QR;
            bytes[4..12].copy_from_slice(&[0, 1, 0, records, 0, 0, 0, 1]);
        }
        if let Ok(reply) = Reply::parse(bytes) {
            for edns in [None, Some(true)] {
                let out = reply.write(&request(edns), limit, age);
                prop_assert!(out.len() <= limit);
                prop_assert!(Reply::parse(out).is_ok());
            }
        }
    }

    #[test]
    fn a_mutated_reply_does_not_panic(at in 0usize..120, to in any::<u8>(), age in any::<u32>()) {
        let mut made = Made::new(&question("name.example", 1))
            .answer(1, 60, &[1; 4])
            .authority(6, 60, &[0; 22])
            .additional(41, 60, &[0, 10, 0, 0]);
        let at = at % made.0.len();
        made.0[at] = to;
        if let Ok(reply) = Reply::parse(made.0) {
            reply.lifetime();
            prop_assert!(reply.write(&request(Some(false)), 512, age).len() <= 512);
        }
    }
}
