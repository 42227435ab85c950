//! The budget of work: a decision that uses it up is recorded, counted and replayed alike, and keeps nobody from health
//! and admin.

use durward_tests::{HttpReply, TIMEOUT, UpProcess, durward, request, run};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpStream;

const HOST: &str = "orders.shop.svc";

/// A policy that its author may write: 10,000 turns of a loop, for a grant and for a denial.
fn policy() -> String {
    let list: Vec<String> = (0..90).map(|number| number.to_string()).collect();
    let list = list.join(",");
    let slow = format!("[{list}].all(a, [{list}].all(b, a >= 0 && b >= 0))");
    format!(
        "apiVersion: durward.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {{name: orders, namespace: shop}}\nspec:\n  \
         service: {{hosts: [{HOST}]}}\n  authentication: [{{workload: {{}}}}]\n  operations:\n    \
         - {{name: slow, http: [{{methods: [GET], paths: [/slow]}}]}}\n    \
         - {{name: quick, http: [{{methods: [GET], paths: [/quick]}}]}}\n  grants:\n    \
         - {{name: endless, to: [{{authenticated: true}}], scopes: [slow], when: '{slow}'}}\n    \
         - {{name: simple, to: [{{authenticated: true}}], scopes: [slow], when: 'principal.namespace == \"shop\"'}}\n    \
         - {{name: quick, to: [{{authenticated: true}}], scopes: [quick], when: 'principal.namespace == \"shop\"'}}\n"
    )
}

fn get(up: &UpProcess, listener: &str, path: &str) -> HttpReply {
    request(up.listen[listener], "GET", path, &[("Host", "durward")], "")
}

#[test]
fn an_exhausted_budget_is_recorded_counted_and_replayed() {
    let up = UpProcess::with(&[("orders.yaml", &policy())]);
    let bearer = format!("Bearer {}", up.token("shop/cart", "orders.shop"));
    let ask = |path: &str| up.forward_auth("GET", HOST, path, &[("Authorization", &bearer)]).status;
    assert_eq!((ask("/quick"), ask("/slow"), ask("/quick")), (200, 403, 200));
    let records: Vec<Value> = up.records(3);
    let slow = records.iter().find(|record| record["operation"] == "slow").expect("a record");
    assert_eq!(slow["reason"], "InsufficientScope", "{slow}");
    assert_eq!(slow["exhausted"], "shop/orders/grants/endless", "{slow}");
    let detail = slow["detail"].as_str().unwrap_or_default();
    assert_eq!(detail, "the decision has used up its budget of work, at shop/orders/grants/endless");
    let quick = records.iter().filter(|record| record["operation"] == "quick");
    assert!(quick.clone().count() == 2 && quick.into_iter().all(|record| record.get("exhausted").is_none()));
    let metrics = get(&up, "admin", "/metrics").body;
    assert!(metrics.contains("durward_decisions_exhausted_total{door=\"forward_auth\"} 1\n"), "{metrics}");
    let replay = run(durward().args(["audit", "replay"]).arg(&up.audit).arg("--policies").arg(&up.manifests));
    assert_eq!(replay.0, 0, "{replay:?}");
}

#[test]
fn health_and_admin_answer_while_every_decision_thread_is_busy() {
    const REQUESTS: usize = 120;
    let up = UpProcess::with(&[("orders.yaml", &policy())]);
    let bearer = up.token("shop/cart", "orders.shop");
    let question = format!(
        "GET /forward-auth HTTP/1.1\r\nHost: {HOST}\r\nX-Original-Method: GET\r\nX-Original-URI: /slow\r\n\
         Authorization: Bearer {bearer}\r\nConnection: close\r\n\r\n"
    );
    let mut open: Vec<TcpStream> = (0..REQUESTS)
        .map(|_| {
            let stream = TcpStream::connect(up.listen["http"]).unwrap();
            stream.set_read_timeout(Some(TIMEOUT)).unwrap();
            stream
        })
        .collect();
    open.iter_mut().for_each(|stream| stream.write_all(question.as_bytes()).unwrap());
    for path in ["/readyz", "/healthz", "/metrics"] {
        let reply = get(&up, "admin", path);
        assert_eq!(reply.status, 200, "{path}: {}", reply.body);
    }
    // requests that came before are still waiting for their decisions: admin did not stand in their queue
    let unanswered = open.iter().filter(|stream| {
        stream.set_nonblocking(true).unwrap();
        let waits = stream.peek(&mut [0]).is_err();
        stream.set_nonblocking(false).unwrap();
        waits
    });
    assert!(unanswered.count() > 0, "all decisions were made before admin answered");
    for mut stream in open {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    }
    let exhausted = format!("durward_decisions_exhausted_total{{door=\"forward_auth\"}} {REQUESTS}\n");
    let metrics = get(&up, "admin", "/metrics").body;
    assert!(metrics.contains(&exhausted), "{metrics}");
}
