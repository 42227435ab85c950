//! Start-up time of a control plane.

use std::time::{Duration, Instant};

use durward_cluster::{Cluster, binaries};

use crate::alone;

#[test]
fn a_control_plane_is_up_within_ten_seconds() {
    let _machine = alone();
    binaries::ensure(binaries::CONTROL_PLANE).expect("the binaries");
    let quick = Duration::from_secs(10);
    let mut tries = Vec::new();
    // the best of three, since other programs may use the cores
    while tries.len() < 3 && tries.iter().all(|took| *took >= quick) {
        let begun = Instant::now();
        let cluster = Cluster::isolated().unwrap_or_else(|error| panic!("{error}"));
        tries.push(begun.elapsed());
        cluster.kubectl(["get", "--raw=/readyz"]).expect("an answer");
    }
    assert!(tries.iter().any(|took| *took < quick), "it took {tries:?}");
}
