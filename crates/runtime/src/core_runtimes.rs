//! One single-threaded runtime per core; each connection stays on one of them.
//!
//! A request takes microseconds of work. Moving it between threads would cost as much again in wake-ups, and responses
//! would leave one by one. On one thread, the requests of one packet are answered in one packet.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;

/// The runtimes. Dropping them ends their threads and every task on them.
#[derive(Debug)]
pub struct CoreRuntimes {
    runtimes: Vec<CoreRuntime>,
    shutdown: CancellationToken,
}

#[derive(Debug)]
struct CoreRuntime {
    handle: Handle,
    /// Number of running tasks.
    tasks: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl CoreRuntimes {
    /// Starts a runtime for each core.
    ///
    /// # Errors
    /// When the system has no more threads or file descriptors.
    pub fn start() -> io::Result<Self> {
        let shutdown = CancellationToken::new();
        let count = thread::available_parallelism().map_or(1, usize::from);
        let start = |number| CoreRuntime::start(format!("core-{number}"), shutdown.clone());
        Ok(Self { runtimes: (0..count).map(start).collect::<io::Result<_>>()?, shutdown })
    }

    /// Starts one runtime for work that must never wait for requests: health and admin.
    ///
    /// # Errors
    /// When the system has no more threads or file descriptors.
    pub fn start_admin() -> io::Result<Self> {
        let shutdown = CancellationToken::new();
        Ok(Self { runtimes: vec![CoreRuntime::start("admin".to_owned(), shutdown.clone())?], shutdown })
    }

    /// Spawns a task on the runtime with the fewest tasks. Tasks that it spawns itself stay on that runtime.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        if let Some(runtime) = self.runtimes.iter().min_by_key(|runtime| runtime.tasks.load(Ordering::Relaxed)) {
            let guard = TaskGuard::new(&runtime.tasks);
            runtime.handle.spawn(async move {
                let _guard = guard;
                task.await;
            });
        }
    }
}

impl Drop for CoreRuntimes {
    fn drop(&mut self) {
        self.shutdown.cancel();
        for runtime in &mut self.runtimes {
            // a task of the runtime may drop it last; a thread can't wait for itself
            let joinable = runtime.thread.take().filter(|thread| thread.thread().id() != thread::current().id());
            if let Some(thread) = joinable {
                let _ = thread.join();
            }
        }
    }
}

impl CoreRuntime {
    fn start(name: String, shutdown: CancellationToken) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let thread = thread::Builder::new().name(name);
        let thread = thread.spawn(move || runtime.block_on(shutdown.cancelled()))?;
        Ok(Self { handle, tasks: Arc::default(), thread: Some(thread) })
    }
}

/// Counts a task as running until dropped.
struct TaskGuard(Arc<AtomicUsize>);

impl TaskGuard {
    fn new(tasks: &Arc<AtomicUsize>) -> Self {
        tasks.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(tasks))
    }
}

impl Drop for TaskGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::mpsc;

    #[tokio::test]
    async fn tasks_are_spread_over_threads_and_children_stay_on_theirs() {
        let runtimes = CoreRuntimes::start().expect("the threads start");
        let (sender, mut receiver) = mpsc::unbounded_channel();
        let hold = CancellationToken::new();
        for _ in 0..runtimes.runtimes.len() * 2 {
            let sender = sender.clone();
            let hold = hold.clone();
            runtimes.spawn(async move {
                let parent = thread::current().id();
                let child = tokio::spawn(async { thread::current().id() }).await.expect("the child runs");
                sender.send((parent, child)).expect("the test receives");
                hold.cancelled().await;
            });
        }
        let mut threads = std::collections::HashMap::new();
        for _ in 0..runtimes.runtimes.len() * 2 {
            let (parent, child) = receiver.recv().await.expect("all tasks run");
            assert_eq!(parent, child);
            *threads.entry(parent).or_insert(0) += 1;
        }
        assert_eq!(threads.len(), runtimes.runtimes.len());
        assert!(threads.values().all(|tasks| *tasks == 2), "{threads:?}");
        hold.cancel();
    }

    #[tokio::test]
    async fn dropping_the_runtimes_drops_their_tasks() {
        let runtimes = CoreRuntimes::start().expect("the threads start");
        let (sender, mut receiver) = mpsc::unbounded_channel();
        runtimes.spawn(async move {
            sender.send(()).expect("the test receives");
            std::future::pending::<()>().await;
        });
        assert_eq!(receiver.recv().await, Some(()));
        drop(runtimes);
        assert_eq!(receiver.recv().await, None, "the sender is dropped with its task");
    }
}
