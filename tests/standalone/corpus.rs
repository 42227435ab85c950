//! The corpus of requests at each enforcement point: the gate, nginx with forward auth, Envoy with `ext_authz`.

use durward_tests::corpus::{HeaderCase, HeaderOutcome, POLICY, corpus, request_cases};
use durward_tests::gate::{GateFixture, GateProcess, RecordingApp, TlsCaller, head};
use durward_tests::proxies;
use durward_tests::proxies::ServerProcess;
use durward_tests::{HttpReply, TIMEOUT, UpProcess, raw};
use serde::Deserialize;
use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpStream;

/// A raw HTTP/1.1 request.
#[derive(Debug, Deserialize)]
struct Raw {
    name: String,
    bytes: String,
    seen: Vec<String>,
    answer: Option<u16>,
}

/// One header block of HTTP/2.
#[derive(Debug, Deserialize)]
struct Block {
    name: String,
    headers: Vec<(String, String)>,
    seen: Vec<String>,
}

/// The enforcement point in front of the application.
enum Front {
    GateProcess(GateProcess, TlsCaller, TlsCaller),
    Proxy(&'static str, ServerProcess),
}

impl Front {
    fn name(&self) -> &'static str {
        match self {
            Self::GateProcess(..) => "gate",
            Self::Proxy(name, _) => name,
        }
    }

    fn raw(&self, bytes: &[u8]) -> HttpReply {
        match self {
            Self::GateProcess(gate, caller, _) => caller.raw(gate.address(), bytes),
            Self::Proxy(_, server) => raw(server.address, bytes),
        }
    }

    /// A connection with HTTP/2 prior knowledge; nginx's example has none.
    fn http2(&self) -> Option<Box<dyn CorpusStream>> {
        match self {
            Self::GateProcess(gate, _, caller) => Some(Box::new(caller.connect(gate.address()))),
            Self::Proxy("nginx", _) => None,
            Self::Proxy(_, server) => {
                let stream = TcpStream::connect(server.address).unwrap();
                stream.set_read_timeout(Some(TIMEOUT)).unwrap();
                Some(Box::new(stream))
            }
        }
    }
}

trait CorpusStream: Read + Write {}
impl<S: Read + Write> CorpusStream for S {}

struct CorpusSetup {
    app: RecordingApp,
    fronts: Vec<Front>,
    up: UpProcess,
    fixture: GateFixture,
}

impl CorpusSetup {
    fn new() -> Self {
        let app = RecordingApp::start();
        let up = UpProcess::with(&[("shop.yaml", POLICY)]);
        let fixture = GateFixture::new(POLICY);
        let gate = fixture.gate("shop/orders", &app.upstream(), &[]);
        let http1 = fixture.caller_by(None, rustls::ALL_VERSIONS, &[b"http/1.1"]);
        let http2 = fixture.caller_by(None, rustls::ALL_VERSIONS, &[b"h2"]);
        let fronts = vec![
            Front::GateProcess(gate, http1, http2),
            Front::Proxy("nginx", proxies::nginx(&up, app.address)),
            Front::Proxy("envoy", proxies::envoy(&up, app.address)),
        ];
        Self { app, fronts, up, fixture }
    }

    /// A token of billing that the enforcement point accepts.
    fn token(&self, front: &Front) -> String {
        let account = "billing/billing";
        let audience = "orders.shop";
        match front {
            Front::GateProcess(..) => self.fixture.token(account, audience),
            Front::Proxy(..) => self.up.token(account, audience),
        }
    }

    /// The targets that reach the application during `ask`.
    fn seen<T>(&self, ask: impl FnOnce() -> T) -> (T, Vec<String>) {
        let before = self.app.requests().len();
        let answer = ask();
        let seen = self.app.requests().split_off(before);
        (answer, seen.iter().map(|seen| seen["uri"].as_str().unwrap().to_owned()).collect())
    }
}

#[test]
fn every_enforcement_point_answers_the_corpus_alike() {
    let world = CorpusSetup::new();
    let cases = request_cases();
    let mut wrong = Vec::new();
    for case in &cases {
        let bytes = head(&case.method, &case.path, &[("Host", &case.host)]);
        for front in &world.fronts {
            let (reply, seen) = world.seen(|| front.raw(bytes.as_bytes()));
            let refused = seen.is_empty() && (400..500).contains(&reply.status) || reply.status == 0 && seen.is_empty();
            let good = match case.reason.as_str() {
                "Public" => reply.status == 200 && seen == [case.path.as_str()],
                "Unauthenticated" => seen.is_empty() && reply.status == 401,
                _ => refused || case.read_as.as_ref().is_some_and(|path| seen == [path.as_str()]),
            };
            if !good {
                wrong.push(format!("{case:?} at {}: {} and {seen:?}", front.name(), reply.status));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn headers_added_by_a_caller_change_nothing() {
    let world = CorpusSetup::new();
    let cases: Vec<HeaderCase> = corpus("headers.yaml");
    let mut wrong = Vec::new();
    for front in &world.fronts {
        let token = world.token(front);
        for case in &cases {
            let mut bytes = format!("GET {} HTTP/1.1\r\nHost: orders.shop.svc\r\n", case.path).into_bytes();
            let headers = case.headers(&token);
            for (name, value) in &headers {
                bytes.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
            }
            let closes = headers.iter().any(|(name, _)| name == "connection");
            bytes.extend(if closes { &b"\r\n"[..] } else { b"Connection: close\r\n\r\n" });
            let (reply, seen) = world.seen(|| front.raw(&bytes));
            let last = if seen.is_empty() { None } else { world.app.requests().pop() };
            let leaked = last.as_ref().and_then(|last| case.leaked_header(&last["headers"]));
            let expected = if reply.status == 200 { vec![case.path.clone()] } else { Vec::new() };
            // the application gets the caller as the principal, and no one's on a public operation; nginx sends no
            // empty header
            let named = last.as_ref().map(|last| &last["headers"]["x-durward-principal"]);
            let billing = serde_json::json!(["spiffe://cluster.local/ns/billing/sa/billing"]);
            let empty = |named: &Value| named.is_null() && front.name() == "nginx" || *named == serde_json::json!([""]);
            let own = named.is_none_or(|named| *named == billing || case.path == "/healthz" && empty(named));
            if !case.allows(reply.status) || seen != expected || leaked.is_some() || !own {
                wrong.push(format!("{} at {}: {}, {seen:?}, {leaked:?}", case.name, front.name(), reply.status));
            }
        }
    }
    assert!(cases.iter().any(|case| case.outcome == HeaderOutcome::Refused));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn malformed_requests_never_exceed_their_decision() {
    let world = CorpusSetup::new();
    let mut wrong = Vec::new();
    for case in corpus::<Raw>("raw.yaml") {
        for front in &world.fronts {
            // a server that waits for more input refuses the request
            let bytes = [
                case.bytes.as_bytes(),
                b"GET /healthz?end HTTP/1.1\r\nHost: orders.shop.svc\r\nConnection: close\r\n\r\n",
            ]
            .concat();
            let (reply, mut seen) = world.seen(|| front.raw(&bytes));
            seen.retain(|path| path != "/healthz?end");
            let mut allowed = case.seen.clone();
            let more = seen.iter().any(|path| {
                let at = allowed.iter().position(|other| other == path);
                at.map(|at| allowed.remove(at)).is_none()
            });
            if more || case.answer.is_some_and(|answer| answer != reply.status) {
                wrong.push(format!("{} at {}: {} and {seen:?}", case.name, front.name(), reply.status));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn malformed_http2_header_blocks_are_refused() {
    let world = CorpusSetup::new();
    let mut wrong = Vec::new();
    for case in corpus::<Block>("http2.yaml") {
        for front in &world.fronts {
            let Some(stream) = front.http2() else { continue };
            let (answered, seen) = world.seen(|| ask(stream, &case.headers));
            // only allowed cases pass; a gRPC call is refused by a status within a 200
            let grpc = case.headers.iter().any(|(_, value)| value == "application/grpc");
            if seen != case.seen || !grpc && answered == case.seen.is_empty() {
                wrong.push(format!("{} at {}: {answered} and {seen:?}", case.name, front.name()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Frame types (RFC 9113 section 6).
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;

/// Sends a header block; returns whether the response is a 200.
fn ask(mut stream: impl Read + Write, headers: &[(String, String)]) -> bool {
    let mut block = Vec::new();
    for (name, value) in headers {
        // a literal without indexing (RFC 7541 section 6.2.2), with plain strings below 127 bytes
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).ok().filter(|length| *length < 127).unwrap());
            block.extend(text.as_bytes());
        }
    }
    let frame = |kind: u8, flags: u8, stream: u8, payload: &[u8]| {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, stream], payload].concat()
    };
    // END_STREAM and END_HEADERS
    let question =
        [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(SETTINGS, 0, 0, &[]), frame(HEADERS, 5, 1, &block)]
            .concat();
    let _ = stream.write_all(&question);
    let mut head = [0; 9];
    while stream.read_exact(&mut head).is_ok() {
        let mut payload = vec![0; usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2])];
        if stream.read_exact(&mut payload).is_err() {
            return false;
        }
        match (head[3], head[8]) {
            // `:status: 200` has index 8 in the static table
            (HEADERS, 1) => return payload.first() == Some(&0x88),
            (RESET, 1) | (GOAWAY, _) => return false,
            _ => {}
        }
    }
    false
}
