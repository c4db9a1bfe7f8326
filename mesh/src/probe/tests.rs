//! Probes by a clock that the tests move.

use super::*;

fn counter() -> impl FnMut() -> u64 {
    let mut last = 0_u64;
    move || {
        last = last
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963);
        last ^ (last >> 29)
    }
}

fn prober(peers: u32) -> (Prober<u32>, Instant) {
    let (mut prober, now) = (Prober::default(), Instant::now());
    prober.set_peers(&(0..peers).collect(), now);
    (prober, now)
}

/// Runs the clock for `time`; `answer` tells whether and after what time a peer answers.
fn run(
    prober: &mut Prober<u32>,
    start: Instant,
    time: Duration,
    answer: impl Fn(u32) -> Option<Duration>,
) -> Vec<(Duration, u32)> {
    let mut random = counter();
    let mut sent = Vec::new();
    let mut answers: BTreeSet<(Instant, u32, u64)> = BTreeSet::new();
    while let Some(now) = [prober.next(), answers.first().map(|(when, ..)| *when)]
        .into_iter()
        .flatten()
        .min()
        .filter(|&now| now <= start + time)
    {
        while let Some((_, peer, nonce)) =
            answers.first().filter(|(when, ..)| *when <= now).copied()
        {
            answers.pop_first();
            prober.answered(&peer, nonce, now);
        }
        for (peer, nonce) in prober.due(now, &mut random).probes {
            sent.push((now - start, peer));
            answers.extend(answer(peer).map(|delay| (now + delay, peer, nonce)));
        }
    }
    sent
}

const RTT: Duration = Duration::from_millis(20);

#[test]
fn a_few_peers_are_probed_about_once_a_second_each() {
    let (mut prober, start) = prober(20);
    let sent = run(&mut prober, start, Duration::from_secs(60), |_| Some(RTT));
    for peer in 0..20 {
        let count = sent.iter().filter(|(_, to)| *to == peer).count();
        assert!((55..=66).contains(&count), "{peer}: {count}");
        let health = prober.health(&peer).unwrap();
        assert_eq!((health.life, health.loss), (Life::Alive, 0.0));
        assert_eq!(health.smoothed_rtt, Some(RTT));
    }
}

#[test]
fn new_peers_are_probed_at_once_and_later_a_few_at_a_time() {
    let (mut prober, start) = prober(20);
    let sent = run(&mut prober, start, Duration::from_secs(60), |_| Some(RTT));
    let first: BTreeSet<_> = sent.iter().take(20).map(|(_, peer)| peer).collect();
    assert_eq!(first.len(), 20);
    assert!(sent[19].0 <= Duration::from_millis(200), "{:?}", sent[19].0);
    let mut wakes: Vec<_> = sent.iter().map(|(when, _)| when).collect();
    wakes.dedup();
    assert!(
        wakes.len() * 2 < sent.len(),
        "{} of {}",
        wakes.len(),
        sent.len()
    );
}

#[test]
fn the_rate_is_bounded_in_every_second_however_many_peers_there_are() {
    for peers in [90, 100, 1_000] {
        let (mut prober, start) = prober(peers);
        let sent = run(&mut prober, start, Duration::from_secs(30), |_| Some(RTT));
        for (place, (when, _)) in sent.iter().enumerate() {
            let next = sent.get(place + MOST_A_SECOND as usize);
            assert!(next.is_none_or(|(then, _)| *then - *when >= Duration::from_secs(1)));
        }
        let probed: BTreeSet<_> = sent.iter().map(|(_, peer)| peer).collect();
        assert_eq!(probed.len(), peers as usize, "each has its turn");
        // Where the rate is short, the half is left to the peers.
        let least = if peers > MOST_A_SECOND { 1_300 } else { 2_400 };
        assert!(sent.len() > least, "{peers}: {}", sent.len());
    }
}

#[test]
fn where_the_rate_is_short_probes_go_out_together() {
    let (mut prober, start) = prober(1_000);
    let sent = run(&mut prober, start, Duration::from_secs(30), |_| Some(RTT));
    let mut wakes: Vec<_> = sent.iter().map(|(when, _)| when).collect();
    wakes.dedup();
    assert!(
        wakes.len() * 5 < sent.len(),
        "{} of {}",
        wakes.len(),
        sent.len()
    );
}

#[test]
fn a_sender_that_overslept_does_not_catch_up() {
    let (mut prober, start) = prober(100);
    let mut random = counter();
    let late = start + Duration::from_secs(60);
    assert_eq!(prober.due(late, &mut random).probes.len(), BURST as usize);
    assert_eq!(prober.due(late, &mut random).probes.len(), 0);
    assert!(prober.next().unwrap() <= late + INTERVAL * BURST);
}

#[test]
fn a_peer_of_a_hundred_that_falls_silent_is_dead_within_five_seconds() {
    let (mut prober, start) = prober(100);
    run(&mut prober, start, Duration::from_secs(10), |_| Some(RTT));
    let silent = start + Duration::from_secs(10);
    run(&mut prober, silent, Duration::from_secs(10), |peer| {
        (peer != 7).then_some(RTT)
    });
    let health = prober.health(&7).unwrap();
    assert_eq!(health.life, Life::Dead);
    let took = health.since - silent;
    assert!(took <= Duration::from_secs(5), "{took:?}");
    assert!((0..100).all(|peer| peer == 7 || prober.health(&peer).unwrap().life == Life::Alive));
}

#[test]
fn a_dead_peer_is_up_at_its_first_answer() {
    let (mut prober, start) = prober(1);
    run(&mut prober, start, Duration::from_secs(20), |_| None);
    assert_eq!(prober.health(&0).unwrap().life, Life::Dead);
    assert_eq!(prober.health(&0).unwrap().loss, 1.0);
    let mut now = start + Duration::from_secs(20);
    let mut random = counter();
    random();
    let nonce = loop {
        now += Duration::from_millis(100);
        if let Some((_, nonce)) = prober.due(now, &mut random).probes.first() {
            break *nonce;
        }
    };
    let answered = prober.answered(&0, nonce, now + RTT).unwrap();
    assert_eq!(
        answered,
        Answered {
            rtt: RTT,
            came_up: true
        }
    );
}

#[test]
fn death_is_told_once() {
    let (mut prober, start) = prober(1);
    let mut random = counter();
    let died = (0..200).filter(|n| {
        let now = start + Duration::from_millis(100) * *n;
        !prober.due(now, &mut random).died.is_empty()
    });
    assert_eq!(died.count(), 1);
}

#[test]
fn an_answer_counts_once_and_only_for_whom_it_was_asked() {
    let (mut prober, now) = prober(2);
    let due = prober.due(now + Duration::from_secs(1), counter());
    let (peer, nonce) = due.probes[0];
    let then = now + Duration::from_secs(1) + RTT;
    assert_eq!(prober.answered(&(1 - peer), nonce, then), None);
    assert_eq!(prober.answered(&peer, nonce ^ 1, then), None);
    assert!(prober.answered(&peer, nonce, then).is_some());
    assert_eq!(prober.answered(&peer, nonce, then), None);
}

#[test]
fn loss_is_the_share_of_the_last_32() {
    let (mut prober, start) = prober(1);
    run(&mut prober, start, Duration::from_secs(100), |_| None);
    let later = start + Duration::from_secs(100);
    run(&mut prober, later, Duration::from_secs(17), |_| Some(RTT));
    let loss = prober.health(&0).unwrap().loss;
    assert!((0.4..0.6).contains(&loss), "{loss}");
}

#[test]
fn what_is_outstanding_is_bounded_and_goes_with_the_peer() {
    let (mut prober, start) = prober(10);
    run(&mut prober, start, Duration::from_secs(100), |_| None);
    assert!(
        prober
            .peers
            .values()
            .all(|peer| peer.outstanding.len() <= MOST_OUTSTANDING)
    );
    assert!(prober.deadlines.len() <= 20);
    prober.set_peers(&BTreeSet::new(), start);
    assert!(prober.next().is_none());
    assert_eq!(prober.health(&1), None);
}

#[test]
fn where_the_rate_is_short_the_dead_are_asked_less() {
    let (mut prober, start) = prober(400);
    let sent = run(&mut prober, start, Duration::from_secs(300), |peer| {
        (peer < 200).then_some(RTT)
    });
    // Once they are known to be dead.
    let late = sent.iter().filter(|(at, _)| *at > Duration::from_secs(60));
    let (living, all) = (late.clone().filter(|(_, peer)| *peer < 200), late);
    let living = living.count();
    let ratio = living as f64 / (all.count() - living) as f64;
    // Once in three periods; the living once in two, and they ask as well.
    assert!((1.4..1.6).contains(&ratio), "{ratio}");
}

#[test]
fn a_dead_peer_that_is_heard_is_asked_next() {
    let (mut prober, start) = prober(400);
    let time = Duration::from_secs(60);
    run(&mut prober, start, time, |_| None);
    assert_eq!(prober.health(&7).unwrap().life, Life::Dead);
    let later = start + time + Duration::from_secs(2);
    prober.heard(&7, 0, later);
    let due = prober.due(later, counter());
    assert_eq!(due.probes.iter().filter(|(to, _)| *to == 7).count(), 1);
    // What was asked just now is not asked again.
    prober.heard(&7, 0, later);
    let due = prober.due(later + Duration::from_millis(900), counter());
    assert!(due.probes.iter().all(|(to, _)| *to != 7));
}

#[test]
fn where_the_rate_is_short_two_that_are_well_ask_in_turn() {
    let (mut prober, start) = prober(1_000);
    let time = Duration::from_secs(60);
    run(&mut prober, start, time, |_| Some(RTT));
    let before = (0..3).map(|peer| prober.health(&peer).unwrap().sent);
    let before: Vec<_> = before.collect();
    let mut now = start + time;
    for round in 0..30 {
        // The first asks in its turn, the second too often, the third never.
        if round % 2 == 0 {
            prober.heard(&0, 7 * round, now);
        }
        prober.heard(&1, 11 * round, now);
        run(&mut prober, now, Duration::from_secs(10), |_| Some(RTT));
        now += Duration::from_secs(10);
    }
    let sent = |peer: u32| prober.health(&peer).unwrap().sent - before[peer as usize];
    assert!((14..=16).contains(&sent(0)), "{} in 300 s", sent(0));
    assert!((14..=16).contains(&sent(2)), "{} in 300 s", sent(2));
    assert!((7..=25).contains(&sent(1)), "{} in 300 s", sent(1));
    assert!((0..1_000).all(|peer| prober.health(&peer).unwrap().life == Life::Alive));
}

#[test]
fn a_peer_of_a_thousand_is_dead_within_two_turns_and_three_losses() {
    let (mut prober, start) = prober(1_000);
    let time = Duration::from_secs(40);
    run(&mut prober, start, time, |_| Some(RTT));
    let silent = start + time;
    // The worst: it has just asked.
    prober.heard(&7, 0, silent);
    run(&mut prober, silent, time, |peer| (peer != 7).then_some(RTT));
    let health = prober.health(&7).unwrap();
    assert_eq!(health.life, Life::Dead);
    let took = health.since - silent;
    assert!(took <= period(1_000) * 2 + PATIENCE * 4, "{took:?}");
}
