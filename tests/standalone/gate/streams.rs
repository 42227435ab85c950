//! The end of open streams: the caller is no longer allowed.

use super::*;
use durward_tests::gate::TlsConnection;

/// Two operations with open streams, of which one has high risk.
const STREAMS: &str = r"
apiVersion: durward.dev/v1alpha1
kind: AccessPolicy
metadata: {name: orders, namespace: shop}
spec:
  service: {hosts: [orders.shop.svc]}
  authentication: [{workload: {}}]
  operations:
    - {name: high, risk: High, http: [{methods: [GET], paths: [/files/socket]}]}
    - {name: standard, http: [{methods: [GET], paths: [/files/liar]}]}
  grants:
    - {name: billing, to: [{serviceAccount: {namespace: billing, name: billing}}], scopes: [high, standard]}
";

fn open(gate: &GateProcess, caller: &gate::TlsCaller, path: &str) -> TlsConnection {
    let mut stream = caller.connect(gate.address());
    stream.write_all(format!("GET {path} HTTP/1.1\r\nUpgrade: websocket\r\n{UPGRADE}\r\n").as_bytes()).unwrap();
    let head = read_head(&mut stream);
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    assert!(echoes(&mut stream));
    stream
}

fn echoes(stream: &mut TlsConnection) -> bool {
    let mut back = [0; 4];
    stream.write_all(b"ping").and_then(|()| stream.flush()).and_then(|()| stream.read_exact(&mut back)).is_ok()
}

#[test]
fn streams_end_when_their_caller_is_no_longer_allowed() {
    for (option, high_ends, standard_ends) in [("high", true, false), ("all", true, true), ("none", false, false)] {
        let fixture = GateFixture::new(STREAMS);
        let app = RecordingApp::start();
        let gate = fixture.gate("shop/orders", &app.upstream(), &["--end-streams", option]);
        let billing = fixture.caller(Some("billing/billing"));
        let (mut high, mut standard) = (open(&gate, &billing, "/files/socket"), open(&gate, &billing, "/files/liar"));
        let denials =
            "  denials:\n    - {name: incident, to: [{serviceAccount: {namespace: billing, name: billing}}]}\n";
        fixture.write("manifests/policy.yaml", &(STREAMS.to_owned() + denials));
        let denied = || {
            let reply = billing.request(gate.address(), "GET", "/files/socket", &[HOST]);
            (reply.status == 403).then_some(())
        };
        eventually("the denial is in force", denied).unwrap();
        for (stream, ends) in [(&mut high, high_ends), (&mut standard, standard_ends)] {
            if ends {
                // reads until the gate closes it
                assert!(!matches!(stream.read(&mut [0]), Ok(1..)), "{option}");
            }
        }
        assert_eq!((echoes(&mut high), echoes(&mut standard)), (!high_ends, !standard_ends), "{option}");
    }
}
