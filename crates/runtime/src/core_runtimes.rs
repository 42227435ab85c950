//! One thread for each core, each of which serves its connections all by itself.
//!
//! A request is microseconds of work. Handed from thread to thread it would cost as much again in wake-ups, and answers
//! would leave one by one; on one thread, what a gateway sent in one packet is answered in one.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;

/// The threads; they end with this value, and with them whatever still runs there.
#[derive(Debug)]
pub struct Lanes {
    lanes: Vec<Lane>,
    end: CancellationToken,
}

#[derive(Debug)]
struct Lane {
    runtime: Handle,
    /// Tasks that run here.
    load: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl Lanes {
    /// Starts a thread for each core.
    ///
    /// # Errors
    /// When the system has no more threads or file descriptors.
    pub fn start() -> io::Result<Self> {
        let end = CancellationToken::new();
        let count = thread::available_parallelism().map_or(1, usize::from);
        let lanes = (0..count).map(|number| Lane::start(number, end.clone())).collect::<io::Result<_>>()?;
        Ok(Self { lanes, end })
    }

    /// Runs a task to its end on the thread that has the fewest; what it starts stays there.
    pub fn run(&self, task: impl Future<Output = ()> + Send + 'static) {
        if let Some(lane) = self.lanes.iter().min_by_key(|lane| lane.load.load(Ordering::Relaxed)) {
            let counted = Counted::new(&lane.load);
            lane.runtime.spawn(async move {
                let _counted = counted;
                task.await;
            });
        }
    }
}

impl Drop for Lanes {
    fn drop(&mut self) {
        self.end.cancel();
        for lane in &mut self.lanes {
            if let Some(thread) = lane.thread.take() {
                let _ = thread.join();
            }
        }
    }
}

impl Lane {
    fn start(number: usize, end: CancellationToken) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let thread = thread::Builder::new().name(format!("lane-{number}"));
        let thread = thread.spawn(move || runtime.block_on(end.cancelled()))?;
        Ok(Self { runtime: handle, load: Arc::default(), thread: Some(thread) })
    }
}

/// One task, as long as it lives.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(load: &Arc<AtomicUsize>) -> Self {
        load.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(load))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::mpsc;

    #[tokio::test]
    async fn tasks_are_spread_over_the_threads_and_what_they_start_stays_there() {
        let lanes = Lanes::start().expect("threads");
        let (told, mut tells) = mpsc::unbounded_channel();
        let hold = CancellationToken::new();
        for _ in 0..lanes.lanes.len() * 2 {
            let (told, hold) = (told.clone(), hold.clone());
            lanes.run(async move {
                let here = thread::current().id();
                let child = tokio::spawn(async { thread::current().id() }).await.expect("it runs");
                told.send((here, child)).expect("somebody listens");
                hold.cancelled().await;
            });
        }
        let mut threads = std::collections::HashMap::new();
        for _ in 0..lanes.lanes.len() * 2 {
            let (here, child) = tells.recv().await.expect("all run");
            assert_eq!(here, child);
            *threads.entry(here).or_insert(0) += 1;
        }
        assert_eq!(threads.len(), lanes.lanes.len());
        assert!(threads.values().all(|tasks| *tasks == 2), "{threads:?}");
        hold.cancel();
    }

    #[tokio::test]
    async fn nothing_outlives_the_threads() {
        let lanes = Lanes::start().expect("threads");
        let (told, mut tells) = mpsc::unbounded_channel();
        lanes.run(async move {
            told.send(()).expect("somebody listens");
            std::future::pending::<()>().await;
        });
        assert_eq!(tells.recv().await, Some(()));
        drop(lanes);
        assert_eq!(tells.recv().await, None, "the sender is gone with its task");
    }
}
