//! The choice of an endpoint, by a clock that the tests move.

use super::*;

fn address(last: u8) -> SocketAddr {
    ([192, 0, 2, last], 6783).into()
}

fn choice(candidates: &[SocketAddr]) -> (EndpointChoice, Instant) {
    let now = Instant::now();
    let mut choice = EndpointChoice::new(now);
    choice.set_candidates(candidates, &["10.32.0.0/12".parse().unwrap()], now);
    (choice, now)
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn fresh(endpoint: SocketAddr) -> Evidence {
    Evidence {
        endpoint: Some(endpoint),
        handshake: Some(seconds(1)),
        probes: Probes::Answered,
        ..Evidence::default()
    }
}

#[test]
fn candidates_take_turns_of_five_seconds_in_the_order_given() {
    let (mut choice, start) = choice(&[address(1), address(2), address(3)]);
    let nothing = Evidence::default();
    let tried: Vec<_> = (0..8)
        .map(|n| {
            choice
                .decide(&nothing, start + Duration::from_millis(2_500) * n)
                .set
        })
        .collect();
    let expected = [1, 1, 2, 2, 3, 3, 1, 1].map(|last| Some(address(last)));
    assert_eq!(tried, expected);
    let Report::Trying {
        since, tried, next, ..
    } = choice.report()
    else {
        panic!("{:?}", choice.report())
    };
    assert_eq!((since, next), (start, start + seconds(20)));
    assert_eq!(
        tried.iter().map(|t| t.endpoint).collect::<Vec<_>>(),
        [1, 2, 3].map(address)
    );
}

#[test]
fn names_are_resolved_again_when_a_round_failed_but_not_too_often() {
    let (mut choice, start) = choice(&[address(1), address(2)]);
    let nothing = Evidence::default();
    let mut resolved = Vec::new();
    for second in 0..=30 {
        if choice.decide(&nothing, start + seconds(second)).resolve {
            resolved.push(second);
        }
    }
    assert_eq!(resolved, [10, 20, 30]);
}

#[test]
fn a_roamed_endpoint_is_kept_while_it_is_fresh_and_tried_again_after_the_others() {
    let (mut choice, start) = choice(&[address(1)]);
    assert_eq!(
        choice.decide(&Evidence::default(), start).set,
        Some(address(1))
    );
    let roamed = SocketAddr::from(([198, 51, 100, 7], 40_000));
    let decision = choice.decide(&fresh(roamed), start + seconds(2));
    assert_eq!((decision.set, decision.resolve), (None, false));
    assert_eq!(
        choice.report(),
        Report::Connected {
            endpoint: Some(roamed),
            since: start + seconds(2)
        }
    );

    let lost = Evidence {
        endpoint: Some(roamed),
        handshake: Some(seconds(60)),
        probes: Probes::Unanswered,
        ..Evidence::default()
    };
    let mut set = |second| choice.decide(&lost, start + seconds(second)).set;
    assert_eq!(
        [set(60), set(65), set(70)],
        [address(1), roamed, address(1)].map(Some)
    );
}

#[test]
fn without_probes_a_handshake_counts_for_three_minutes() {
    let (mut choice, start) = choice(&[address(1)]);
    let mut set = |age| {
        let evidence = Evidence {
            endpoint: Some(address(9)),
            handshake: Some(seconds(age)),
            probes: Probes::Unknown,
            ..Evidence::default()
        };
        choice.decide(&evidence, start).set
    };
    assert_eq!([set(179), set(180)], [None, Some(address(1))]);
}

#[test]
fn no_address_of_the_mesh_is_ever_an_endpoint() {
    let inside = SocketAddr::from(([10, 32, 5, 1], 6783));
    let (mut choice, start) = choice(&[inside, "0.0.0.0:1".parse().unwrap(), address(0)]);
    assert_eq!(
        choice.decide(&Evidence::default(), start).set,
        Some(address(0))
    );
    // A kernel device roams to whatever it hears.
    assert_eq!(choice.decide(&fresh(inside), start).set, Some(address(0)));
}

#[test]
fn an_address_that_no_other_host_has_is_never_an_endpoint() {
    let useless = [
        "127.0.0.1:1",
        "[::1]:1",
        "[::ffff:127.0.0.1]:1",
        "169.254.1.1:1",
        "[fe80::1]:1",
        "224.0.0.1:1",
        "[ff02::1]:1",
        "255.255.255.255:1",
        "192.0.2.1:0",
    ];
    let (mut choice, start) = choice(&useless.map(|a| a.parse().unwrap()));
    assert_eq!(choice.decide(&Evidence::default(), start).set, None);
}

#[test]
fn a_peer_without_endpoints_is_waited_for() {
    let (mut choice, start) = choice(&[]);
    assert_eq!(choice.decide(&Evidence::default(), start).set, None);
    assert_eq!(choice.report(), Report::NoEndpoint { since: start });
    choice.decide(&fresh(address(4)), start + seconds(1));
    let lost = Evidence::default();
    assert_eq!(
        choice.decide(&lost, start + seconds(200)).set,
        Some(address(4))
    );
}

#[test]
fn new_candidates_are_tried_at_once() {
    let (mut choice, start) = choice(&[address(1), address(2)]);
    choice.decide(&Evidence::default(), start);
    choice.set_candidates(&[address(3)], &[], start + seconds(1));
    let decision = choice.decide(&Evidence::default(), start + seconds(1));
    assert_eq!(decision.set, Some(address(3)));
    assert_eq!(decision.again, start + seconds(6));
}

#[test]
fn the_list_of_tries_is_bounded() {
    let many: Vec<_> = (0..200).map(address).collect();
    let (mut choice, start) = choice(&many);
    for n in 0..100 {
        choice.decide(&Evidence::default(), start + TRY * n);
    }
    let Report::Trying { tried, .. } = choice.report() else {
        panic!("it tries")
    };
    assert_eq!(tried.len(), MOST_CANDIDATES);
}

#[test]
fn tries_are_shared_among_many_silent_peers() {
    let times = [0, 20, 100, 200, 600, 10_000].map(|silent| try_time(silent).as_secs());
    assert_eq!(times, [5, 5, 5, 10, 30, 30]);

    let (mut choice, start) = choice(&[address(1), address(2)]);
    let evidence = Evidence {
        silent: 200,
        ..Evidence::default()
    };
    let mut set = |second| choice.decide(&evidence, start + seconds(second)).set;
    assert_eq!(
        [set(0), set(9), set(10)],
        [address(1), address(1), address(2)].map(Some)
    );
}
