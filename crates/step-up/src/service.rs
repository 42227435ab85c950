//! The step-up service: verifies, enrols and removes people's second factors.

use crate::error::{StepUpError, StepUpUnavailable, WrongFactor};
use crate::pauses::AddressPauses;
use crate::person::{EnrolledFactors, PersonRecord, PresentedFactor};
use crate::recovery;
use crate::seal::{Sealer, SealingKeys};
use crate::settings::{EnrolmentPolicy, StepUpSettings, step_up_page};
use crate::store::FactorStore;
use crate::totp::TotpEnrolment;
use crate::webauthn::RelyingParty;
use arc_swap::ArcSwap;
use chrono::{DateTime, TimeDelta, Utc};
use durward_authn::Factor;
use durward_core::principal::PrincipalId;
use durward_engine::Engine;
use durward_engine::audit::second_factor::SecondFactorRecord;
use durward_engine::outcome::SecondFactorOutcome;
use durward_runtime::random::random_bytes;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use webauthn_rs::prelude::{CreationChallengeResponse, RequestChallengeResponse};

/// Age up to which a second factor allows changes of the factors themselves.
pub const FRESHNESS: TimeDelta = TimeDelta::minutes(5);

/// Name of the record of the shared keys in the store.
const KEYS: &str = "step-up-keys";
/// Name of the record of addresses in the store.
const ADDRESSES: &str = "step-up-addresses";

/// Verifies and changes people's second factors. Clones share their state.
#[derive(Clone)]
pub struct StepUpService {
    engine: Arc<Engine>,
    store: FactorStore,
    sealer: Arc<ArcSwap<Sealer>>,
    settings: Arc<StepUpSettings>,
    /// Absent if browsers don't offer WebAuthn at the page's URL.
    relying_party: Option<Arc<RelyingParty>>,
}

impl fmt::Debug for StepUpService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StepUpService").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// The holder of a first token, as the audit log and the limits see them.
#[derive(Debug, Clone, Copy)]
pub struct StepUpCaller<'c> {
    pub id: &'c PrincipalId,
    pub source: IpAddr,
    /// When the person last proved a second factor in this visit.
    pub verified_at: Option<DateTime<Utc>>,
}

impl StepUpService {
    /// Opens the state, and creates the first sealing key that all replicas share.
    ///
    /// # Errors
    /// When the state can't be used.
    pub async fn open(
        engine: Arc<Engine>,
        store: FactorStore,
        settings: StepUpSettings,
    ) -> Result<Self, StepUpUnavailable> {
        let sealer = Arc::new(ArcSwap::from_pointee(read_sealing_keys(&store).await?));
        engine.set_step_up_page(Some(step_up_page(&settings.url)));
        let relying_party = RelyingParty::new(&settings.url)
            .inspect_err(|error| tracing::warn!(%error, "passkeys are off; people enrol authenticator apps only"))
            .map(Arc::new)
            .ok();
        Ok(Self { engine, store, sealer, settings: Arc::new(settings), relying_party })
    }

    pub fn settings(&self) -> &StepUpSettings {
        &self.settings
    }

    /// Seals and opens with the keys that all replicas share.
    ///
    /// # Errors
    /// When the keys are due for a refresh and can't be read.
    pub async fn sealer(&self) -> Result<Arc<Sealer>, StepUpUnavailable> {
        let current = self.sealer.load_full();
        if !current.is_old() {
            return Ok(current);
        }
        let refreshed = Arc::new(read_sealing_keys(&self.store).await?);
        self.sealer.store(Arc::clone(&refreshed));
        Ok(refreshed)
    }

    /// Verifies a factor, and records the outcome. Each code and each response is accepted once.
    /// Failures are counted by person and by address.
    ///
    /// # Errors
    /// When the factor is not accepted, or the outcome can't be recorded.
    pub async fn verify(
        &self,
        caller: &StepUpCaller<'_>,
        presented: PresentedFactor<'_>,
    ) -> Result<Factor, StepUpError> {
        let verified = self.verify_unrecorded(caller, presented, Utc::now()).await;
        let (outcome, reason) = match &verified {
            Ok(_) => (SecondFactorOutcome::Proved, None),
            Err(error @ StepUpError::Paused { .. }) => (SecondFactorOutcome::Paused, Some(error.to_string())),
            Err(error) => (SecondFactorOutcome::Refused, Some(error.to_string())),
        };
        let factor = verified.as_ref().map_or(presented.factor(), |factor| *factor);
        self.record(caller, outcome, Some(factor), reason)?;
        verified
    }

    async fn verify_unrecorded(
        &self,
        caller: &StepUpCaller<'_>,
        presented: PresentedFactor<'_>,
        now: DateTime<Utc>,
    ) -> Result<Factor, StepUpError> {
        self.check_address(caller, now).await?;
        let verified =
            self.update_person(caller.id, |person| person.verify(presented, self.relying_party.as_deref(), now)).await;
        if let Err(StepUpError::WrongFactor(_) | StepUpError::Passkey(_)) = &verified {
            self.add_address_failure(caller, now).await?;
        }
        verified
    }

    /// Checks that attempts from the caller's address are not paused.
    async fn check_address(&self, caller: &StepUpCaller<'_>, now: DateTime<Utc>) -> Result<(), StepUpError> {
        let addresses: AddressPauses = self.store.read(ADDRESSES).await?.unwrap_or_default();
        addresses.check(caller.source, now).map_err(|wait| StepUpError::Paused { by: "address", wait })
    }

    /// Counts a failure of the caller's address.
    async fn add_address_failure(&self, caller: &StepUpCaller<'_>, now: DateTime<Utc>) -> Result<(), StepUpError> {
        let add = |addresses: &mut AddressPauses| addresses.add_failure(caller.source, now);
        Ok(self.store.change(ADDRESSES, None, AddressPauses::default, add).await?)
    }

    /// The factors that a person has.
    ///
    /// # Errors
    /// When the principal is not a user, or the record can't be read.
    pub async fn enrolled_factors(&self, id: &PrincipalId) -> Result<EnrolledFactors, StepUpError> {
        let person: Option<PersonRecord> = self.store.read(&record_name(id)?).await?;
        Ok(person.map(|person| person.enrolled_factors()).unwrap_or_default())
    }

    /// Creates a secret for a person's authenticator app, which only this visit sees. The app is enrolled once the
    /// visit confirms a code of it.
    ///
    /// # Errors
    /// When the caller may not change the factors, or the record can't be changed.
    pub async fn start_totp(&self, caller: &StepUpCaller<'_>, visit: &str) -> Result<TotpEnrolment, StepUpError> {
        let now = Utc::now();
        let enrolment = TotpEnrolment::new(caller.id, self.settings.host())?;
        self.change_factors(caller, |person| {
            person.start_totp(&enrolment, visit, now);
            Ok::<_, StepUpError>(())
        })
        .await?;
        Ok(enrolment)
    }

    /// The secret that this visit has yet to confirm.
    ///
    /// # Errors
    /// When the principal is not a user, or the record can't be read.
    pub async fn pending_totp(&self, id: &PrincipalId, visit: &str) -> Result<Option<TotpEnrolment>, StepUpError> {
        let person: Option<PersonRecord> = self.store.read(&record_name(id)?).await?;
        Ok(person.and_then(|person| person.pending_totp(self.settings.host(), visit, Utc::now())))
    }

    /// Enrols an authenticator app by its first code. Returns the recovery codes that come with a first factor.
    ///
    /// # Errors
    /// When the code is not accepted, the caller may not change the factors, or the outcome can't be recorded.
    pub async fn confirm_totp(
        &self,
        caller: &StepUpCaller<'_>,
        visit: &str,
        code: &str,
    ) -> Result<Option<Vec<String>>, StepUpError> {
        let now = Utc::now();
        let codes = recovery::new_codes()?;
        let confirm = |person: &mut PersonRecord| person.confirm_totp(code, visit, &codes, now);
        let confirmed = self.change_factors(caller, confirm).await;
        self.record_enrolment(caller, Factor::Totp, &confirmed)?;
        Ok(confirmed?.then_some(codes))
    }

    /// Replaces a person's recovery codes, and returns the new ones.
    ///
    /// # Errors
    /// When the caller may not change the factors, or the outcome can't be recorded.
    pub async fn new_recovery_codes(&self, caller: &StepUpCaller<'_>) -> Result<Vec<String>, StepUpError> {
        let codes = recovery::new_codes()?;
        self.change_factors(caller, |person| {
            person.replace_recovery_codes(&codes);
            Ok::<_, StepUpError>(())
        })
        .await?;
        self.record(caller, SecondFactorOutcome::Enrolled, Some(Factor::RecoveryCode), None)?;
        Ok(codes)
    }

    /// Removes a person's authenticator app.
    ///
    /// # Errors
    /// When there is none, the caller may not change the factors, or the outcome can't be recorded.
    pub async fn remove_totp(&self, caller: &StepUpCaller<'_>) -> Result<(), StepUpError> {
        self.change_factors(caller, PersonRecord::remove_totp).await?;
        self.record(caller, SecondFactorOutcome::Removed, Some(Factor::Totp), None)
    }

    fn relying_party(&self) -> Result<&RelyingParty, StepUpError> {
        let unavailable = StepUpError::Forbidden("browsers have no keys at the URL of this page");
        self.relying_party.as_deref().ok_or(unavailable)
    }

    /// Starts an authentication by any of a person's keys; the browser gets the options.
    ///
    /// A thief of a first token could start ceremonies without end, and so end each one before the person answers.
    /// A start that ends another ceremony counts as a failure of the address, not of the person: that would lock the
    /// person out.
    ///
    /// # Errors
    /// When the person has no key, attempts are paused, or the record can't be changed.
    pub async fn start_key_authentication(
        &self,
        caller: &StepUpCaller<'_>,
    ) -> Result<RequestChallengeResponse, StepUpError> {
        let party = self.relying_party()?;
        let now = Utc::now();
        if let Err(paused) = self.check_address(caller, now).await {
            self.record(caller, SecondFactorOutcome::Paused, Some(Factor::Passkey), Some(paused.to_string()))?;
            return Err(paused);
        }
        let start = |person: &mut PersonRecord| {
            let ends_another = person.keys.awaits_response(now);
            Ok((party.start_authentication(&mut person.keys, now)?, ends_another))
        };
        let (options, ends_another) = self.update_person(caller.id, start).await?;
        if ends_another {
            self.add_address_failure(caller, now).await?;
        }
        Ok(options)
    }

    /// Starts the registration of a key; the browser gets the options. The key is enrolled once its response is
    /// confirmed.
    ///
    /// # Errors
    /// When the caller may not change the factors, there are too many keys, or the record can't be changed.
    pub async fn start_key_registration(
        &self,
        caller: &StepUpCaller<'_>,
    ) -> Result<CreationChallengeResponse, StepUpError> {
        let party = self.relying_party()?;
        let user = caller.id.to_string();
        let now = Utc::now();
        self.change_factors(caller, |person| party.start_registration(&mut person.keys, &user, now)).await
    }

    /// Enrols a new key under a name. Returns the recovery codes that come with a first factor.
    ///
    /// # Errors
    /// When the response is not accepted, the caller may not change the factors, or the outcome can't be recorded.
    pub async fn confirm_key(
        &self,
        caller: &StepUpCaller<'_>,
        name: &str,
        response: &str,
    ) -> Result<Option<Vec<String>>, StepUpError> {
        let party = self.relying_party()?;
        let now = Utc::now();
        let codes = recovery::new_codes()?;
        let confirm = |person: &mut PersonRecord| person.confirm_key(party, name, response, &codes, now);
        let confirmed = self.change_factors(caller, confirm).await;
        self.record_enrolment(caller, Factor::Passkey, &confirmed)?;
        Ok(confirmed?.then_some(codes))
    }

    /// Removes one of a person's keys.
    ///
    /// # Errors
    /// When there is no such key, the caller may not change the factors, or the outcome can't be recorded.
    pub async fn remove_key(&self, caller: &StepUpCaller<'_>, id: &str) -> Result<(), StepUpError> {
        self.change_factors(caller, |person| person.remove_key(id)).await?;
        self.record(caller, SecondFactorOutcome::Removed, Some(Factor::Passkey), None)
    }

    /// Changes a person's factors, if the caller may.
    async fn change_factors<R, E: Into<StepUpError>>(
        &self,
        caller: &StepUpCaller<'_>,
        change: impl Fn(&mut PersonRecord) -> Result<R, E>,
    ) -> Result<R, StepUpError> {
        let now = Utc::now();
        let fresh = caller.verified_at.is_some_and(|at| now - at <= FRESHNESS);
        let closed = self.settings.enrolment == EnrolmentPolicy::Closed;
        let change = |person: &mut PersonRecord| match person.has_any_factor() {
            true if !fresh => Err(StepUpError::Forbidden("a change of factors needs a fresh second factor")),
            false if closed => Err(StepUpError::Forbidden("the enrolment of first factors is closed")),
            _ => change(person).map_err(Into::into),
        };
        self.update_person(caller.id, change).await
    }

    /// Changes a person's record.
    async fn update_person<R>(
        &self,
        id: &PrincipalId,
        change: impl Fn(&mut PersonRecord) -> Result<R, StepUpError>,
    ) -> Result<R, StepUpError> {
        let change = |person: &mut PersonRecord| {
            // a mismatch means that one person's record was moved to the name of another
            if person.belongs_to(id) { change(person) } else { Err(WrongFactor::OtherPerson.into()) }
        };
        self.store.change(&record_name(id)?, Some(id), || PersonRecord::new(id), change).await?
    }

    fn record_enrolment(
        &self,
        caller: &StepUpCaller<'_>,
        factor: Factor,
        confirmed: &Result<bool, StepUpError>,
    ) -> Result<(), StepUpError> {
        let outcome = if confirmed.is_ok() { SecondFactorOutcome::Enrolled } else { SecondFactorOutcome::Refused };
        self.record(caller, outcome, Some(factor), confirmed.as_ref().err().map(ToString::to_string))
    }

    /// Records an event. Fails if the audit log has to be complete and does not accept the record.
    fn record(
        &self,
        caller: &StepUpCaller<'_>,
        outcome: SecondFactorOutcome,
        factor: Option<Factor>,
        reason: Option<String>,
    ) -> Result<(), StepUpError> {
        let record = SecondFactorRecord::new(outcome, caller.id, caller.source, factor, reason);
        if self.engine.record(&record) { Ok(()) } else { Err(StepUpUnavailable::AuditLog.into()) }
    }
}

/// Reads the shared keys, and adds one if it is due.
async fn read_sealing_keys(store: &FactorStore) -> Result<Sealer, StepUpUnavailable> {
    let new_key = random_bytes::<32>()?;
    let now = Utc::now();
    let rotate = |keys: &mut SealingKeys| {
        keys.rotate(&new_key, now);
        keys.clone()
    };
    let keys = store.change(KEYS, None, SealingKeys::default, rotate).await?;
    Ok(Sealer::new(&keys, now)?)
}

/// The name of a person's record: a hash, as a subject may hold characters that file and Secret names can't.
fn record_name(id: &PrincipalId) -> Result<String, StepUpError> {
    if !matches!(id, PrincipalId::User { .. }) {
        return Err(StepUpError::NotAUser);
    }
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, id.to_string().as_bytes());
    // 128 bits rule out accidental collisions
    let name = hex::encode(digest.as_ref().get(..16).unwrap_or_default());
    Ok(format!("second-factors-{name}"))
}
