//! The endpoint on which this replica answers with its revision, its roots and its counts of audited denials.

use super::{LONG_POLL, PATH};
use axum::Router;
use axum::extract::{Query, State};
use axum::routing::get;
use durward_core::digest::Digest;
use durward_engine::Engine;
use serde::Deserialize;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

#[derive(Debug, Deserialize)]
struct RevisionQuery {
    /// The answer that the caller already has.
    #[serde(default)]
    known: String,
}

#[derive(Clone)]
struct RevisionEndpoint {
    engine: Arc<Engine>,
    roots_in_force: watch::Receiver<Option<Digest>>,
}

/// The endpoint as a router.
pub fn router(engine: Arc<Engine>, roots_in_force: watch::Receiver<Option<Digest>>) -> Router {
    Router::new().route(PATH, get(answer)).with_state(RevisionEndpoint { engine, roots_in_force })
}

/// Answers once the answer differs from the known one, or after [`LONG_POLL`].
async fn answer(
    State(endpoint): State<RevisionEndpoint>,
    Query(RevisionQuery { known }): Query<RevisionQuery>,
) -> String {
    let RevisionEndpoint { engine, mut roots_in_force } = endpoint;
    let mut revisions = engine.revisions();
    let end = Instant::now() + LONG_POLL;
    loop {
        let roots = roots_in_force.borrow_and_update().map(|roots| roots.to_string()).unwrap_or_default();
        let state = format!("{}.{roots}", *revisions.borrow_and_update());
        if state != known {
            return state + &count_lines(&engine);
        }
        tokio::select! {
            Ok(()) = revisions.changed() => {}
            Ok(()) = roots_in_force.changed() => {}
            () = sleep_until(end) => return state + &count_lines(&engine),
        }
    }
}

/// The number of this process, and one line for each policy with counts.
fn count_lines(engine: &Engine) -> String {
    let (process, counts) = engine.policy_counts();
    let lines = counts.iter().map(|(policy, count)| format!("\n{policy} {} {}", count.audited, count.exhausted));
    format!("\n{process}{}", lines.collect::<String>())
}
