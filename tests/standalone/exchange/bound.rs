//! Tokens that are bound to a certificate, and second factors that carry over.

use super::*;

/// A request through a proxy that forwards the certificate of its client.
fn through_proxy(up: &UpProcess, files: &Path, method: &str, path: &str, token: &str) -> HttpReply {
    let pem = std::fs::read_to_string(files.join("svid.pem")).unwrap();
    let pem = percent_encoding::utf8_percent_encode(&pem, percent_encoding::NON_ALPHANUMERIC);
    let headers =
        [("Authorization", &*format!("Bearer {token}")), ("x-forwarded-client-cert", &*format!("Cert=\"{pem}\""))];
    up.forward_auth(method, "orders.example.com", path, &headers)
}

#[test]
fn a_certificate_gets_a_bound_token() {
    let key = IssuerKey::rsa("one");
    let manifests = [("all.yaml", &*manifests(&[&key])), ("more.yaml", &*more(&key))];
    let up = UpProcess::start(&manifests, &["--client-certificates-from", "127.0.0.1"]);
    let billing = certificate(&up, "billing/billing");
    let cart = certificate(&up, "shop/cart");
    let by = |files: &Path, parameters: &[(&str, &str)]| {
        by_certificate(&up, "tokens_tls", "/token", files, &["--data", &encoded(parameters)])
    };
    let own_request = [("grant_type", "client_credentials"), ("audience", "orders-api"), ("client_id", BILLING)];
    let reply = by(&billing, &own_request);
    let answer = body(&reply);
    assert_eq!((&answer["scope"], answer.get("issued_token_type")), (&json!("orders.read orders.refund"), None));
    let token = access_token_of(&reply);
    let claims = verify(&up, &token, "orders-api");
    let pem = std::fs::read(billing.join("svid.pem")).unwrap();
    let leaf = x509_parser::pem::Pem::iter_from_buffer(&pem).next().unwrap().unwrap().contents;
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &leaf);
    assert_eq!(claims["cnf"], json!({"x5t#S256": URL_SAFE_NO_PAD.encode(digest.as_ref())}));
    assert_eq!(
        (&claims["sub"], &claims["acr"]),
        (&json!(BILLING), &json!("urn:durward:assurance:proof-of-possession"))
    );

    // the doors require the same certificate, which a proxy forwards
    let refund = |files: &Path| through_proxy(&up, files, "POST", "/orders/7/refund", &token);
    assert_eq!(refund(&billing).status, 200);
    assert_eq!(refund(&cart).status, 401);
    // the certificate of the proxy itself is not the caller's
    let bearer = format!("Authorization: Bearer {token}");
    let own = ["-H", "Host: orders.example.com", "-H", "X-Original-Method: POST", "-H", &bearer];
    let own: Vec<&str> = own.into_iter().chain(["-H", "X-Original-URI: /orders/7/refund"]).collect();
    assert_eq!(by_certificate(&up, "https", "/forward-auth", &billing, &own).status, 401);
    let forwarded = [("X-Forwarded-For", "192.0.2.7"), ("Via", "1.1 edge")];
    for (name, value) in forwarded {
        let parameters = encoded(&own_request);
        let arguments = ["--data", &parameters, "-H", &format!("{name}: {value}")];
        let reply = by_certificate(&up, "tokens_tls", "/token", &billing, &arguments);
        assert_eq!((reply.status, &body(&reply)["error"]), (401, &json!("invalid_client")), "{name}");
    }
    assert_eq!(door(&up, "GET", "/orders", &token).status, 401);
    let again = exchange(&up, &token, "orders-api", &[("subject_token_type", ACCESS_TOKEN)]);
    assert_eq!(
        (again.status, &body(&again)["error"]),
        (400, &json!("invalid_request")),
        "a stolen token can't be exchanged"
    );

    // the token is bound to the certificate, but its assurance stays `Bearer`
    let bearer = up.token("billing/billing", "durward");
    let reply = by(&billing, &exchange_request(&bearer, "orders-api", &[]));
    assert_eq!(body(&reply)["scope"], "orders.read", "{reply:?}");
    let reply = by(&cart, &exchange_request(&bearer, "orders-api", &[]));
    let passed_on = self::claims(&access_token_of(&reply));
    assert_eq!(
        (&passed_on["sub"], &passed_on["client_id"]),
        (&json!(BILLING), &json!("spiffe://cluster.local/ns/shop/sa/cart"))
    );
    let through = through_proxy(&up, &cart, "GET", "/orders", &access_token_of(&reply));
    assert_eq!((through.status, through.header("x-durward-assurance")), (200, Some("Bearer")), "{through:?}");
    assert_eq!(
        through.header("x-durward-principal"),
        Some(BILLING),
        "the token determines the principal, not the certificate"
    );

    for (files, parameters) in
        [(&cart, own_request.to_vec()), (&cart, exchange_request(&bearer, "orders-api", &[("client_id", BILLING)]))]
    {
        let reply = by(files, &parameters);
        assert_eq!((reply.status, reply.body.as_str()), (401, r#"{"error":"invalid_client"}"#), "{parameters:?}");
    }
    let nothing = by(&cart, &own_request[..2]);
    assert_eq!((nothing.status, &body(&nothing)["error"]), (400, &json!("invalid_target")));
}

#[test]
fn a_second_factor_carries_over_and_ages() {
    let key = IssuerKey::rsa("one");
    let up = start(&key);
    let person = |more: &Value| {
        let base = json!({"iss": "https://people.example", "aud": "portal", "groups": ["staff"], "amr": ["pwd", "mfa"], "auth_time": now() - 500});
        key.token(&with(&base, more))
    };
    let reply = exchange(&up, &person(&json!({})), "invoices.shop", &[]);
    let token = access_token_of(&reply);
    let stated = claims(&token);
    assert_eq!((&stated["scope"], &stated["acr"]), (&json!("pay read"), &json!("urn:durward:assurance:multi-factor")));
    assert_eq!(stated["amr"], json!(["pwd", "mfa"]));
    assert!(stated["exp"].as_i64().unwrap() <= stated["auth_time"].as_i64().unwrap() + 600, "{stated}");
    let pay =
        up.forward_auth("POST", "invoices.shop.svc", "/invoices", &[("Authorization", &format!("Bearer {token}"))]);
    assert_eq!((pay.status, pay.header("x-durward-assurance")), (200, Some("MultiFactor")), "{pay:?}");

    for (changes, scope) in [
        (json!({"auth_time": now() - 700}), "read"),
        (json!({"auth_time": null}), "read"),
        (json!({"amr": ["pwd"]}), "read"),
        (json!({"amr": "mfa"}), "read"),
    ] {
        let stated = claims(&access_token_of(&exchange(&up, &person(&changes), "invoices.shop", &[])));
        assert_eq!(stated["scope"], scope, "{changes}");
    }
    let suspended = exchange(&up, &person(&json!({"suspended": true})), "invoices.shop", &[]);
    assert_eq!((suspended.status, &body(&suspended)["error"]), (400, &json!("invalid_target")));
    let strange = exchange(&up, &person(&json!({"suspended": "yes"})), "invoices.shop", &[]);
    assert_eq!(strange.status, 400, "a denial that fails applies");
}
