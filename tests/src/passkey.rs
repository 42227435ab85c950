//! Passkeys without a browser, by an independent authenticator in Python, and the requests that use them.

use crate::step_up::FormBrowser;
use crate::venv::venv;
use crate::{HttpReply, UpProcess, repository, request};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// The authenticator's response to `options`, with this signature counter.
pub fn authenticator_response(act: &str, up: &UpProcess, options: &str, counter: u32, more: &[&str]) -> String {
    authenticator_response_for(
        &format!("http://localhost:{}", up.listen["tokens"].port()),
        act,
        up,
        options,
        counter,
        more,
    )
}

/// As [`authenticator_response`], for a page of another origin.
pub fn authenticator_response_for(
    origin: &str,
    act: &str,
    up: &UpProcess,
    options: &str,
    counter: u32,
    more: &[&str],
) -> String {
    let mut child = Command::new(venv("python"))
        .arg(repository("tests/python/passkey.py"))
        .args([act, origin, keyfile(up).to_str().unwrap(), &counter.to_string()])
        .args(more)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(options.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

fn keyfile(up: &UpProcess) -> PathBuf {
    up.state.with_extension("passkey.pem")
}

/// Registers the passkey for the person of a visit.
pub fn add(up: &UpProcess, visit: &mut FormBrowser<'_>) {
    let sealed = visit.visit();
    let options = visit.send("/step-up/passkeys/create", &[("visit", &sealed)]).body.clone();
    let made = authenticator_response("create", up, &options, 0, &[]);
    let added = visit.send("/step-up/passkeys/add", &[("visit", &sealed), ("name", "robot"), ("passkey", &made)]);
    assert_eq!(added.status, 200, "{added:?}");
}

/// Posts a form to the token listener.
pub fn post(up: &UpProcess, path: &str, fields: &[(&str, &str)]) -> HttpReply {
    post_from(up, "", path, fields)
}

/// Posts a form as a proxy forwards it from an address.
pub fn post_from(up: &UpProcess, address: &str, path: &str, fields: &[(&str, &str)]) -> HttpReply {
    let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
    let mut headers = vec![("Host", "durward"), ("Content-Type", "application/x-www-form-urlencoded")];
    if !address.is_empty() {
        headers.push(("X-Forwarded-For", address));
    }
    request(up.listen["tokens"], "POST", path, &headers, &body)
}

/// Requests passkey options without the page.
pub fn challenge(up: &UpProcess, first: &str) -> String {
    let reply = post(up, "/step-up/passkeys/challenge", &[("subject_token", first), ("audience", "orders-api")]);
    assert_eq!(reply.status, 200, "{reply:?}");
    reply.body
}

/// Exchanges a first token with a passkey.
pub fn exchange(up: &UpProcess, first: &str, passkey: &str) -> HttpReply {
    exchange_from(up, "", first, &[("passkey", passkey)])
}

/// Exchanges a first token with any factor, from an address.
pub fn exchange_from(up: &UpProcess, address: &str, first: &str, more: &[(&str, &str)]) -> HttpReply {
    let fields = [
        ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
        ("subject_token_type", "urn:ietf:params:oauth:token-type:jwt"),
        ("subject_token", first),
        ("audience", "orders-api"),
    ];
    post_from(up, address, "/token", &[&fields[..], more].concat())
}
