//! What is kept, for how long, and within what bounds.

use proptest::prelude::*;

use super::*;
use crate::wire::testing::{Made, question};

fn key(name: &str) -> CacheKey {
    CacheKey::new(&Ask::new(&question(name, 1), false, false))
}

fn made(name: &str) -> Made {
    Made::new(&question(name, 1))
}

fn cache(entries: usize, bytes: usize) -> Cache {
    Cache::new(CacheLimits { entries, bytes })
}

#[test]
fn a_reply_lives_as_long_as_its_shortest_record() {
    let now = Instant::now();
    let after = |seconds| now + Duration::from_secs(seconds);
    let mut cache = cache(10, 10_000);
    let reply = made("a.").answer(1, 300, &[1; 4]).answer(1, 60, &[2; 4]);
    cache.put(key("a."), Arc::new(reply.reply()), now);
    assert_eq!(cache.get(&key("A."), after(0)).map(|hit| hit.age), Some(0));
    assert_eq!(
        cache.get(&key("a."), after(59)).map(|hit| hit.age),
        Some(59)
    );
    assert_eq!(cache.get(&key("a."), after(60)), None);
    assert!(cache.is_empty());
}

#[test]
fn what_may_be_kept_and_for_how_long() {
    let soa = |minimum: u32| [&[0, 0][..], &[0; 16], &minimum.to_be_bytes()].concat();
    let cases = [
        ("positive", made("a.").answer(1, 9, &[1; 4]), Some(9)),
        (
            "capped at a day",
            made("a.").answer(1, 999_999, &[1; 4]),
            Some(86_400),
        ),
        ("no time at all", made("a.").answer(1, 0, &[1; 4]), None),
        ("top bit set", made("a.").answer(1, 1 << 31, &[1; 4]), None),
        (
            "hints count",
            made("a.").answer(1, 9, &[1; 4]).additional(1, 3, &[1; 4]),
            Some(3),
        ),
        (
            "no such name, minimum",
            made("a.").rcode(3).authority(6, 99, &soa(30)),
            Some(30),
        ),
        (
            "no such name, ttl",
            made("a.").rcode(3).authority(6, 20, &soa(30)),
            Some(20),
        ),
        (
            "no such name, long",
            made("a.").rcode(3).authority(6, 99_999, &soa(99_999)),
            Some(10_800),
        ),
        ("no such name, no soa", made("a.").rcode(3), None),
        ("no data", made("a.").authority(6, 99, &soa(7)), Some(7)),
        ("no data, no soa", made("a.").authority(2, 99, &[0]), None),
        ("soa too short", made("a.").authority(6, 99, &[0; 21]), None),
        (
            "alias to nothing",
            made("a.").answer(5, 50, &[0]).authority(6, 99, &soa(7)),
            Some(7),
        ),
        ("alias alone", made("a.").answer(5, 50, &[0]), None),
        (
            "server failure",
            made("a.").rcode(2).authority(6, 99, &soa(7)),
            None,
        ),
        (
            "cut short",
            made("a.").answer(1, 9, &[1; 4]).truncated(),
            None,
        ),
    ];
    for (what, made, want) in cases {
        let want = want.map(Duration::from_secs);
        assert_eq!(made.reply().lifetime(), want, "{what}");
    }
}

#[test]
fn do_and_cd_and_type_keep_answers_apart() {
    let keys = [
        CacheKey::new(&Ask::new(&question("a.", 1), false, false)),
        CacheKey::new(&Ask::new(&question("a.", 1), true, false)),
        CacheKey::new(&Ask::new(&question("a.", 1), false, true)),
        // 'A' and 'a' as types: a type has no letter case.
        CacheKey::new(&Ask::new(&question("a.", 65), false, false)),
        CacheKey::new(&Ask::new(&question("a.", 97), false, false)),
    ];
    let distinct: std::collections::HashSet<_> = keys.iter().collect();
    assert_eq!(distinct.len(), keys.len());
}

#[test]
fn the_least_recently_used_goes_first() {
    let now = Instant::now();
    let mut cache = cache(2, 100_000);
    for name in ["a.", "b."] {
        cache.put(
            key(name),
            Arc::new(made(name).answer(1, 9, &[1; 4]).reply()),
            now,
        );
    }
    assert!(cache.get(&key("a."), now).is_some());
    cache.put(
        key("c."),
        Arc::new(made("c.").answer(1, 9, &[1; 4]).reply()),
        now,
    );
    assert!(cache.get(&key("a."), now).is_some());
    assert!(cache.get(&key("b."), now).is_none());
    assert!(cache.get(&key("c."), now).is_some());
}

#[test]
fn a_reply_larger_than_the_cache_is_not_kept() {
    let mut cache = cache(10, 500);
    let reply = made("a.").answer(16, 9, &[0; 400]).reply();
    cache.put(key("a."), Arc::new(reply), Instant::now());
    assert!(cache.is_empty());
}

proptest! {
    #[test]
    fn the_limits_and_the_sums_hold_whatever_comes(
        steps in prop::collection::vec((0u8..12, 0u32..8, 0usize..300, 0u64..4, any::<bool>()), 0..200),
    ) {
        let mut now = Instant::now();
        let mut cache = cache(5, 1500);
        let mut kept: HashMap<CacheKey, (Arc<Reply>, Instant, u32)> = HashMap::new();
        for (name, ttl, size, pause, put) in steps {
            now += Duration::from_secs(pause);
            let name = format!("n{name}.");
            if put {
                let reply = Arc::new(made(&name).answer(16, ttl, &vec![0; size]).reply());
                // The question is for type A, so make the record count.
                let reply = match reply.lifetime() {
                    Some(_) => reply,
                    None => Arc::new(made(&name).answer(1, ttl, &vec![0; size]).reply()),
                };
                cache.put(key(&name), Arc::clone(&reply), now);
                kept.insert(key(&name), (reply, now, ttl));
            } else if let Some(hit) = cache.get(&key(&name), now) {
                // What is found is the last put, and not past its time.
                let (reply, since, ttl) = &kept[&key(&name)];
                prop_assert_eq!(&hit.reply, reply);
                prop_assert_eq!(u64::from(hit.age), (now - *since).as_secs());
                prop_assert!(hit.age < *ttl);
            }
            prop_assert!(cache.entries.len() <= 5 && cache.bytes <= 1500);
            prop_assert_eq!(cache.entries.len(), cache.used.len());
            prop_assert_eq!(cache.entries.values().map(|it| it.cost).sum::<usize>(), cache.bytes);
        }
    }
}
