//! How far the other replicas are: the leader asks each ready one for its revision and its roots, and waits for the next.

use axum::Router;
use axum::extract::{Query, State};
use axum::routing::get;
use durward_core::digest::Digest;
use durward_core::namespaced_name::NamespacedName;
use durward_engine::Engine;
use durward_engine::audit::unenforced::{Counts, Sums};
use durward_identity::Authorities;
use durward_kubernetes::requests::pauses;
use durward_runtime::Failure;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::Api;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, watcher};
use kube::{Client, ResourceExt};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{interval, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

/// Where a replica tells its revision.
const PATH: &str = "/replica/revision";
/// How long a replica holds a question whose answer has not changed.
const HOLD: Duration = Duration::from_secs(20);
/// Pause before a replica that did not answer is asked again.
const PAUSE: Duration = Duration::from_secs(1);
/// How often it is told how much policies in `mode: Audit` would have denied: each of them has its status written once in that time.
const TALLY: Duration = Duration::from_secs(30);
/// Revisions that are remembered; a replica that is further behind is behind.
const REMEMBERED: usize = 256;

/// The last batch that every ready replica has in force, and the revision that it led to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Confirmed {
    number: u64,
    revision: Option<Digest>,
}

impl Confirmed {
    /// The revision in which every ready replica has this batch in force; none as long as one is behind.
    pub fn of(&self, batch: u64) -> Option<Digest> {
        self.revision.filter(|_| batch <= self.number)
    }

    /// Every ready replica has a batch in force.
    #[cfg(test)]
    pub const fn all(number: u64, revision: Digest) -> Self {
        Self { number, revision: Some(revision) }
    }

    /// Whether `now` confirms more. What was in force everywhere stays so: a replica that is ahead of this one, or not
    /// heard for a moment, takes nothing back.
    fn is_outdone_by(&self, now: &Self) -> bool {
        now.number > self.number
    }
}

/// The replicas of this installation.
pub struct Replicas {
    pub client: Client,
    pub namespace: String,
    /// Service whose ready endpoints are the replicas.
    pub service: String,
    /// Name of this replica.
    pub pod: String,
    /// Name under which every replica's certificate is valid.
    pub host: String,
    /// Port of the Service behind which replicas ask each other.
    pub port: &'static str,
    pub authorities: Authorities,
    /// Digest of the roots that this replica verifies by.
    pub in_force: watch::Receiver<Option<Digest>>,
    pub engine: Arc<Engine>,
}

/// What the leader finds out.
pub struct Findings {
    /// What every ready replica has in force.
    pub confirmed: watch::Sender<Confirmed>,
    /// Digest of the roots that every ready replica verifies by, if it is one.
    pub roots: watch::Sender<Option<Digest>>,
    /// How much more policies in `mode: Audit` would have denied, on all replicas.
    pub unenforced: mpsc::UnboundedSender<Counts>,
}

/// What this replica had in force after recent batches.
#[derive(Debug, Default)]
struct History(VecDeque<Applied>);

/// A batch, and what it led to. Replicas tell revisions as text.
#[derive(Debug)]
struct Applied {
    number: u64,
    revision: Digest,
    told_as: String,
}

impl History {
    fn push(&mut self, number: u64, revision: Digest) {
        self.0.push_back(Applied { number, revision, told_as: revision.to_string() });
        while self.0.len() > REMEMBERED {
            self.0.pop_front();
        }
    }

    /// The last batch that led to this revision.
    fn entry(&self, revision: &str) -> Option<&Applied> {
        self.0.iter().rev().find(|applied| applied.told_as == revision)
    }
}

impl Replicas {
    /// Follows the replicas until `shutdown`; `applied` brings each batch of this one.
    pub async fn run(
        self,
        mut applied: mpsc::UnboundedReceiver<(u64, Digest)>,
        mut leading: watch::Receiver<bool>,
        findings: Findings,
        shutdown: CancellationToken,
    ) -> Result<(), Failure> {
        let slices: Api<EndpointSlice> = Api::namespaced(self.client.clone(), &self.namespace);
        let config = watcher::Config::default().labels(&format!("kubernetes.io/service-name={}", self.service));
        let mut slices = pin!(watcher(slices, config).backoff(pauses()));
        let (mut by_slice, mut listing) = (BTreeMap::new(), BTreeMap::new());
        let (mut peers, mut history) = (Peers::default(), History::default());
        let (mut questions, mut clients) = (FuturesUnordered::new(), HashMap::new());
        let (mut trusts, mut in_force) = (self.authorities.changes(), self.in_force.clone());
        let mut listed = false;
        let (mut sums, mut tally) = (Sums::default(), interval(TALLY));
        loop {
            tokio::select! {
                Ok(()) = trusts.changed() => clients.clear(),
                Ok(()) = in_force.changed() => {}
                Some(event) = slices.next() => match event {
                    Ok(watcher::Event::Init) => listing = BTreeMap::new(),
                    Ok(watcher::Event::InitApply(slice)) => drop(listing.insert(slice.name_any(), self.ready(&slice))),
                    Ok(watcher::Event::InitDone) => {
                        by_slice = std::mem::take(&mut listing);
                        listed = true;
                    }
                    Ok(watcher::Event::Apply(slice)) => drop(by_slice.insert(slice.name_any(), self.ready(&slice))),
                    Ok(watcher::Event::Delete(slice)) => drop(by_slice.remove(&slice.name_any())),
                    Err(error) => tracing::warn!(%error, "the replicas can't be listed"),
                },
                Some((number, revision)) = applied.recv() => history.push(number, revision),
                Ok(()) = leading.changed() => sums = Sums::default(),
                Some((address, answer)) = questions.next(), if !questions.is_empty() => {
                    if let Some((process, counts)) = peers.answered(address, answer) {
                        sums.take_in(process, counts);
                    }
                }
                _ = tally.tick(), if *leading.borrow() => {
                    let (process, counts) = self.engine.unenforced();
                    sums.take_in(process, counts);
                    let news = sums.take();
                    if !news.is_empty() {
                        let _ = findings.unenforced.send(news);
                    }
                }
                () = shutdown.cancelled() => return Ok(()),
            }
            // only the leader needs to know; the others need not ask
            let ready: BTreeSet<SocketAddr> =
                if *leading.borrow() { by_slice.values().flatten().copied().collect() } else { BTreeSet::new() };
            for address in peers.now(ready) {
                let client = clients.entry(address).or_insert_with(|| self.client_of(address)).clone();
                questions.push(self.question(client, address, peers.said(address)));
            }
            clients.retain(|address, _| peers.0.contains_key(address));
            let (now, behind) = peers.confirmed(&history);
            self.engine.metrics().replicas_behind(behind);
            if listed && *leading.borrow() {
                findings.confirmed.send_if_modified(|known| {
                    let news = known.is_outdone_by(&now);
                    if news {
                        *known = now;
                    }
                    news
                });
            }
            let own = *in_force.borrow_and_update();
            let roots = own.filter(|own| listed && *leading.borrow() && peers.have(*own));
            findings.roots.send_if_modified(|known| std::mem::replace(known, roots) != roots);
        }
    }

    /// Addresses of the other ready replicas in a slice.
    fn ready(&self, slice: &EndpointSlice) -> Vec<SocketAddr> {
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

    /// A client that knows one replica, and keeps its connection.
    fn client_of(&self, address: SocketAddr) -> Option<reqwest::Client> {
        let roots = self.authorities.current().roots();
        let client = reqwest::Client::builder()
            .tls_certs_only(roots.iter().filter_map(|root| reqwest::Certificate::from_der(root).ok()))
            .resolve(&self.host, address)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build();
        client.inspect_err(|error| tracing::error!(%error, "the replicas can't be asked")).ok()
    }

    /// Asks one replica for something else than what it said last.
    fn question(
        &self,
        client: Option<reqwest::Client>,
        address: SocketAddr,
        known: Option<&Said>,
    ) -> impl Future<Output = (SocketAddr, Option<Said>)> + use<> {
        let url = format!(
            "https://{}:{}{PATH}?known={}",
            self.host,
            address.port(),
            known.map(Said::known).unwrap_or_default()
        );
        async move {
            let Some(client) = client else {
                sleep(PAUSE).await;
                return (address, None);
            };
            let asked = async { client.get(url).send().await?.error_for_status()?.text().await };
            match timeout(HOLD + PAUSE, asked).await {
                Ok(Ok(text)) => (address, Some(Said::read(text))),
                Ok(Err(error)) => {
                    tracing::debug!(%address, error = %error.without_url(), "a replica does not tell its revision");
                    sleep(PAUSE).await;
                    (address, None)
                }
                Err(_) => (address, None),
            }
        }
    }
}

/// The other replicas and what they last said.
#[derive(Debug, Default)]
struct Peers(BTreeMap<SocketAddr, Peer>);

/// What a replica said: its revision, and after a dot the digest of the roots that it verifies by. Then a line with the number of its
/// process, and one for each policy of which it let pass what it would have denied: `namespace/name count`.
#[derive(Debug)]
struct Said {
    text: String,
}

impl Said {
    const fn read(text: String) -> Self {
        Self { text }
    }

    /// What is not told again until it is something else.
    fn known(&self) -> &str {
        self.text.lines().next().unwrap_or_default()
    }

    fn revision(&self) -> &str {
        self.known().split_once('.').map_or(self.known(), |(revision, _)| revision)
    }

    fn roots(&self) -> Option<&str> {
        self.known().split_once('.').map(|(_, roots)| roots)
    }

    fn unenforced(&self) -> Option<(u64, Counts)> {
        let mut lines = self.text.lines().skip(1);
        let process = lines.next()?.parse().ok()?;
        let counted = lines.filter_map(|line| {
            let (policy, count) = line.split_once(' ')?;
            let (namespace, name) = policy.split_once('/')?;
            Some((NamespacedName { namespace: namespace.into(), name: name.into() }, count.parse().ok()?))
        });
        Some((process, counted.collect()))
    }
}

#[derive(Debug, Default)]
struct Peer {
    said: Option<Said>,
    asking: bool,
    ready: bool,
}

impl Peers {
    /// Takes in who is ready now; returns who is to be asked.
    fn now(&mut self, ready: BTreeSet<SocketAddr>) -> Vec<SocketAddr> {
        for (address, peer) in &mut self.0 {
            peer.ready = ready.contains(address);
        }
        for address in ready {
            self.0.entry(address).or_default().ready = true;
        }
        // one that is still being asked is forgotten when the answer comes
        self.0.retain(|_, peer| peer.ready || peer.asking);
        let idle = self.0.iter_mut().filter(|(_, peer)| peer.ready && !peer.asking);
        idle.map(|(address, peer)| {
            peer.asking = true;
            *address
        })
        .collect()
    }

    /// Keeps an answer; returns what it says beside.
    fn answered(&mut self, address: SocketAddr, answer: Option<Said>) -> Option<(u64, Counts)> {
        let beside = answer.as_ref().and_then(Said::unenforced);
        if let Some(peer) = self.0.get_mut(&address) {
            peer.asking = false;
            peer.said = answer;
        }
        beside
    }

    fn said(&self, address: SocketAddr) -> Option<&Said> {
        self.0.get(&address)?.said.as_ref()
    }

    /// Whether every ready replica verifies by these roots.
    fn have(&self, roots: Digest) -> bool {
        let roots = roots.to_string();
        let mut ready = self.0.values().filter(|peer| peer.ready);
        ready.all(|peer| peer.said.as_ref().and_then(Said::roots) == Some(roots.as_str()))
    }

    /// What every ready replica has in force, and how many are behind this one.
    fn confirmed(&self, history: &History) -> (Confirmed, usize) {
        let Some(newest) = history.0.back() else { return (Confirmed::default(), 0) };
        let (mut confirmed, mut behind) = (Some(newest), 0);
        for peer in self.0.values().filter(|peer| peer.ready) {
            let at = peer.said.as_ref().and_then(|said| history.entry(said.revision()));
            if at.is_none_or(|at| at.number < newest.number && at.revision != newest.revision) {
                behind += 1;
            }
            confirmed = confirmed.zip(at).map(|(so_far, at)| if at.number < so_far.number { at } else { so_far });
        }
        let confirmed = confirmed.map_or_else(Confirmed::default, |applied| Confirmed {
            number: applied.number,
            revision: Some(applied.revision),
        });
        (confirmed, behind)
    }
}

#[derive(Debug, Deserialize)]
struct Known {
    #[serde(default)]
    known: String,
}

/// The answering side: this replica's revision and roots, once they are others than those that are known.
#[derive(Clone)]
struct Telling {
    engine: Arc<Engine>,
    in_force: watch::Receiver<Option<Digest>>,
}

pub fn router(engine: Arc<Engine>, in_force: watch::Receiver<Option<Digest>>) -> Router {
    Router::new().route(PATH, get(tell)).with_state(Telling { engine, in_force })
}

async fn tell(State(mut telling): State<Telling>, Query(Known { known }): Query<Known>) -> String {
    let mut revisions = telling.engine.revisions();
    let end = tokio::time::Instant::now() + HOLD;
    loop {
        let roots = telling.in_force.borrow_and_update().map(|roots| roots.to_string()).unwrap_or_default();
        let text = format!("{}.{roots}", *revisions.borrow_and_update());
        if text != known {
            return text + &unenforced(&telling.engine);
        }
        tokio::select! {
            Ok(()) = revisions.changed() => {}
            Ok(()) = telling.in_force.changed() => {}
            // when nothing changes for a while the same is told again
            () = sleep_until(end) => return text + &unenforced(&telling.engine),
        }
    }
}

/// The lines after the first.
fn unenforced(engine: &Engine) -> String {
    let (process, counts) = engine.unenforced();
    let lines = counts.iter().map(|(policy, count)| format!("\n{policy} {count}"));
    format!("\n{process}{}", lines.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn revision(name: &str) -> Digest {
        Digest::of([name.as_bytes()])
    }

    fn said_of(name: &str, roots: &str) -> Said {
        Said::read(format!("{}.{}", revision(name), revision(roots)))
    }

    fn peers(said: &[Option<&str>]) -> Peers {
        let mut peers = Peers::default();
        for (number, said) in (1..).zip(said) {
            let address = SocketAddr::from(([10, 0, 0, number], 8443));
            peers.0.insert(address, Peer { said: said.map(|name| said_of(name, "old")), asking: false, ready: true });
        }
        peers
    }

    fn history(revisions: &[&str]) -> History {
        let mut history = History::default();
        (1..).zip(revisions).for_each(|(number, name)| history.push(number, revision(name)));
        history
    }

    #[test]
    fn a_batch_is_confirmed_when_every_ready_replica_has_come_to_it() {
        let history = history(&["one", "two", "three"]);
        for (said, confirmed, behind) in [
            (&[][..], Some(3), 0),
            (&[Some("three"), Some("three")], Some(3), 0),
            (&[Some("three"), Some("two")], Some(2), 1),
            (&[Some("one"), Some("two")], Some(1), 2),
            (&[Some("three"), None], None, 1),
            (&[Some("unheard of")], None, 1),
        ] {
            let (now, count) = peers(said).confirmed(&history);
            assert_eq!((now.revision.map(|_| now.number), count), (confirmed, behind), "{said:?}");
        }
    }

    #[test]
    fn batches_up_to_the_confirmed_one_are_in_force() {
        let (confirmed, _) = peers(&[Some("two")]).confirmed(&history(&["one", "two", "three"]));
        assert_eq!(
            (confirmed.of(1), confirmed.of(2), confirmed.of(3)),
            (Some(revision("two")), Some(revision("two")), None)
        );
        assert_eq!(Confirmed::default().of(0), None);
    }

    #[test]
    fn a_confirmation_is_never_taken_back() {
        let (known, _) = peers(&[Some("two")]).confirmed(&history(&["one", "two"]));
        // the other replica has taken in something that this one has not seen yet, or does not answer
        for said in [Some("unheard of"), None, Some("one")] {
            let (now, _) = peers(&[said]).confirmed(&history(&["one", "two", "three"]));
            assert!(!known.is_outdone_by(&now), "{said:?}");
        }
        let (now, _) = peers(&[Some("three")]).confirmed(&history(&["one", "two", "three"]));
        assert!(known.is_outdone_by(&now));
    }

    #[test]
    fn a_content_that_comes_back_counts_as_its_newest_batch() {
        // a change and its reversal: who has the first content has the last one
        let (confirmed, behind) = peers(&[Some("one")]).confirmed(&history(&["one", "two", "one"]));
        assert_eq!((confirmed.number, behind), (3, 0));
    }

    #[test]
    fn roots_are_everywhere_when_every_ready_replica_verifies_by_them() {
        let mut peers = peers(&[Some("one"), Some("two")]);
        assert!(peers.have(revision("old")) && !peers.have(revision("new")));
        let first = *peers.0.keys().next().unwrap();
        peers.answered(first, Some(said_of("one", "new")));
        assert!(!peers.have(revision("new")));
        // one that says nothing of roots is of an older version
        peers.answered(first, Some(Said::read(revision("one").to_string())));
        assert!(!peers.have(revision("old")));
        peers.0.get_mut(&first).unwrap().ready = false;
        assert!(peers.have(revision("old")), "one that is not ready does not count");
    }

    #[test]
    fn counts_are_told_beside_the_revision_and_are_no_news_by_themselves() {
        let text = "abc.def\n7\nshop/orders 3\nnonsense\nshop/a.b 1";
        let said = Said::read(text.to_owned());
        assert_eq!((said.known(), said.revision(), said.roots()), ("abc.def", "abc", Some("def")));
        let (process, counts) = said.unenforced().expect("counts");
        let counts: Vec<String> = counts.iter().map(|(policy, count)| format!("{policy} {count}")).collect();
        assert_eq!((process, counts.join(", ").as_str()), (7, "shop/a.b 1, shop/orders 3"));
        assert!(Said::read("abc.def".to_owned()).unenforced().is_none(), "one of an older version");
    }

    #[test]
    fn each_replica_is_asked_once_at_a_time_and_forgotten_when_it_is_gone() {
        let (a, b) = (SocketAddr::from(([10, 0, 0, 1], 1)), SocketAddr::from(([10, 0, 0, 2], 1)));
        let mut peers = Peers::default();
        assert_eq!(peers.now([a, b].into()), [a, b]);
        assert!(peers.now([a, b].into()).is_empty(), "both are being asked");
        peers.answered(a, Some(said_of("one", "old")));
        assert_eq!(peers.now([a].into()), [a]);
        peers.answered(b, None);
        peers.now([a].into());
        assert_eq!(peers.0.len(), 1);
    }
}
