//! The secrets that Envoy knows: the pod's certificate, and whom it trusts. Their names are those of SPIRE's agent.

use chrono::{DateTime, Utc};
use durward_controller_client::identity::{IdentityState, IssuedIdentity, trust_domain};
use durward_core::principal::is_trust_domain;
use durward_pki::authority::{CertificateAuthority, pem};
use durward_pki::bundle::BundleContents;
use durward_pki::serial::CertificateSerial;
use durward_runtime::random::random_bytes;
use envoy_types::pb::envoy::config::core::v3::{DataSource, TypedExtensionConfig, data_source::Specifier};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::spiffe_cert_validator_config::TrustDomain;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, Secret, SpiffeCertValidatorConfig, TlsCertificate, secret::Type,
};
use envoy_types::pb::google::protobuf::Any;
use prost::Message;
use rustls_pki_types::CertificateDer;
use std::collections::BTreeMap;
use std::sync::LazyLock;
use tonic::Status;

/// Name of the pod's certificate and key, which works without knowing its SPIFFE ID.
const CERTIFICATE_NAME: &str = "default";
/// Name of the roots of the pod's trust domain, which works without knowing its SPIFFE ID.
const ROOTS_NAME: &str = "ROOTCA";
/// Name of the bundles of all trust domains, for Envoy's SPIFFE validator.
const ALL_BUNDLES_NAME: &str = "ALL";
/// Type of the resources.
pub(crate) const SECRET_TYPE: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
/// Name of Envoy's validator that verifies an X.509-SVID by the roots of the trust domain in its SPIFFE ID.
const SPIFFE_VALIDATOR: &str = "envoy.tls.cert_validator.spiffe";
/// Type of its configuration.
const SPIFFE_VALIDATOR_TYPE: &str =
    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig";

/// A root that has issued no certificate, and whose key is discarded. Envoy accepts every certificate if it has no root,
/// so the secret of a trust domain without roots has this one.
static UNUSED_ROOT: LazyLock<Option<String>> = LazyLock::new(|| {
    let serial = random_bytes().map(CertificateSerial::unbound).ok()?;
    let authority = CertificateAuthority::create("unused.invalid", Utc::now(), serial);
    let authority = authority.inspect_err(
        |error| tracing::error!(%error, "can't create the unused root; trust domains without roots get no secret"),
    );
    Some(authority.ok()?.certificate_pem())
});

/// The secrets with these names, or the usual two if `names` is empty. Names without a secret at `now` are left out.
///
/// # Errors
/// When the controller refuses an identity to this pod, and none is there.
pub(crate) fn known_secrets(
    state: &IdentityState,
    names: &[String],
    now: DateTime<Utc>,
) -> Result<Vec<(String, Any)>, Status> {
    if let (None, Some(reason)) = (&state.issued, &state.refusal) {
        return Err(Status::permission_denied(reason.clone()));
    }
    let default_names = [CERTIFICATE_NAME.to_owned(), ROOTS_NAME.to_owned()];
    let names = if names.is_empty() { &default_names } else { names };
    let secret = |name: &String| {
        let secret = Secret { name: name.clone(), r#type: Some(content(state, name, now)?) };
        Some((name.clone(), Any { type_url: SECRET_TYPE.to_owned(), value: secret.encode_to_vec() }))
    };
    Ok(names.iter().filter_map(secret).collect())
}

fn content(state: &IdentityState, name: &str, now: DateTime<Utc>) -> Option<Type> {
    // bundles are given to pods with an identity; an expired one does not stop their updates, which may end a trust
    let (issued, bundles) = state.trusted_bundles()?;
    let own_domain = trust_domain(&issued.id);
    if name == CERTIFICATE_NAME || name == issued.id {
        return state.valid_identity(now).map(|(issued, ..)| certificate(issued));
    }
    let context = match name {
        ALL_BUNDLES_NAME => all_bundles(bundles)?,
        ROOTS_NAME => roots(bundles.get(own_domain))?,
        // Envoy keeps what it has until it gets something else, also from an earlier run of the agent
        _ if name.strip_prefix("spiffe://").is_some_and(is_trust_domain) => roots(bundles.get(name))?,
        _ => return None,
    };
    Some(Type::ValidationContext(context))
}

fn certificate(issued: &IssuedIdentity) -> Type {
    let chain = issued.chain.iter().map(|der| pem(&CertificateDer::from(der.as_slice()))).collect::<String>();
    Type::TlsCertificate(TlsCertificate {
        certificate_chain: Some(inline(chain)),
        private_key: Some(inline(issued.key_pem.to_string())),
        ..TlsCertificate::default()
    })
}

/// Trust in the roots of one trust domain; in the unused root, if it has none.
fn roots(bundle: Option<&BundleContents>) -> Option<CertificateValidationContext> {
    let roots = match root_pems(bundle) {
        roots if roots.is_empty() => UNUSED_ROOT.clone()?,
        roots => roots,
    };
    Some(CertificateValidationContext { trusted_ca: Some(inline(roots)), ..CertificateValidationContext::default() })
}

/// Trust in each trust domain by its own roots. One without roots is left out, so its certificates are refused.
fn all_bundles(bundles: &BTreeMap<String, BundleContents>) -> Option<CertificateValidationContext> {
    let domain = |(id, bundle): (&String, &BundleContents)| {
        let roots = root_pems(Some(bundle));
        let name = id.strip_prefix("spiffe://")?.to_owned();
        (!roots.is_empty()).then(|| TrustDomain { name, trust_bundle: Some(inline(roots)), ..TrustDomain::default() })
    };
    let trust_domains: Vec<_> = bundles.iter().filter_map(domain).collect();
    // Envoy refuses an empty list
    if trust_domains.is_empty() {
        return roots(None);
    }
    let config = SpiffeCertValidatorConfig { trust_domains, ..SpiffeCertValidatorConfig::default() };
    let typed_config = Any { type_url: SPIFFE_VALIDATOR_TYPE.to_owned(), value: config.encode_to_vec() };
    let validator = TypedExtensionConfig { name: SPIFFE_VALIDATOR.to_owned(), typed_config: Some(typed_config) };
    Some(CertificateValidationContext {
        custom_validator_config: Some(validator),
        ..CertificateValidationContext::default()
    })
}

fn root_pems(bundle: Option<&BundleContents>) -> String {
    bundle.into_iter().flat_map(|bundle| &bundle.roots).map(pem).collect()
}

fn inline(text: String) -> DataSource {
    DataSource { specifier: Some(Specifier::InlineString(text)), ..DataSource::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::TimeDelta;
    use std::sync::Arc;
    use zeroize::Zeroizing;

    const NOT_AFTER: DateTime<Utc> = DateTime::UNIX_EPOCH;

    fn root(byte: u8) -> String {
        pem(&CertificateDer::from(vec![byte]))
    }

    /// A pod of `cluster.local` that trusts `partner.example`, and `jwt.example` by its tokens alone.
    fn state() -> IdentityState {
        let issued = IssuedIdentity {
            id: "spiffe://cluster.local/ns/a/sa/b".to_owned(),
            chain: vec![vec![1]],
            not_after: NOT_AFTER,
            key: Zeroizing::new(vec![2]),
            key_pem: Zeroizing::new("key".to_owned()),
        };
        let bundle = |roots: &[u8]| BundleContents {
            roots: roots.iter().map(|byte| CertificateDer::from(vec![*byte])).collect(),
            ..BundleContents::default()
        };
        let bundles =
            [("cluster.local", bundle(&[3])), ("partner.example", bundle(&[4, 5])), ("jwt.example", bundle(&[]))];
        let bundles = bundles.map(|(name, bundle)| (format!("spiffe://{name}"), bundle));
        IdentityState { issued: Some(Arc::new(issued)), bundles: Arc::new(bundles.into()), refusal: None }
    }

    fn text(source: Option<DataSource>) -> String {
        match source.and_then(|source| source.specifier) {
            Some(Specifier::InlineString(text)) => text,
            _ => String::new(),
        }
    }

    fn secret(state: &IdentityState, name: &str, now: DateTime<Utc>) -> Option<Type> {
        let secrets = known_secrets(state, &[name.to_owned()], now).expect("the state has an identity");
        let [(found, any)] = secrets.as_slice() else { return None };
        assert_eq!((found.as_str(), any.type_url.as_str()), (name, SECRET_TYPE));
        Secret::decode(any.value.as_slice()).expect("the value is a Secret").r#type
    }

    /// The certificates in the secret, before the pod's certificate expires.
    fn certificates(state: &IdentityState, name: &str) -> Option<String> {
        Some(match secret(state, name, NOT_AFTER - TimeDelta::seconds(1))? {
            Type::ValidationContext(context) => text(context.trusted_ca),
            Type::TlsCertificate(certificate) => text(certificate.certificate_chain),
            other => panic!("{other:?}"),
        })
    }

    /// The trust domains of Envoy's SPIFFE validator with their roots.
    fn all(state: &IdentityState) -> Vec<(String, String)> {
        let Some(Type::ValidationContext(context)) = secret(state, "ALL", NOT_AFTER) else { panic!("no context") };
        assert_eq!(context.trusted_ca, None);
        let validator = context.custom_validator_config.expect("it has a validator");
        assert_eq!(validator.name, SPIFFE_VALIDATOR);
        let config = validator.typed_config.expect("it has a configuration");
        assert_eq!(config.type_url, SPIFFE_VALIDATOR_TYPE);
        let config = SpiffeCertValidatorConfig::decode(config.value.as_slice()).expect("its configuration");
        config.trust_domains.into_iter().map(|domain| (domain.name, text(domain.trust_bundle))).collect()
    }

    #[test]
    fn secrets_are_found_by_the_names_of_spire_and_by_spiffe_ids() {
        let unused = UNUSED_ROOT.clone().expect("it can be made");
        for (name, expected) in [
            ("default", Some(root(1))),
            ("spiffe://cluster.local/ns/a/sa/b", Some(root(1))),
            ("ROOTCA", Some(root(3))),
            ("spiffe://cluster.local", Some(root(3))),
            ("spiffe://partner.example", Some(root(4) + &root(5))),
            // without roots Envoy would accept everybody
            ("spiffe://jwt.example", Some(unused.clone())),
            ("spiffe://unknown.example", Some(unused)),
            ("spiffe://partner.example/x", None),
            ("spiffe://", None),
            ("other", None),
        ] {
            assert_eq!(certificates(&state(), name), expected, "{name}");
        }
    }

    #[test]
    fn all_has_each_trust_domain_with_its_own_roots() {
        let domain = |name: &str, roots| (name.to_owned(), roots);
        let mut state = state();
        let own = domain("cluster.local", root(3));
        assert_eq!(all(&state), [own.clone(), domain("partner.example", root(4) + &root(5))]);
        Arc::make_mut(&mut state.bundles).remove("spiffe://partner.example");
        assert_eq!(all(&state), [own], "federation has ended");
    }

    #[test]
    fn an_expired_certificate_is_not_served_and_does_not_stop_the_end_of_a_trust() {
        let mut state = state();
        assert_eq!(secret(&state, "default", NOT_AFTER), None);
        assert!(secret(&state, "ROOTCA", NOT_AFTER).is_some());
        let partner = || "spiffe://partner.example";
        let before = secret(&state, partner(), NOT_AFTER);
        Arc::make_mut(&mut state.bundles).remove(partner());
        let after = secret(&state, partner(), NOT_AFTER);
        assert!(after.is_some() && after != before, "{after:?}");
    }

    #[test]
    fn a_pod_without_an_identity_learns_why() {
        let names = ["default".to_owned()];
        let mut state = IdentityState { bundles: state().bundles, ..IdentityState::default() };
        assert_eq!(known_secrets(&state, &names, NOT_AFTER).expect("not refused"), []);
        state.refusal = Some("no policy".to_owned());
        let refused = known_secrets(&state, &names, NOT_AFTER).expect_err("refused");
        assert_eq!((refused.code(), refused.message()), (tonic::Code::PermissionDenied, "no policy"));
    }
}
