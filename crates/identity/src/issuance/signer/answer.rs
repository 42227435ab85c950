//! The answer to one certificate request: check the pod, look up its entitlement, issue, record, write the status.

use crate::ca::authorities::Authorities;
use crate::certificates_api::PodCertificateRequest;
use crate::issuance::issue::{CertificateDenial, IssuedCertificate, NOT_AS_STATED, issue};
use crate::issuance::not_entitled_message;
use crate::issuance::signer::attestation::{Attestation, PodAttestor};
use crate::issuance::signer::queue::PendingCertificateRequest;
use chrono::{DateTime, Utc};
use durward_core::digest::Digest;
use durward_core::pods::{CertificateEntitlement, NotEntitled};
use durward_core::principal::PrincipalId;
use durward_engine::Engine;
use durward_engine::audit::issuance::{CredentialKind, IssuanceRecord, PodPolicy};
use durward_engine::outcome::{IssuanceOutcome, IssuedBy};
use durward_kubernetes::events::EventRecorder;
use durward_kubernetes::requests::{REQUEST_TIMEOUT, RequestError};
use durward_runtime::random::{RandomnessUnavailable, random_bytes};
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use kube::core::ApiResource;
use kube::runtime::events::{Event, EventType};
use serde_json::json;
use std::sync::Arc;
use thiserror::Error;
use tokio::time::timeout;

/// The outcome of an answer.
pub(super) enum SigningOutcome {
    /// The request is issued or denied.
    Settled,
    /// The policies of this revision do not entitle the pod. The request stays pending: other policies may.
    NotEntitled(Digest, NotEntitled),
}

/// A request can't be answered now.
#[derive(Debug, Error)]
pub(super) enum SigningError {
    /// The API server did not read or write an object.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// No serial number can be generated.
    #[error(transparent)]
    Randomness(#[from] RandomnessUnavailable),
    /// The audit log requires each issuance to be recorded.
    #[error("the issuance can't be recorded")]
    NotRecorded,
}

/// Answers certificate requests, one at a time.
pub(super) struct RequestSigner {
    pub(super) client: Client,
    pub(super) engine: Arc<Engine>,
    pub(super) authorities: Authorities,
    pub(super) resource: ApiResource,
    pub(super) trust_domain: Arc<str>,
    pub(super) events: EventRecorder,
    pub(super) attestor: PodAttestor,
}

impl RequestSigner {
    /// Answers a request within [`REQUEST_TIMEOUT`]. `reported` is the reason that was last reported to the owner of
    /// the pod.
    pub(super) async fn answer(
        &self,
        request: &PendingCertificateRequest,
        reported: Option<&NotEntitled>,
    ) -> Result<SigningOutcome, SigningError> {
        let answer = timeout(REQUEST_TIMEOUT, self.answer_untimed(request, reported)).await;
        answer.unwrap_or_else(|_| Err(RequestError::Timeout(REQUEST_TIMEOUT).into()))
    }

    async fn answer_untimed(
        &self,
        request: &PendingCertificateRequest,
        reported: Option<&NotEntitled>,
    ) -> Result<SigningOutcome, SigningError> {
        let namespace = request.namespace();
        let snapshot = self.engine.snapshot();
        let labels = match self.attestor.attest(namespace, &request.spec).await? {
            Attestation::Attested { labels } => labels,
            Attestation::Refused(refusal) => {
                let denial = CertificateDenial { reason: NOT_AS_STATED, message: refusal.to_string() };
                return self.deny(request, denial, self.record_of(request, IssuanceOutcome::Denied)).await;
            }
        };
        let id = PrincipalId::workload(&self.trust_domain, namespace, &request.spec.service_account_name);
        let entitlement = id.map_err(|_| NotEntitled::NoPolicy).and_then(|id| {
            let entitlement = snapshot.certificate_entitlement(&id, namespace, &labels)?;
            Ok((id, entitlement))
        });
        match entitlement {
            Ok((id, entitlement)) => self.issue(request, &id, &entitlement).await,
            Err(reason) => {
                if reported != Some(&reason) {
                    self.report_not_entitled(request, &reason).await;
                }
                Ok(SigningOutcome::NotEntitled(snapshot.revision(), reason))
            }
        }
    }

    async fn issue(
        &self,
        request: &PendingCertificateRequest,
        id: &PrincipalId,
        entitlement: &CertificateEntitlement,
    ) -> Result<SigningOutcome, SigningError> {
        let random = random_bytes()?;
        let now = Utc::now();
        match issue(&self.authorities.active(), &request.spec, id, entitlement, now, random) {
            Ok(certificate) => self.grant(request, id, entitlement, &certificate, now).await,
            Err(denial) => {
                let record = self.record_of(request, IssuanceOutcome::Denied);
                self.deny(request, denial, IssuanceRecord { principal: Some(id.to_string()), ..record }).await
            }
        }
    }

    /// Records the certificate and writes it to the request. A certificate that can't be recorded is not handed out.
    async fn grant(
        &self,
        request: &PendingCertificateRequest,
        id: &PrincipalId,
        entitlement: &CertificateEntitlement,
        certificate: &IssuedCertificate,
        now: DateTime<Utc>,
    ) -> Result<SigningOutcome, SigningError> {
        let record = self.record_of(request, IssuanceOutcome::Issued);
        let lifetime = record.seconds_until(certificate.not_after);
        let record = IssuanceRecord {
            principal: Some(id.to_string()),
            serial: Some(certificate.serial.to_string()),
            lifetime: Some(lifetime),
            policies: PodPolicy::all(entitlement),
            ..record
        };
        if !self.engine.record(&record) {
            return Err(SigningError::NotRecorded);
        }
        let message = format!("issued to {id} by {}", entitlement.policy_names());
        self.write_status(request, certificate.status(now, &message)).await?;
        Ok(SigningOutcome::Settled)
    }

    /// Denies a request, which is final, and records it.
    async fn deny(
        &self,
        request: &PendingCertificateRequest,
        denial: CertificateDenial,
        record: IssuanceRecord<'_>,
    ) -> Result<SigningOutcome, SigningError> {
        self.write_status(request, denial.status(Utc::now())).await?;
        _ = self.engine.record(&IssuanceRecord { reason: Some(denial.message.as_str().into()), ..record });
        Ok(SigningOutcome::Settled)
    }

    /// Writes the status of a request that did not change meanwhile.
    ///
    /// The resource version detects a concurrent answer of another replica. After such a conflict the request is tried
    /// again, unless the watch reports that it is settled.
    async fn write_status(
        &self,
        request: &PendingCertificateRequest,
        status: serde_json::Value,
    ) -> Result<(), RequestError> {
        let requests: Api<PodCertificateRequest> =
            Api::namespaced_with(self.client.clone(), request.namespace(), &self.resource);
        let patch = json!({"metadata": {"resourceVersion": request.resource_version}, "status": status});
        match requests.patch_status(request.name(), &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The audit record of a request.
    fn record_of<'i>(&self, request: &'i PendingCertificateRequest, outcome: IssuanceOutcome) -> IssuanceRecord<'i> {
        let revision = self.engine.snapshot().revision().to_string();
        let kind = CredentialKind::Certificate;
        IssuanceRecord {
            namespace: request.namespace(),
            service_account: &request.spec.service_account_name,
            pod: &request.spec.pod_name,
            pod_uid: &request.spec.pod_uid,
            ..IssuanceRecord::new(IssuedBy::Signer, kind, outcome, revision, request.created_at)
        }
    }

    /// Reports to the owner of the pod why its request waits, and records the refusal if a policy denies the pod.
    async fn report_not_entitled(&self, request: &PendingCertificateRequest, reason: &NotEntitled) {
        let event_reason = match reason {
            NotEntitled::NoPolicy => "NoPolicy",
            NotEntitled::Denied(_) => {
                let record = self.record_of(request, IssuanceOutcome::Refused);
                _ = self.engine.record(&IssuanceRecord { reason: Some(reason.to_string().into()), ..record });
                "Denied"
            }
        };
        let note = format!("{}; the pod waits for its certificate", not_entitled_message(reason, request.namespace()));
        let event = Event {
            type_: EventType::Warning,
            reason: event_reason.to_owned(),
            note: Some(note),
            action: "Issue".to_owned(),
            secondary: None,
        };
        self.events.publish(&event, &request.pod()).await;
    }
}
