//! Choices among endpoints, with a clock of their own.

use heddle_policy::PodName;
use tokio::time::advance;

use super::*;

/// `count` endpoints without proxies.
fn cluster(count: u8) -> Cluster {
    let member = |at| Member {
        endpoint: Endpoint {
            address: SocketAddr::from(([10, 0, 0, at], 80)),
            pod: PodName::new("shop", format!("web-{at}")),
            workload: None,
            identity: None,
        },
        health: Rc::new(Health::new()),
        peer: None,
        http2: OnceCell::new(),
        counters: OnceCell::new(),
    };
    Cluster { service: None, backend: None, members: (0..count).map(member).collect() }
}

/// How many of 3,000 choices each member gets when none of them is under way at the time of another.
fn shares(cluster: &Cluster) -> Vec<usize> {
    let random = Random::new();
    let mut shares = vec![0; cluster.members.len()];
    for _ in 0..3_000 {
        let chosen = cluster.pick(&random, &[]).unwrap();
        let at = cluster.members.iter().position(|member| std::ptr::eq(member, chosen)).unwrap();
        shares[at] += 1;
    }
    shares
}

fn load(cluster: &Cluster, at: usize) -> Load {
    Load::new(&cluster.members[at].health)
}

#[tokio::test(start_paused = true)]
async fn endpoints_that_are_about_as_fast_share_the_requests() {
    let cluster = cluster(3);
    for (at, millis) in [(0, 10), (1, 20), (2, 29)] {
        load(&cluster, at).answered(Duration::from_millis(millis));
    }
    // A fair share is 1,000: none falls outside this once in many millions of runs.
    assert!(shares(&cluster).iter().all(|share| (800..1_200).contains(share)), "{:?}", shares(&cluster));
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_is_much_slower_is_left_to_the_worse_half_of_no_pair() {
    let cluster = cluster(3);
    for (at, millis) in [(0, 10), (1, 10), (2, 100)] {
        load(&cluster, at).answered(Duration::from_millis(millis));
    }
    assert_eq!(shares(&cluster)[2], 0, "it loses against every other");
    // Its slowness is forgotten little by little, so that it is tried again.
    for _ in 0..3 {
        advance(DECAY).await;
        load(&cluster, 0).answered(Duration::from_millis(10));
        load(&cluster, 1).answered(Duration::from_millis(10));
    }
    assert!(shares(&cluster)[2] > 0);
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_hangs_draws_no_requests_from_one_that_answers() {
    let cluster = cluster(2);
    load(&cluster, 0).answered(Duration::from_millis(5));
    load(&cluster, 1).answered(Duration::from_millis(5));
    for _ in 0..60 {
        let hanging = load(&cluster, 0);
        advance(Duration::from_secs(1)).await;
        hanging.gave_up(Duration::from_secs(1));
        load(&cluster, 1).answered(Duration::from_millis(5));
    }
    assert_eq!(shares(&cluster), [0, 3_000]);
}

#[tokio::test(start_paused = true)]
async fn of_endpoints_as_fast_the_one_with_fewer_requests_under_way_is_better() {
    let cluster = cluster(2);
    let under_way: Vec<Load> = (0..5).map(|_| load(&cluster, 0)).collect();
    assert_eq!(shares(&cluster), [0, 3_000]);
    drop(under_way);
    assert!(shares(&cluster)[0] > 0);
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_fails_is_left_out_for_longer_each_time() {
    let cluster = cluster(2);
    let mut time = limits::EJECTION;
    for _ in 0..8 {
        load(&cluster, 0).failed();
        advance(time - Duration::from_millis(1)).await;
        assert_eq!(shares(&cluster)[0], 0, "left out for {time:?}");
        advance(Duration::from_millis(1)).await;
        assert!(shares(&cluster)[0] > 0, "back after {time:?}");
        time = (2 * time).min(limits::EJECTION_MAX);
    }
    assert_eq!(time, limits::EJECTION_MAX);
}

#[tokio::test(start_paused = true)]
async fn an_answer_or_a_connection_that_works_ends_an_ejection_and_its_count() {
    let cluster = cluster(2);
    let recoveries: [fn(&Load); 2] = [Load::connected, |load| load.answered(Duration::from_millis(1))];
    for recovers in recoveries {
        (0..5).for_each(|_| load(&cluster, 0).failed());
        assert_eq!(shares(&cluster)[0], 0);
        recovers(&load(&cluster, 0));
        assert!(shares(&cluster)[0] > 0);
        load(&cluster, 0).failed();
        advance(limits::EJECTION).await;
        assert!(shares(&cluster)[0] > 0, "the next failure is a first one");
    }
}

#[tokio::test(start_paused = true)]
async fn when_all_have_failed_those_not_tried_yet_are_and_then_any() {
    let cluster = cluster(2);
    (0..2).for_each(|at| load(&cluster, at).failed());
    assert!(shares(&cluster).iter().all(|share| *share > 0));
    let tried: Vec<SocketAddr> = cluster.members.iter().map(|member| member.endpoint.address).collect();
    let random = Random::new();
    for _ in 0..100 {
        assert_eq!(cluster.pick(&random, &tried[..1]).unwrap().endpoint.address, tried[1]);
    }
    assert!(cluster.pick(&random, &tried).is_some());
    assert!(self::cluster(0).pick(&random, &[]).is_none());
}
