//! Random worlds, decided by the engine and by the reference model: verdict, reason and rules agree. The tools that
//! answer from the same policies are asked about the same worlds.
//!
//! `DURWARD_MODEL_WORLDS` sets the number of worlds of each test; `make soak-model` runs millions.

mod doors;
mod engine;
mod policies;
mod requests;
mod tools;

use proptest::test_runner::Config;

/// How many worlds `cargo test` decides in each test.
const WORLDS: u32 = 200;

fn config() -> Config {
    let worlds = std::env::var("DURWARD_MODEL_WORLDS").ok();
    let worlds = worlds.map_or(WORLDS, |text| text.parse().expect("DURWARD_MODEL_WORLDS is a number"));
    Config { failure_persistence: None, max_shrink_iters: 20_000, ..Config::with_cases(worlds) }
}
