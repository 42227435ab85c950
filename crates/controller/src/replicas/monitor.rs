//! The task that follows the endpoints of the Service and queries each ready replica.

use super::peers::{BatchHistory, ReplicaAnswer, ReplicaPeers};
use super::{ConfirmedBatch, LONG_POLL, PATH};
use durward_core::digest::Digest;
use durward_engine::Engine;
use durward_engine::audit::policy_counts::{PolicyCounts, PolicyTotals};
use durward_engine::metrics::Metrics;
use durward_identity::Authorities;
use durward_kubernetes::requests::watch_backoff;
use durward_runtime::Failure;
use futures::StreamExt;
use futures::future::{BoxFuture, FutureExt};
use futures::stream::FuturesUnordered;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::Api;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, watcher};
use kube::{Client, ResourceExt};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

/// Pause before a replica that failed to answer is queried again.
const PAUSE: Duration = Duration::from_secs(1);
/// Interval between reports of counts. Each report writes the status of a policy once.
const REPORT_INTERVAL: Duration = Duration::from_secs(30);

/// Monitors the replicas of this installation.
pub struct ReplicaMonitor {
    pub client: Client,
    pub namespace: String,
    /// Service whose ready endpoints are the replicas.
    pub service: String,
    /// Name of this replica.
    pub pod: String,
    /// Host name for which every replica's certificate is valid.
    pub host: String,
    /// Port of the Service on which replicas query each other.
    pub port: &'static str,
    pub authorities: Authorities,
    /// Digest of the roots that this replica verifies with.
    pub roots_in_force: watch::Receiver<Option<Digest>>,
    pub engine: Arc<Engine>,
    pub metrics: Arc<Metrics>,
}

/// What the leader finds out.
pub struct ReplicaOutputs {
    /// The last batch that every ready replica has in force.
    pub confirmed: watch::Sender<ConfirmedBatch>,
    /// Digest of the roots that every ready replica verifies with, if they agree.
    pub roots: watch::Sender<Option<Digest>>,
    /// What all replicas newly counted for the status of policies.
    pub policy_counts: mpsc::UnboundedSender<PolicyCounts>,
}

type ReplicaRequest = BoxFuture<'static, (SocketAddr, Option<ReplicaAnswer>)>;

/// Addresses of the ready replicas, by EndpointSlice.
#[derive(Default)]
struct ReadyReplicas {
    by_slice: BTreeMap<String, Vec<SocketAddr>>,
    /// Slices of the listing that is in progress.
    listing: BTreeMap<String, Vec<SocketAddr>>,
    /// Whether a listing was complete once.
    listed: bool,
}

impl ReplicaMonitor {
    /// Follows the replicas until `shutdown`. `applied` brings each batch of this replica and its revision.
    pub async fn run(
        self,
        mut applied: mpsc::UnboundedReceiver<(u64, Digest)>,
        mut leading: watch::Receiver<bool>,
        outputs: ReplicaOutputs,
        shutdown: CancellationToken,
    ) -> Result<(), Failure> {
        let slices: Api<EndpointSlice> = Api::namespaced(self.client.clone(), &self.namespace);
        let config = watcher::Config::default().labels(&format!("kubernetes.io/service-name={}", self.service));
        let mut slices = pin!(watcher(slices, config).backoff(watch_backoff()));
        let mut ready = ReadyReplicas::default();
        let mut peers = ReplicaPeers::default();
        let mut history = BatchHistory::default();
        let mut requests: FuturesUnordered<ReplicaRequest> = FuturesUnordered::new();
        let mut clients = HashMap::new();
        let mut authorities = self.authorities.changes();
        let mut roots_in_force = self.roots_in_force.clone();
        let mut totals = PolicyTotals::default();
        let mut report_timer = interval(REPORT_INTERVAL);
        loop {
            tokio::select! {
                Ok(()) = authorities.changed() => clients.clear(),
                Ok(()) = roots_in_force.changed() => {}
                Some(event) = slices.next() => self.handle(event, &mut ready),
                Some((number, revision)) = applied.recv() => history.push(number, revision),
                Ok(()) = leading.changed() => totals = PolicyTotals::default(),
                Some((address, answer)) = requests.next(), if !requests.is_empty() => {
                    if let Some((process, counts)) = peers.answered(address, answer) {
                        totals.add(process, counts);
                    }
                }
                _ = report_timer.tick(), if *leading.borrow() => self.report_counts(&mut totals, &outputs),
                () = shutdown.cancelled() => return Ok(()),
            }
            let leads = *leading.borrow();
            // only the leader needs the state of the others
            let addresses = if leads { ready.addresses() } else { BTreeSet::new() };
            for address in peers.set_ready(addresses) {
                let client = clients.entry(address).or_insert_with(|| self.client_for(address)).clone();
                requests.push(self.request(client, address, peers.last_answer(address)));
            }
            clients.retain(|address, _| peers.contains(*address));
            let own_roots = *roots_in_force.borrow_and_update();
            self.publish(&peers, &history, leads && ready.listed, own_roots, &outputs);
        }
    }

    fn handle(&self, event: watcher::Result<watcher::Event<EndpointSlice>>, ready: &mut ReadyReplicas) {
        match event {
            Ok(watcher::Event::Init) => ready.listing = BTreeMap::new(),
            Ok(watcher::Event::InitApply(slice)) => {
                ready.listing.insert(slice.name_any(), self.ready_addresses(&slice));
            }
            Ok(watcher::Event::InitDone) => {
                ready.by_slice = std::mem::take(&mut ready.listing);
                ready.listed = true;
            }
            Ok(watcher::Event::Apply(slice)) => {
                ready.by_slice.insert(slice.name_any(), self.ready_addresses(&slice));
            }
            Ok(watcher::Event::Delete(slice)) => drop(ready.by_slice.remove(&slice.name_any())),
            Err(error) => {
                tracing::warn!(%error, "watch of the replicas' EndpointSlices failed; trying again after a pause");
            }
        }
    }

    /// Sends what was counted since the last report.
    fn report_counts(&self, totals: &mut PolicyTotals, outputs: &ReplicaOutputs) {
        let (process, counts) = self.engine.policy_counts();
        totals.add(process, counts);
        let new = totals.take();
        if !new.is_empty() {
            // the receiver ends only with the process
            let _ = outputs.policy_counts.send(new);
        }
    }

    fn publish(
        &self,
        peers: &ReplicaPeers,
        history: &BatchHistory,
        knows_replicas: bool,
        own_roots: Option<Digest>,
        outputs: &ReplicaOutputs,
    ) {
        let (now, behind) = peers.confirmed(history);
        self.metrics.replicas_behind(behind);
        if knows_replicas {
            outputs.confirmed.send_if_modified(|confirmed| {
                let news = confirmed.is_superseded_by(&now);
                if news {
                    *confirmed = now;
                }
                news
            });
        }
        let roots = own_roots.filter(|own| knows_replicas && peers.all_have_roots(*own));
        outputs.roots.send_if_modified(|published| std::mem::replace(published, roots) != roots);
    }

    /// Addresses of the other ready replicas in a slice.
    fn ready_addresses(&self, slice: &EndpointSlice) -> Vec<SocketAddr> {
        let others = slice.endpoints.iter().flatten().filter(|endpoint| {
            let ready = endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true);
            let name = endpoint.target_ref.as_ref().and_then(|target| target.name.as_deref());
            ready && name != Some(self.pod.as_str())
        });
        let port = slice
            .ports
            .iter()
            .flatten()
            .find(|port| port.name.as_deref() == Some(self.port))
            .and_then(|port| port.port);
        let Some(port) = port.and_then(|port| u16::try_from(port).ok()) else { return Vec::new() };
        let addresses = others.flat_map(|endpoint| &endpoint.addresses).filter_map(|address| address.parse().ok());
        addresses.map(|address: IpAddr| SocketAddr::new(address, port)).collect()
    }

    /// A client for one replica, which keeps its connection.
    fn client_for(&self, address: SocketAddr) -> Option<reqwest::Client> {
        let roots = self.authorities.current().roots();
        let client = reqwest::Client::builder()
            .tls_certs_only(roots.iter().filter_map(|root| reqwest::Certificate::from_der(root).ok()))
            .resolve(&self.host, address)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build();
        client.inspect_err(|error| tracing::error!(%error, "no HTTP client for a replica; trying again")).ok()
    }

    /// Requests the state of a replica once it differs from the last answer.
    fn request(
        &self,
        client: Option<reqwest::Client>,
        address: SocketAddr,
        last_answer: Option<&ReplicaAnswer>,
    ) -> ReplicaRequest {
        let known = last_answer.map(ReplicaAnswer::state).unwrap_or_default();
        let url = format!("https://{}:{}{PATH}?known={known}", self.host, address.port());
        let request = async move {
            let Some(client) = client else {
                sleep(PAUSE).await;
                return (address, None);
            };
            let response = async { client.get(url).send().await?.error_for_status()?.text().await };
            match timeout(LONG_POLL + PAUSE, response).await {
                Ok(Ok(text)) => (address, Some(ReplicaAnswer::new(text))),
                Ok(Err(error)) => {
                    let error = error.without_url();
                    tracing::debug!(%address, %error, "query of a replica failed; trying again after a pause");
                    sleep(PAUSE).await;
                    (address, None)
                }
                Err(_) => (address, None),
            }
        };
        request.boxed()
    }
}

impl ReadyReplicas {
    fn addresses(&self) -> BTreeSet<SocketAddr> {
        self.by_slice.values().flatten().copied().collect()
    }
}
