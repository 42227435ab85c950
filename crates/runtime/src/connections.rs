//! The open connections of a listener: how many there are, from where, and which of them are idle.

use crate::listener_metrics::{ConnectionRefusal, ListenerMetrics};
use crate::source::{SourceAddress, share_of};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// Whether a connection has open requests, and since when it has none.
#[derive(Debug)]
pub(crate) struct Activity {
    opened: Instant,
    open_requests: AtomicUsize,
    /// Time of the end of the last request, in milliseconds since `opened`.
    idle_since: AtomicU64,
}

impl Activity {
    pub(crate) fn new() -> Self {
        Self { opened: Instant::now(), open_requests: AtomicUsize::new(0), idle_since: AtomicU64::new(0) }
    }

    /// Counts a request as open until the result is dropped.
    pub(crate) fn begin_request(self: &Arc<Self>) -> OpenRequest {
        self.open_requests.fetch_add(1, Ordering::Relaxed);
        OpenRequest(Arc::clone(self))
    }

    /// When the connection became idle; `None` if it has an open request.
    pub(crate) fn idle_since(&self) -> Option<Instant> {
        let is_idle = self.open_requests.load(Ordering::Relaxed) == 0;
        is_idle.then(|| self.opened + Duration::from_millis(self.idle_since.load(Ordering::Relaxed)))
    }
}

/// A request that is not answered yet.
#[derive(Debug)]
pub(crate) struct OpenRequest(Arc<Activity>);

impl Drop for OpenRequest {
    fn drop(&mut self) {
        // the clock is read only when the last of the open requests ends
        if self.0.open_requests.fetch_sub(1, Ordering::Relaxed) == 1 {
            let now = u64::try_from(self.0.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
            self.0.idle_since.store(now, Ordering::Relaxed);
        }
    }
}

/// The open connections of a listener.
#[derive(Debug)]
pub(crate) struct Connections {
    table: Mutex<Table>,
    limit: usize,
    share: usize,
    metrics: ListenerMetrics,
}

#[derive(Debug, Default)]
struct Table {
    open: HashMap<u64, OpenConnection>,
    by_source: HashMap<SourceAddress, usize>,
    next: u64,
}

#[derive(Debug)]
struct OpenConnection {
    source: SourceAddress,
    activity: Arc<Activity>,
    has_certificate: Arc<AtomicBool>,
    close: CancellationToken,
}

/// A connection among those of its listener, until dropped.
#[derive(Debug)]
pub(crate) struct ConnectionSlot {
    connections: Arc<Connections>,
    number: u64,
    pub(crate) activity: Arc<Activity>,
    /// Set once the client has presented a certificate.
    pub(crate) has_certificate: Arc<AtomicBool>,
    /// Cancelled when the connection has to make room for another.
    pub(crate) close: CancellationToken,
}

impl Connections {
    pub(crate) fn new(limit: usize, percent: u8, metrics: ListenerMetrics) -> Arc<Self> {
        Arc::new(Self { table: Mutex::default(), limit, share: share_of(limit, percent), metrics })
    }

    /// Takes a slot for a connection from this address. If its source, or the listener, has no slot left, the connection
    /// that is idle for longest makes room. `None` if there is none.
    pub(crate) fn admit(self: &Arc<Self>, address: IpAddr) -> Option<ConnectionSlot> {
        let source = SourceAddress::from(address);
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let refusal = if table.by_source.get(&source).is_some_and(|count| *count >= self.share) {
            (!self.displace(&mut table, Some(source))).then_some(ConnectionRefusal::SourceShare)
        } else if table.open.len() >= self.limit {
            (!self.displace(&mut table, None)).then_some(ConnectionRefusal::Full)
        } else {
            None
        };
        if let Some(refusal) = refusal {
            drop(table);
            self.metrics.connection_refused(refusal);
            return None;
        }
        let number = table.next;
        table.next += 1;
        *table.by_source.entry(source).or_default() += 1;
        let slot = ConnectionSlot {
            connections: Arc::clone(self),
            number,
            activity: Arc::new(Activity::new()),
            has_certificate: Arc::default(),
            close: CancellationToken::new(),
        };
        let connection = OpenConnection {
            source,
            activity: Arc::clone(&slot.activity),
            has_certificate: Arc::clone(&slot.has_certificate),
            close: slot.close.clone(),
        };
        table.open.insert(number, connection);
        drop(table);
        Some(slot)
    }

    /// Closes the connection that is idle for longest, those without a client certificate first.
    fn displace(&self, table: &mut Table, source: Option<SourceAddress>) -> bool {
        let candidates = table.open.iter().filter(|(_, open)| source.is_none_or(|source| open.source == source));
        let idle = candidates.filter_map(|(number, open)| {
            let since = open.activity.idle_since()?;
            Some(((open.has_certificate.load(Ordering::Relaxed), since), *number))
        });
        let Some((_, number)) = idle.min() else { return false };
        if let Some(open) = table.remove(number) {
            open.close.cancel();
            self.metrics.connection_refused(ConnectionRefusal::Displaced);
        }
        true
    }
}

impl Table {
    fn remove(&mut self, number: u64) -> Option<OpenConnection> {
        let open = self.open.remove(&number)?;
        if let Some(count) = self.by_source.get_mut(&open.source) {
            *count -= 1;
            if *count == 0 {
                self.by_source.remove(&open.source);
            }
        }
        Some(open)
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.connections.table.lock().unwrap_or_else(PoisonError::into_inner).remove(self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(host: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, host])
    }

    #[test]
    fn a_source_displaces_only_its_own_idle_connections() {
        let connections = Connections::new(4, 50, ListenerMetrics::default());
        let other = connections.admit(address(2)).expect("a slot");
        let [first, second] = [1, 1].map(|host| connections.admit(address(host)).expect("a slot"));
        let third = connections.admit(address(1)).expect("the oldest makes room");
        assert!(first.close.is_cancelled() && !second.close.is_cancelled() && !other.close.is_cancelled());
        let _open = [&second, &third].map(|slot| slot.activity.begin_request());
        assert!(connections.admit(address(1)).is_none(), "none of its connections is idle");
        assert!(connections.admit(address(3)).is_some(), "other sources have room");
    }

    #[test]
    fn a_full_listener_closes_the_oldest_idle_connection_without_a_certificate() {
        let connections = Connections::new(4, 25, ListenerMetrics::default());
        let slots: Vec<_> = (0..4).filter_map(|host| connections.admit(address(host))).collect();
        let [certified, busy, _, _] = &slots[..] else { panic!("{} slots", slots.len()) };
        certified.has_certificate.store(true, Ordering::Relaxed);
        let open = busy.activity.begin_request();
        let closed = || slots.iter().map(|slot| slot.close.is_cancelled()).collect::<Vec<_>>();
        let _next = connections.admit(address(10)).expect("the oldest makes room");
        assert_eq!(closed(), [false, false, true, false]);
        drop(open);
        drop(slots);
        let table = connections.table.lock().expect("locks");
        assert_eq!((table.open.len(), table.by_source.len()), (1, 1), "dropped connections are forgotten");
    }
}
