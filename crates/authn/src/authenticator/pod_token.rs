//! What the keys that are known here say about the token of a pod, before the API server is asked about it.

use super::Authenticator;
use crate::bearer::Bearer;
use crate::cause::Cause;
use crate::credentials::{AuthenticationFailure, Credentials};
use chrono::{DateTime, Utc};
use http::HeaderMap;

/// The result of a check of a token by the keys that are known here.
#[derive(Debug)]
pub enum LocalVerdict {
    /// It is a valid token of a pod, for this audience.
    Valid,
    /// It can't be valid.
    Invalid(AuthenticationFailure),
    /// Its keys are not known here, so only the API server can tell.
    Unknown,
}

impl Authenticator {
    /// Checks the token of a pod of this cluster: signature, times, audience, and the pod that it is bound to.
    pub async fn check_pod_token(&self, token: &str, audience: &str, now: DateTime<Utc>) -> LocalVerdict {
        let domain = self.domain.load_full();
        let Some(workloads) = &domain.workloads else { return LocalVerdict::Unknown };
        let headers = HeaderMap::new();
        let credentials = Credentials { headers: &headers, certificate: None, client_cert_header_trusted: false };
        match workloads.authenticate(&Bearer::new(token), &credentials, audience, now).await {
            Ok(caller) if caller.binding.as_ref().is_some_and(|binding| binding.pod.is_some()) => LocalVerdict::Valid,
            Ok(_) => LocalVerdict::Invalid(Cause::Subject("bound to no pod").into()),
            // the API server may accept issuers and keys that are new here
            Err(Cause::Issuer | Cause::UnknownKey | Cause::NoKeys(_) | Cause::StaleKeys) => LocalVerdict::Unknown,
            Err(cause) => LocalVerdict::Invalid(cause.into()),
        }
    }
}
