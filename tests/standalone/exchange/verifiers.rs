//! Verification of tokens by services: introspection, metadata, keys.

use super::*;

#[test]
fn services_introspect_their_own_tokens() {
    let key = IssuerKey::rsa("one");
    let up = start(&key);
    let access = access_token_of(&exchange(&up, &key.token(&json!({})), "orders-api", &[]));
    let orders = format!("Bearer {}", up.token("shop/orders", "durward"));
    let ask = |token: &str, headers: &[(&str, &str)]| post(&up, "/introspect", &encoded(&[("token", token)]), headers);
    let reply = ask(&access, &[("Authorization", &orders)]);
    let answer = body(&reply);
    assert_eq!((reply.status, &answer["active"], reply.header("cache-control")), (200, &json!(true), Some("no-store")));
    let stated = claims(&access);
    for name in ["sub", "aud", "iss", "exp", "iat", "jti", "client_id", "scope", "acr"] {
        assert_eq!(answer[name], stated[name], "{name}");
    }
    assert_eq!((&answer["token_type"], answer.get("durward.dev")), (&json!("Bearer"), None));
    let files = certificate(&up, "shop/orders");
    let by_tls = by_certificate(&up, "tokens_tls", "/introspect", &files, &["--data", &encoded(&[("token", &access)])]);
    assert_eq!(body(&by_tls), answer);

    // every invalid or foreign token gets the same answer
    let billing = format!("Bearer {}", up.token("billing/billing", "durward"));
    let (message, _) = access.rsplit_once('.').unwrap();
    for (token, who) in [
        (access.as_str(), &billing),
        ("nonsense", &orders),
        (&format!("{message}.AAAA"), &orders),
        (&up.token("billing/billing", "orders-api"), &orders),
        (&key.token(&json!({})), &orders),
        (&encode(&json!({"alg": "none"})), &orders),
    ] {
        let reply = ask(token, &[("Authorization", who)]);
        assert_eq!((reply.status, reply.body.as_str()), (200, r#"{"active":false}"#), "{token}");
    }
    let mut answers = BTreeSet::new();
    for who in [
        "Bearer nonsense",
        &format!("Bearer {}", up.token("shop/orders", "orders-api")),
        "Basic eA==",
        &format!("Bearer {access}"),
    ] {
        let reply = ask(&access, &[("Authorization", who)]);
        assert_eq!(reply.status, 401, "{who}");
        answers.insert(format!("{reply:?}"));
    }
    assert_eq!(answers.len(), 1, "{answers:#?}");
    let anonymous = ask(&access, &[]);
    assert_eq!((anonymous.status, anonymous.header("www-authenticate")), (401, Some("Bearer")));
    assert_eq!(post(&up, "/introspect", "", &[("Authorization", &orders)]).status, 400);

    // introspection follows a revoked grant at once
    up.write(
        "all.yaml",
        &manifests(&[&key]).replace(
            "{name: support-writes, to: [{provider: corporate, group: support}]",
            "{name: support-writes, to: [{principal: 'user:corporate/bob'}]",
        ),
    );
    let scope = || (body(&ask(&access, &[("Authorization", &orders)]))["scope"] == "orders.read").then_some(());
    eventually("the token without the revoked scope", scope).unwrap();
}

#[test]
fn metadata_and_keys_are_published() {
    let key = IssuerKey::rsa("one");
    let up = start(&key);
    let base = format!("http://{}", up.listen["tokens"]);
    let documents = ["/.well-known/openid-configuration", "/.well-known/oauth-authorization-server"].map(|path| {
        let reply = get(&up, path);
        assert_eq!((reply.status, reply.header("cache-control")), (200, Some("public, max-age=300")), "{reply:?}");
        body(&reply)
    });
    for document in &documents {
        assert_eq!(document["issuer"], base);
        assert_eq!(document["token_endpoint"], format!("{base}/token"));
        assert_eq!(document["introspection_endpoint"], format!("{base}/introspect"));
        assert_eq!(
            document["mtls_endpoint_aliases"]["token_endpoint"],
            format!("https://{}/token", up.listen["tokens_tls"])
        );
        assert_eq!(document["grant_types_supported"], json!([EXCHANGE, "client_credentials"]));
        assert_eq!(document["tls_client_certificate_bound_access_tokens"], true);
    }
    let keys = get(&up, "/.well-known/jwks.json");
    assert_eq!(keys.header("cache-control"), Some("public, max-age=300"));
    assert_eq!(keys.header("content-type"), Some("application/jwk-set+json"));
    let algorithms: BTreeSet<String> =
        body(&keys)["keys"].as_array().unwrap().iter().map(|key| key["alg"].as_str().unwrap().to_owned()).collect();
    assert_eq!(algorithms, BTreeSet::from(["ES256".to_owned(), "RS256".to_owned()]));
    assert!(!keys.body.contains("\"d\""), "no private part");
}

/// A new key is published, then signs; every token can be verified at any time.
#[test]
fn key_rotation_rejects_no_token() {
    let key = IssuerKey::rsa("one");
    let up = start(&key);
    let subject = up.mint(&["jwt", "--service-account", "billing/billing", "--audience", "durward", "--ttl", "30m"]);
    let first = access_token_of(&exchange(&up, &subject, "invoices.shop", &[]));
    let next = durward_pki::token::TokenKey::generate(durward_pki::token::SigningAlgorithm::Es256).unwrap();
    // the key is published before it signs
    let file = up.state.join(format!("token-keys/es256-{}.pem", now() + 9));
    std::fs::write(&file, next.to_pem().as_bytes()).unwrap();
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let started = Instant::now();
    let mut count = 0;
    let mut published_before = false;
    loop {
        let token = access_token_of(&exchange(&up, &subject, "invoices.shop", &[]));
        let kid = segment(&token, 0)["kid"].clone();
        verify(&up, &token, "invoices.shop");
        let exchange_request =
            up.forward_auth("GET", "invoices.shop.svc", "/invoices", &[("Authorization", &format!("Bearer {token}"))]);
        assert_eq!(exchange_request.status, 200, "{exchange_request:?}");
        count += 1;
        if kid == next.kid() {
            break;
        }
        published_before |= get(&up, "/.well-known/jwks.json").body.contains(next.kid());
        assert!(started.elapsed() < TIMEOUT, "the next key never signed");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert!(published_before && count > 10, "{count} tokens");
    verify(&up, &first, "invoices.shop");
    let old =
        up.forward_auth("GET", "invoices.shop.svc", "/invoices", &[("Authorization", &format!("Bearer {first}"))]);
    assert_eq!(old.status, 200, "tokens of the old key are still valid");
}
