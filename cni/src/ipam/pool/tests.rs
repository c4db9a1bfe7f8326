use super::*;

fn pool(ranges: &[&str]) -> Pool {
    let ranges: Vec<IpNet> = ranges.iter().map(|r| r.parse().unwrap()).collect();
    Pool::new(&ranges)
}

/// Picks and remembers; the addresses as text.
fn take(pool: &mut Pool, used: &mut BTreeSet<IpAddr>) -> Result<String, PoolError> {
    let picked = pool.pick(used)?;
    used.extend(&picked);
    let names: Vec<String> = picked.iter().map(ToString::to_string).collect();
    Ok(names.join(" "))
}

#[test]
fn the_first_address_is_the_one_behind_the_nodes_own() {
    let first = |ranges: &[&str]| take(&mut pool(ranges), &mut BTreeSet::new()).unwrap();
    assert_eq!(first(&["10.32.7.0/24"]), "10.32.7.2");
    assert_eq!(first(&["10.32.7.9/24"]), "10.32.7.2");
    assert_eq!(first(&["fd00:1::/64"]), "fd00:1::2");
    assert_eq!(first(&["10.32.0.0/12"]), "10.32.0.2");
    assert_eq!(first(&["10.1.1.4/30"]), "10.1.1.6");
    assert_eq!(
        first(&["fd00:1::/64", "10.32.7.0/24"]),
        "10.32.7.2 fd00:1::2"
    );
}

#[test]
fn ranges_too_small_for_a_container_are_full_from_the_start() {
    for range in ["10.1.1.4/31", "10.1.1.4/32", "fd00::4/127", "fd00::4/128"] {
        let error = take(&mut pool(&[range]), &mut BTreeSet::new()).unwrap_err();
        assert!(
            error
                .to_string()
                .ends_with("is full: 0 of 0 addresses in use"),
            "{error}"
        );
    }
    assert_eq!(pool(&[]).pick(&BTreeSet::new()), Err(PoolError::NoRange));
}

#[test]
fn a_full_range_says_so_and_the_next_freed_address_is_given() {
    let mut pool = pool(&["10.32.7.0/24"]);
    let mut used = BTreeSet::new();
    for n in 2..=254 {
        assert_eq!(take(&mut pool, &mut used).unwrap(), format!("10.32.7.{n}"));
    }
    assert_eq!(
        take(&mut pool, &mut used).unwrap_err().to_string(),
        "range 10.32.7.0/24 is full: 253 of 253 addresses in use"
    );
    used.remove(&"10.32.7.77".parse().unwrap());
    assert_eq!(take(&mut pool, &mut used).unwrap(), "10.32.7.77");
}

#[test]
fn a_freed_address_is_the_last_to_be_given_again() {
    let mut pool = pool(&["10.32.7.0/29"]);
    let mut used = BTreeSet::new();
    let mut given = Vec::new();
    for _ in 0..7 {
        given.push(take(&mut pool, &mut used).unwrap());
        used.clear();
    }
    let last: Vec<_> = given.iter().map(|at| &at[8..]).collect();
    assert_eq!(last, ["2", "3", "4", "5", "6", "2", "3"]);
}

#[test]
fn the_second_range_of_a_family_follows_when_the_first_is_full() {
    let mut pool = pool(&["10.1.0.0/30", "10.2.0.0/30", "10.3.0.0/30"]);
    let mut used = BTreeSet::new();
    for wanted in ["10.1.0.2", "10.2.0.2", "10.3.0.2"] {
        assert_eq!(take(&mut pool, &mut used).unwrap(), wanted);
    }
    assert_eq!(
        take(&mut pool, &mut used).unwrap_err().to_string(),
        "ranges 10.1.0.0/30 + 10.2.0.0/30 + 10.3.0.0/30 are full: 3 of 3 addresses in use"
    );
    used.remove(&"10.1.0.2".parse().unwrap());
    assert_eq!(take(&mut pool, &mut used).unwrap(), "10.1.0.2");
}

#[test]
fn the_ipv6_address_takes_the_same_place_unless_it_is_taken() {
    let mut pool = pool(&["10.32.7.0/24", "fd00:1::/64"]);
    let mut used = BTreeSet::from(["fd00:1::3".parse().unwrap()]);
    assert_eq!(take(&mut pool, &mut used).unwrap(), "10.32.7.2 fd00:1::2");
    assert_eq!(take(&mut pool, &mut used).unwrap(), "10.32.7.3 fd00:1::4");
    assert_eq!(take(&mut pool, &mut used).unwrap(), "10.32.7.4 fd00:1::5");
    used.remove(&"fd00:1::5".parse().unwrap());
    assert_eq!(take(&mut pool, &mut used).unwrap(), "10.32.7.5 fd00:1::5");
}

#[test]
fn kept_addresses_stay_and_only_the_others_are_picked() {
    let mut pool = pool(&["10.32.7.0/24", "fd00:1::/64"]);
    let kept = ["fd00:1::9".parse().unwrap()];
    let all = pool.complete(&kept, &BTreeSet::from(kept)).unwrap();
    assert_eq!(all, ["10.32.7.2".parse::<IpAddr>().unwrap(), kept[0]]);
}

#[test]
fn the_nodes_own_addresses_are_not_for_containers() {
    let pool = pool(&["10.32.7.0/24", "fd00:1::/64"]);
    let contains = |at: &str| pool.contains(at.parse().unwrap());
    for bad in [
        "10.32.7.0",
        "10.32.7.1",
        "10.32.7.255",
        "10.32.8.2",
        "fd00:1::1",
        "fd00:2::2",
    ] {
        assert!(!contains(bad), "{bad}");
    }
    assert!(contains("10.32.7.2") && contains("10.32.7.254") && contains("fd00:1::2"));
}

#[test]
fn no_address_is_given_twice_however_they_come_and_go() {
    let mut pool = pool(&["10.9.0.0/28"]);
    let mut used = BTreeSet::new();
    let mut seed = 7_u64;
    for _ in 0..2000 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        if seed >> 63 == 0 || used.len() == 13 {
            let nth = (seed >> 33) as usize % used.len().max(1);
            if let Some(&gone) = used.iter().nth(nth) {
                used.remove(&gone);
            }
        } else {
            let before = used.len();
            let at: IpAddr = take(&mut pool, &mut used).unwrap().parse().unwrap();
            assert!(used.len() == before + 1 && pool.contains(at));
        }
    }
}
