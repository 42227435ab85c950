//! The times of one exchange, a request with its response: both bodies share one idle time, and the response timeout
//! begins when the request has been sent.

use crate::proxy_error::ProxyError;
use crate::settings::GateLimits;
use axum::body::{Body, Bytes};
use http_body::{Body as HttpBody, Frame, SizeHint};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use thiserror::Error;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::{Instant, Sleep, sleep, sleep_until};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tokio_util::task::AbortOnDropHandle;

/// Why a body ends early.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
enum ExchangeEnd {
    #[error("neither body had a frame for too long; closing the stream")]
    Idle,
    #[error("the caller is no longer allowed; closing the stream")]
    Denied,
}

/// Time of the last frame in either direction.
#[derive(Debug)]
struct ExchangeActivity {
    begun: Instant,
    /// Milliseconds from the beginning to the last frame.
    last: AtomicU64,
    idle: Duration,
}

impl ExchangeActivity {
    fn touch(&self) {
        let now = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.fetch_max(now, Ordering::Relaxed);
    }

    /// When the exchange is idle for too long, unless there is a frame before.
    fn deadline(&self) -> Instant {
        self.begun + Duration::from_millis(self.last.load(Ordering::Relaxed)) + self.idle
    }

    /// Waits until the exchange was idle for too long.
    async fn idle(&self) {
        while self.deadline() > Instant::now() {
            sleep_until(self.deadline()).await;
        }
    }
}

/// What an exchange holds until both ends have closed it.
pub(super) struct ExchangeHold {
    _permit: OwnedSemaphorePermit,
    _check: Option<AbortOnDropHandle<()>>,
}

/// One exchange.
pub(super) struct Exchange {
    activity: Arc<ExchangeActivity>,
    response: Duration,
    cut: Option<CancellationToken>,
    hold: ExchangeHold,
}

impl Exchange {
    /// An exchange that begins now and holds `permit`.
    pub(super) fn new(limits: GateLimits, permit: OwnedSemaphorePermit) -> Self {
        let activity = ExchangeActivity { begun: Instant::now(), last: AtomicU64::new(0), idle: limits.idle };
        let hold = ExchangeHold { _permit: permit, _check: None };
        Self { activity: Arc::new(activity), response: limits.response, cut: None, hold }
    }

    /// Runs `check` as long as the exchange is open. The exchange is cut off when the check ends.
    pub(super) fn cut_after(&mut self, check: impl Future<Output = ()> + Send + 'static) {
        let cut = CancellationToken::new();
        self.cut = Some(cut.clone());
        let check = tokio::spawn(async move {
            check.await;
            cut.cancel();
        });
        self.hold._check = Some(AbortOnDropHandle::new(check));
    }

    /// Sends a request with `body` and waits for its response. The time for it begins with the end of the body.
    pub(super) async fn send<T, F: Future<Output = T>>(
        &self,
        body: Body,
        send: impl FnOnce(Body) -> F,
    ) -> Result<T, ProxyError> {
        let (sending, sent) = oneshot::channel();
        let pending = send(self.body(body, Some(sending), None));
        let late = async {
            tokio::select! {
                // the body has ended or was dropped
                _ = sent => sleep(self.response).await,
                // the other end reads nothing more, or the caller sends nothing more
                () = self.activity.idle() => {}
            }
        };
        tokio::select! {
            response = pending => Ok(response),
            () = late => Err(ProxyError::Late),
        }
    }

    /// The body of the response. The exchange ends with it.
    pub(super) fn into_response_body(self, body: Body) -> Body {
        let Self { activity, cut, hold, .. } = self;
        activity.touch();
        wrap(body, activity, cut, None, Some(hold))
    }

    /// For a tunnel: when to cut it off, and what to hold until it ends.
    pub(super) fn into_tunnel(self) -> (CancellationToken, ExchangeHold) {
        (self.cut.unwrap_or_default(), self.hold)
    }

    fn body(&self, body: Body, sending: Option<oneshot::Sender<()>>, hold: Option<ExchangeHold>) -> Body {
        wrap(body, Arc::clone(&self.activity), self.cut.clone(), sending, hold)
    }
}

fn wrap(
    inner: Body,
    activity: Arc<ExchangeActivity>,
    cut: Option<CancellationToken>,
    sending: Option<oneshot::Sender<()>>,
    hold: Option<ExchangeHold>,
) -> Body {
    // no body stays no body: a message that ends with its headers means something else in gRPC and in HTTP/1.1
    if inner.is_end_stream() {
        return Body::empty();
    }
    let cut = cut.map(|cut| Box::pin(cut.cancelled_owned()));
    Body::new(ExchangeBody { inner, activity, timer: None, cut, sending, hold })
}

/// A body of an exchange.
struct ExchangeBody {
    inner: Body,
    activity: Arc<ExchangeActivity>,
    timer: Option<Pin<Box<Sleep>>>,
    cut: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    /// Dropped at the end of the body.
    sending: Option<oneshot::Sender<()>>,
    hold: Option<ExchangeHold>,
}

impl ExchangeBody {
    /// Whether both directions were idle for too long; wakes the task when they may be.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let activity = &self.activity;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(activity.deadline())));
        while timer.as_mut().poll(cx).is_ready() {
            let deadline = activity.deadline();
            if deadline <= Instant::now() {
                return Poll::Ready(());
            }
            timer.as_mut().reset(deadline);
        }
        Poll::Pending
    }
}

impl HttpBody for ExchangeBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        if let Some(cut) = &mut this.cut
            && cut.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Some(Err(axum::Error::new(ExchangeEnd::Denied))));
        }
        match Pin::new(&mut this.inner).poll_frame(cx) {
            Poll::Ready(Some(frame)) => {
                this.activity.touch();
                Poll::Ready(Some(frame))
            }
            Poll::Ready(None) => {
                this.sending = None;
                this.hold = None;
                Poll::Ready(None)
            }
            Poll::Pending => {
                let idle = this.poll_idle(cx);
                idle.map(|()| Some(Err(axum::Error::new(ExchangeEnd::Idle))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::{BodyExt, StreamBody};
    use std::convert::Infallible;
    use tokio::sync::{Semaphore, mpsc};
    use tokio::time::timeout;

    const LIMIT: Duration = Duration::from_secs(10);

    fn exchange(slots: &Arc<Semaphore>) -> Exchange {
        let limits = GateLimits { requests: 1, response: LIMIT, idle: LIMIT, ..GateLimits::default() };
        Exchange::new(limits, Arc::clone(slots).try_acquire_owned().expect("a free slot"))
    }

    fn slots() -> Arc<Semaphore> {
        Arc::new(Semaphore::new(1))
    }

    /// A body of the frames that are sent.
    fn frames() -> (mpsc::Sender<&'static str>, Body) {
        let (sender, mut frames) = mpsc::channel(1);
        let stream = futures::stream::poll_fn(move |cx| frames.poll_recv(cx));
        let stream = futures::StreamExt::map(stream, |text: &str| Ok::<_, Infallible>(Frame::data(Bytes::from(text))));
        (sender, Body::new(StreamBody::new(stream)))
    }

    /// Sends a frame every six seconds, `count` times, and keeps the body open.
    async fn send_slowly(sender: &mpsc::Sender<&'static str>, count: usize) {
        for _ in 0..count {
            sleep(Duration::from_secs(6)).await;
            sender.send("frame").await.expect("the body is read");
        }
    }

    /// Reads a body to its end. Returns the number of frames, and the error.
    async fn read(mut body: Body) -> (usize, Option<String>) {
        let mut count = 0;
        while let Some(frame) = body.frame().await {
            match frame {
                Ok(_) => count += 1,
                Err(error) => return (count, Some(error.to_string())),
            }
        }
        (count, None)
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_direction_stays_open_while_the_other_is_not() {
        let slots = slots();
        let exchange = exchange(&slots);
        let (caller, request) = frames();
        let (application, response) = frames();
        let request = exchange.send(request, std::future::ready).await.expect("sent");
        let request = tokio::spawn(read(request));
        let response = tokio::spawn(read(exchange.into_response_body(response)));
        send_slowly(&application, 5).await;
        assert!(!request.is_finished() && !response.is_finished(), "idle is only one direction");
        send_slowly(&caller, 5).await;
        assert!(!request.is_finished() && !response.is_finished(), "idle is only the other direction");
        let idle = Some(ExchangeEnd::Idle.to_string());
        assert_eq!(request.await.expect("no panic"), (5, idle.clone()));
        assert_eq!(response.await.expect("no panic"), (5, idle));
        assert_eq!(slots.available_permits(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_for_a_response_begins_with_the_end_of_the_request() {
        for (response_after, expected) in [(9, Ok(())), (11, Err(ProxyError::Late))] {
            let (caller, request) = frames();
            tokio::spawn(async move { send_slowly(&caller, 5).await });
            let answer = |request| async move {
                assert_eq!(read(request).await, (5, None));
                sleep(Duration::from_secs(response_after)).await;
            };
            assert_eq!(exchange(&slots()).send(request, answer).await, expected, "{response_after}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_application_that_reads_nothing_is_late() {
        let (_caller, request) = frames();
        let never = |request: Body| async move {
            std::future::pending::<()>().await;
            drop(request);
        };
        let slots = slots();
        let exchange = exchange(&slots);
        let late = timeout(LIMIT * 2, exchange.send(request, never)).await.expect("it ends");
        assert_eq!(late, Err(ProxyError::Late));
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_check_cuts_both_directions() {
        let slots = slots();
        let mut exchange = exchange(&slots);
        exchange.cut_after(sleep(Duration::from_secs(1)));
        let (_caller, request) = frames();
        let (_application, response) = frames();
        let request = exchange.send(request, std::future::ready).await.expect("sent");
        let denied = (0, Some(ExchangeEnd::Denied.to_string()));
        assert_eq!(tokio::join!(read(request), read(exchange.into_response_body(response))), (denied.clone(), denied));
        assert_eq!(slots.available_permits(), 1);
    }
}
