//! The memory for request bodies: counted over all listeners, as a whole and per source, and given back once a request
//! is answered.

use crate::listener_metrics::{BodyRefusal, ListenerMetrics};
use crate::source::SourceAddress;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use std::collections::HashMap;
use std::error::Error;
use std::fmt;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Sleep, sleep};

/// A body up to this size may use the last part of the memory, in bytes: every decision of a proxy is smaller.
const SMALL: usize = 16 << 10;
/// The part of the memory that only small bodies may use, so that large ones don't stop decisions.
const SMALL_PART: usize = 8;

/// The memory for request bodies of the whole process.
#[derive(Debug)]
pub(crate) struct BodyBudget {
    limit: usize,
    /// Part of the limit for one source.
    share: usize,
    sources: Mutex<Sources>,
    metrics: ListenerMetrics,
}

/// Memory use by source, for sources with a connection.
#[derive(Debug, Default)]
struct Sources {
    usage: HashMap<SourceAddress, Weak<SourceUsage>>,
    /// Number of sources at which those without a connection are removed.
    purge_at: usize,
}

#[derive(Debug, Default)]
struct SourceUsage(AtomicUsize);

impl BodyBudget {
    pub(crate) fn new(limit: usize, share: usize, metrics: ListenerMetrics) -> Self {
        Self { limit, share, sources: Mutex::default(), metrics }
    }

    fn usage(&self, source: SourceAddress) -> Arc<SourceUsage> {
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(usage) = sources.usage.get(&source).and_then(Weak::upgrade) {
            return usage;
        }
        if sources.usage.len() >= sources.purge_at {
            sources.usage.retain(|_, usage| usage.strong_count() > 0);
            sources.purge_at = sources.usage.len() * 2 + 64;
        }
        let usage = Arc::default();
        sources.usage.insert(source, Arc::downgrade(&usage));
        usage
    }
}

/// The request bodies of one connection.
#[derive(Debug)]
pub(crate) struct ConnectionBodies {
    budget: Arc<BodyBudget>,
    usage: Arc<SourceUsage>,
    timeout: Duration,
}

impl ConnectionBodies {
    /// The bodies of a connection from this address. Each has to arrive within `timeout`.
    pub(crate) fn new(budget: &Arc<BodyBudget>, source: IpAddr, timeout: Duration) -> Self {
        Self { budget: Arc::clone(budget), usage: budget.usage(source.into()), timeout }
    }

    /// A body whose bytes are counted. A body that states a length for which there is no memory is refused before any
    /// of it is read.
    pub(crate) fn count(self: &Arc<Self>, body: Incoming) -> CountedBody {
        let reservation = Reservation { bodies: Arc::clone(self), held: AtomicUsize::new(0), refusal: OnceLock::new() };
        let no_room = body.size_hint().exact().and_then(|length| self.refusal_of(length));
        CountedBody { body, reservation: Arc::new(reservation), no_room, deadline: None }
    }

    /// Why there is no memory for a body of this length now.
    fn refusal_of(&self, length: u64) -> Option<BodyRefusal> {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let used = usize::try_from(self.budget.metrics.body_bytes.get()).unwrap_or_default();
        if self.usage.0.load(Ordering::Relaxed).saturating_add(length) > self.budget.share {
            return Some(BodyRefusal::SourceShare);
        }
        (used.saturating_add(length) > self.limit_for(length)).then_some(BodyRefusal::Memory)
    }

    /// The memory that all bodies may use together, for one that holds `held` bytes.
    fn limit_for(&self, held: usize) -> usize {
        let limit = self.budget.limit;
        if held <= SMALL { limit } else { limit - limit / SMALL_PART }
    }

    fn reserve(&self, bytes: usize, held: usize) -> Result<(), BodyRefusal> {
        let of_source = self.usage.0.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        let of_all = self.budget.metrics.body_bytes.inc_by(signed(bytes)).saturating_add(signed(bytes));
        let refusal = if of_source > self.budget.share {
            BodyRefusal::SourceShare
        } else if of_all > signed(self.limit_for(held)) {
            BodyRefusal::Memory
        } else {
            return Ok(());
        };
        self.release(bytes);
        Err(refusal)
    }

    fn release(&self, bytes: usize) {
        self.usage.0.fetch_sub(bytes, Ordering::Relaxed);
        self.budget.metrics.body_bytes.dec_by(signed(bytes));
    }
}

fn signed(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// The memory of one body, until dropped: at the latest when its request is answered.
#[derive(Debug)]
pub(crate) struct Reservation {
    bodies: Arc<ConnectionBodies>,
    held: AtomicUsize,
    refusal: OnceLock<BodyRefusal>,
}

impl Reservation {
    fn refuse(&self, refusal: BodyRefusal) {
        if self.refusal.set(refusal).is_ok() {
            self.bodies.budget.metrics.body_refused(refusal);
        }
    }

    fn add(&self, bytes: usize) -> Result<(), BodyError> {
        // one task at a time reads the body
        let held = self.held.load(Ordering::Relaxed).saturating_add(bytes);
        self.bodies.reserve(bytes, held).map_err(|refusal| {
            self.refuse(refusal);
            BodyError(refusal)
        })?;
        self.held.store(held, Ordering::Relaxed);
        Ok(())
    }

    /// The response that says why the body was not read, if it was not.
    pub(crate) fn refusal_response(&self) -> Option<Response> {
        Some(match self.refusal.get()? {
            BodyRefusal::SourceShare | BodyRefusal::Memory => {
                (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "1")]).into_response()
            }
            BodyRefusal::Timeout => StatusCode::REQUEST_TIMEOUT.into_response(),
        })
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.bodies.release(*self.held.get_mut());
    }
}

/// Why a body ends early.
#[derive(Debug)]
pub(crate) struct BodyError(BodyRefusal);

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            BodyRefusal::SourceShare => "the bodies of this source take too much memory; the request is refused",
            BodyRefusal::Memory => "request bodies take too much memory; the request is refused",
            BodyRefusal::Timeout => "the body did not arrive in time; the request is refused",
        })
    }
}

impl Error for BodyError {}

/// A request body whose bytes are counted, and that has to arrive in time.
pub(crate) struct CountedBody {
    body: Incoming,
    pub(crate) reservation: Arc<Reservation>,
    /// Why there is no memory for the length that the request states. It only matters if the body is read.
    no_room: Option<BodyRefusal>,
    /// Set once the body has to be waited for: most bodies arrive with their headers.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl Body for CountedBody {
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        if let Some(refusal) = this.no_room.take() {
            this.reservation.refuse(refusal);
        }
        if let Some(refusal) = this.reservation.refusal.get() {
            return Poll::Ready(Some(Err(BodyError(*refusal).into())));
        }
        match Pin::new(&mut this.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                let added = frame.data_ref().map_or(Ok(()), |data| this.reservation.add(data.len()));
                Poll::Ready(Some(added.map(|()| frame).map_err(Into::into)))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error.into()))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => {
                let timeout = this.reservation.bodies.timeout;
                let deadline = this.deadline.get_or_insert_with(|| Box::pin(sleep(timeout)));
                if deadline.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                this.reservation.refuse(BodyRefusal::Timeout);
                Poll::Ready(Some(Err(BodyError(BodyRefusal::Timeout).into())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
