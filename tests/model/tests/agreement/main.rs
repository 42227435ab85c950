//! Random worlds, decided by the engine and by the reference model: verdict, reason and rules agree. The tools that
//! answer from the same policies are asked about the same worlds.
//!
//! `DURWARD_MODEL_WORLDS` sets the number of worlds of each test; `make soak-model` runs millions.

mod doors;
mod engine;
mod policies;
mod requests;
mod tools;

use proptest::test_runner::{Config, RngSeed};

/// How many worlds `cargo test` decides in each test.
const WORLDS: u32 = 200;

/// Without a number the worlds are the same in each run, so that a failure belongs to a change.
fn config() -> Config {
    let (worlds, rng_seed) = match std::env::var("DURWARD_MODEL_WORLDS") {
        Ok(text) => (text.parse().expect("DURWARD_MODEL_WORLDS is a number"), RngSeed::Random),
        Err(_) => (WORLDS, RngSeed::Fixed(0)),
    };
    Config { failure_persistence: None, max_shrink_iters: 20_000, rng_seed, ..Config::with_cases(worlds) }
}
