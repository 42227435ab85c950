//! Step-up: a person who has come in by a first token shows a second factor, and gets a short token that says so.
//!
//! What is known of a person is one [`Person`](person::Person) in a [`Store`] that all replicas share; whatever changes it
//! is one compare-and-swap, so that no code counts twice and nobody guesses at several replicas at once.
//! A factor is one kind of [`Shown`], and what a person has of it: [`totp`], [`recovery`], [`webauthn`].

mod pauses;
mod person;
mod recovery;
mod seal;
mod store;
mod totp;
mod webauthn;

pub use person::{Known, Shown};
pub use seal::Sealer;
pub use store::Store;
pub use totp::Enrolment;
pub use webauthn::{MAX_NAME, Refusal as KeyRefused};

use durward_authn::Factor;
use durward_engine::Engine;
use durward_engine::audit::second_factor::{Event, SecondFactor};

use arc_swap::ArcSwap;
use chrono::{DateTime, TimeDelta, Utc};
use durward_core::principal::PrincipalId;
use durward_runtime::Failure;
use durward_runtime::random::random;
use pauses::Addresses;
use person::{Person, Wrong};
use seal::Ring;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use store::StoreError;
use thiserror::Error;
use url::Url;
use webauthn::RelyingParty;
use webauthn_rs::prelude::{CreationChallengeResponse, RequestChallengeResponse};

/// How long a second factor is fresh enough to change the factors themselves.
pub const FRESH: TimeDelta = TimeDelta::minutes(5);

/// Where the page is, at its origin.
pub const PATH: &str = "/step-up";
/// Name of the shared keys in the store.
const KEYS: &str = "step-up-keys";
/// Name of the record of addresses in the store.
const ADDRESSES: &str = "step-up-addresses";

/// Who may enrol a first factor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum EnrolmentPolicy {
    /// Whoever has the first token of a person who has no factor yet: as good as the first token is at that moment.
    #[default]
    FirstUse,
    /// Nobody: people keep the factors that they have.
    Closed,
}

/// People's second factors, as the command line has them.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// Where people reach the step-up page: the token listener, as browsers see it [default: the issuer]
    #[arg(long, value_name = "URL")]
    pub step_up_url: Option<Url>,
    /// Who may enrol a first second factor
    #[arg(long, value_enum, default_value_t)]
    pub(crate) step_up_enrolment: EnrolmentPolicy,
    /// An origin to which the step-up page may give a new token; may be repeated
    #[arg(long, value_name = "ORIGIN")]
    pub(crate) step_up_return_to: Vec<Url>,
}

impl Arguments {
    /// With a URL where none is named.
    ///
    /// # Errors
    /// When `otherwise` is no URL.
    pub fn settings(self, otherwise: &str) -> Result<Settings, Failure> {
        let url = match self.step_up_url {
            Some(url) => url,
            None => Url::parse(otherwise).map_err(|error| format!("`{otherwise}` is no URL: {error}"))?,
        };
        Ok(Settings { url, enrolment: self.step_up_enrolment, return_to: self.step_up_return_to })
    }
}

/// What the step-up service can be told.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where people reach the step-up page; its origin is the one that counts, and its host the relying party of WebAuthn.
    pub url: Url,
    /// Who may enrol a first factor.
    pub enrolment: EnrolmentPolicy,
    /// Origins to which a new token may be given back, and from which a first token may come.
    pub return_to: Vec<Url>,
}

/// The page of a token listener.
pub fn page_of(listener: &Url) -> Url {
    let mut page = listener.clone();
    page.set_path(PATH);
    page.set_query(None);
    page.set_fragment(None);
    page
}

impl Settings {
    /// The name under which authenticator apps keep the secret.
    pub fn host(&self) -> &str {
        self.url.host_str().unwrap_or("durward")
    }
}

/// Knows people's second factors.
#[derive(Clone)]
pub struct StepUp {
    engine: Arc<Engine>,
    store: Store,
    sealer: Arc<ArcSwap<Sealer>>,
    settings: Arc<Settings>,
    /// Us for WebAuthn, where the page's URL lets browsers have it.
    party: Option<Arc<RelyingParty>>,
}

impl fmt::Debug for StepUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StepUp").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// Why a factor does not count, or can't be changed. What it displays is for the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refused {
    /// Only people have second factors.
    #[error("only a user of an IdentityProvider can step up")]
    NoPerson,
    /// What was shown is not it.
    #[error("{0}")]
    Wrong(#[from] Wrong),
    /// What a key has answered is not it.
    #[error("{0}")]
    Key(#[from] KeyRefused),
    /// Too many were wrong of late.
    #[error("too many failures, by the {by}; the next is heard in {} s", wait.num_seconds())]
    Paused { by: &'static str, wait: TimeDelta },
    /// Factors may not be changed by whoever asks.
    #[error("{0}")]
    Forbidden(&'static str),
    /// The state can't be used.
    #[error("{0}")]
    Unavailable(String),
}

impl From<StoreError> for Refused {
    fn from(error: StoreError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

/// Somebody with a first token, and whatever the log is to say of them.
#[derive(Debug, Clone, Copy)]
pub struct Visitor<'v> {
    pub id: &'v PrincipalId,
    pub source: IpAddr,
    /// When the person last showed a second factor here, if that is known.
    pub proved_at: Option<DateTime<Utc>>,
}

impl StepUp {
    /// Opens the state; the first key that all replicas share is made once.
    ///
    /// # Errors
    /// When the state can't be used.
    pub async fn open(engine: Arc<Engine>, store: Store, settings: Settings) -> Result<Self, Failure> {
        let sealer = Arc::new(ArcSwap::from_pointee(read_keys(&store).await?));
        engine.step_up_at(Some(page_of(&settings.url)));
        let party = RelyingParty::new(&settings.url).map(Arc::new);
        let party = party.inspect_err(|error| tracing::warn!(%error, "people have no keys here")).ok();
        Ok(Self { engine, store, sealer, settings: Arc::new(settings), party })
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What seals and opens, by keys that every replica has.
    pub async fn sealer(&self) -> Result<Arc<Sealer>, Refused> {
        let known = self.sealer.load_full();
        if !known.is_old() {
            return Ok(known);
        }
        let read = read_keys(&self.store).await.map_err(|error| Refused::Unavailable(error.to_string()))?;
        let read = Arc::new(read);
        self.sealer.store(Arc::clone(&read));
        Ok(read)
    }

    /// Whether what a person shows counts: then it counts once. Failures are remembered, by person and by address.
    pub async fn prove(&self, visitor: &Visitor<'_>, shown: Shown<'_>) -> Result<Factor, Refused> {
        let now = Utc::now();
        let proved = self.heard(visitor, shown, now).await;
        let (event, reason) = match &proved {
            Ok(_) => (Event::Proved, None),
            Err(why @ Refused::Paused { .. }) => (Event::Paused, Some(why.to_string())),
            Err(why) => (Event::Refused, Some(why.to_string())),
        };
        let factor = proved.as_ref().map_or(shown.factor(), |factor| *factor);
        self.recorded(visitor, event, Some(factor), reason)?;
        proved
    }

    async fn heard(&self, visitor: &Visitor<'_>, shown: Shown<'_>, now: DateTime<Utc>) -> Result<Factor, Refused> {
        self.may_try(visitor, now).await?;
        let proved = self.of_person(visitor.id, |person| person.prove(shown, self.party.as_deref(), now)).await;
        if let Err(Refused::Wrong(_) | Refused::Key(_)) = &proved {
            self.failed(visitor, now).await?;
        }
        proved
    }

    /// Whether anything is heard from where a visitor is.
    async fn may_try(&self, visitor: &Visitor<'_>, now: DateTime<Utc>) -> Result<(), Refused> {
        let addresses: Addresses = self.store.read(ADDRESSES).await?.unwrap_or_default();
        addresses.may_try(visitor.source, now).map_err(|wait| Refused::Paused { by: "address", wait })
    }

    /// Remembers a failure by where the visitor is.
    async fn failed(&self, visitor: &Visitor<'_>, now: DateTime<Utc>) -> Result<(), Refused> {
        let failed = |addresses: &mut Addresses| addresses.failed(visitor.source, now);
        Ok(self.store.change(ADDRESSES, None, Addresses::default, failed).await?)
    }

    /// The factors that a person has.
    pub async fn known(&self, id: &PrincipalId) -> Result<Known, Refused> {
        let person: Option<Person> = self.store.read(&person_name(id)?).await?;
        Ok(person.map(|person| person.known()).unwrap_or_default())
    }

    /// A secret for a person's authenticator app, to be shown in this visit. It counts once a code confirms it there.
    pub async fn begin_totp(&self, visitor: &Visitor<'_>, visit: &str) -> Result<Enrolment, Refused> {
        let now = Utc::now();
        let enrolment = Enrolment::new(visitor.id, self.settings.host()).map_err(Refused::Unavailable)?;
        self.changed(visitor, |person| {
            person.begin_totp(&enrolment, visit, now);
            Ok::<_, Refused>(())
        })
        .await?;
        Ok(enrolment)
    }

    /// The secret that waits for its first code.
    pub async fn waiting_totp(&self, id: &PrincipalId, visit: &str) -> Result<Option<Enrolment>, Refused> {
        let person: Option<Person> = self.store.read(&person_name(id)?).await?;
        Ok(person.and_then(|person| person.waiting_totp(self.settings.host(), visit, Utc::now())))
    }

    /// Takes the first code of an authenticator app. Recovery codes come with a person's first factor.
    pub async fn confirm_totp(
        &self,
        visitor: &Visitor<'_>,
        visit: &str,
        code: &str,
    ) -> Result<Option<Vec<String>>, Refused> {
        let (now, codes) = (Utc::now(), recovery::codes().map_err(Refused::Unavailable)?);
        let confirmed = self.changed(visitor, |person| person.confirm_totp((code, visit), &codes, now)).await;
        let reason = confirmed.as_ref().err().map(ToString::to_string);
        let event = if confirmed.is_ok() { Event::Enrolled } else { Event::Refused };
        self.recorded(visitor, event, Some(Factor::Totp), reason)?;
        Ok(confirmed?.then_some(codes))
    }

    /// New recovery codes, in place of the old ones.
    pub async fn new_recovery_codes(&self, visitor: &Visitor<'_>) -> Result<Vec<String>, Refused> {
        let codes = recovery::codes().map_err(Refused::Unavailable)?;
        self.changed(visitor, |person| person.replace_recovery_codes(&codes)).await?;
        self.recorded(visitor, Event::Enrolled, Some(Factor::RecoveryCode), None)?;
        Ok(codes)
    }

    /// Removes a person's authenticator app.
    pub async fn remove_totp(&self, visitor: &Visitor<'_>) -> Result<(), Refused> {
        self.changed(visitor, Person::remove_totp).await?;
        self.recorded(visitor, Event::Removed, Some(Factor::Totp), None)
    }

    fn party(&self) -> Result<&RelyingParty, Refused> {
        self.party.as_deref().ok_or(Refused::Forbidden("browsers have no keys at the URL of this page"))
    }

    /// What a browser is to ask any of a person's keys.
    ///
    /// Whoever has somebody's first token could ask without end, and so end each challenge before its person has answered.
    /// One that ends another counts as a failure of the address, not of the person: that would shut the person out.
    pub async fn ask_key(&self, visitor: &Visitor<'_>) -> Result<RequestChallengeResponse, Refused> {
        let (party, now) = (self.party()?, Utc::now());
        if let Err(paused) = self.may_try(visitor, now).await {
            self.recorded(visitor, Event::Paused, Some(Factor::Passkey), Some(paused.to_string()))?;
            return Err(paused);
        }
        let ask = |person: &mut Person| {
            let ends_another = person.keys.wait_for_answer(now);
            Ok((party.start_authentication(&mut person.keys, now)?, ends_another))
        };
        let (options, ends_another) = self.of_person(visitor.id, ask).await?;
        if ends_another {
            self.failed(visitor, now).await?;
        }
        Ok(options)
    }

    /// What a browser needs to make a key for a person. It counts once its answer confirms it.
    pub async fn begin_key(&self, visitor: &Visitor<'_>) -> Result<CreationChallengeResponse, Refused> {
        let (party, user, now) = (self.party()?, visitor.id.to_string(), Utc::now());
        self.changed(visitor, |person| party.start_registration(&mut person.keys, &user, now)).await
    }

    /// Takes the key that a browser has made, under a name. Recovery codes come with a person's first factor.
    pub async fn confirm_key(
        &self,
        visitor: &Visitor<'_>,
        name: &str,
        response: &str,
    ) -> Result<Option<Vec<String>>, Refused> {
        let (party, now) = (self.party()?, Utc::now());
        let codes = recovery::codes().map_err(Refused::Unavailable)?;
        let confirm = |person: &mut Person| person.confirm_key(party, (name, response), &codes, now);
        let confirmed = self.changed(visitor, confirm).await;
        let reason = confirmed.as_ref().err().map(ToString::to_string);
        let event = if confirmed.is_ok() { Event::Enrolled } else { Event::Refused };
        self.recorded(visitor, event, Some(Factor::Passkey), reason)?;
        Ok(confirmed?.then_some(codes))
    }

    /// Removes one of a person's keys.
    pub async fn remove_key(&self, visitor: &Visitor<'_>, id: &str) -> Result<(), Refused> {
        self.changed(visitor, |person| person.remove_key(id)).await?;
        self.recorded(visitor, Event::Removed, Some(Factor::Passkey), None)
    }

    /// Changes a person's factors, if the visitor may.
    async fn changed<R, E: Into<Refused>>(
        &self,
        visitor: &Visitor<'_>,
        change: impl Fn(&mut Person) -> Result<R, E>,
    ) -> Result<R, Refused> {
        let now = Utc::now();
        let fresh = visitor.proved_at.is_some_and(|at| now - at <= FRESH);
        let closed = self.settings.enrolment == EnrolmentPolicy::Closed;
        let change = |person: &mut Person| match person.has_any() {
            true if !fresh => Err(Refused::Forbidden("a change of factors needs a fresh second factor")),
            false if closed => Err(Refused::Forbidden("nobody enrols a first factor here")),
            _ => change(person).map_err(Into::into),
        };
        self.of_person(visitor.id, change).await
    }

    /// Changes what is known of a person.
    async fn of_person<R>(
        &self,
        id: &PrincipalId,
        change: impl Fn(&mut Person) -> Result<R, Refused>,
    ) -> Result<R, Refused> {
        let change = |person: &mut Person| {
            // two names can share a hash only if somebody has put one person's record in the place of another's
            if person.is_of(id) { change(person) } else { Err(Refused::Wrong(Wrong::OtherPerson)) }
        };
        self.store.change(&person_name(id)?, Some(id), || Person::new(id), change).await?
    }

    /// What can't be recorded does not happen, where the log has to be whole.
    fn recorded(
        &self,
        visitor: &Visitor<'_>,
        event: Event,
        factor: Option<Factor>,
        reason: Option<String>,
    ) -> Result<(), Refused> {
        let record = SecondFactor::new(event, visitor.id, visitor.source, factor, reason);
        if self.engine.second_factor(&record) {
            return Ok(());
        }
        Err(Refused::Unavailable("it can't be recorded".to_owned()))
    }
}

/// Reads the shared keys, and adds one if it is due.
async fn read_keys(store: &Store) -> Result<Sealer, Failure> {
    let (fresh, now) = (random::<32>()?, Utc::now());
    let turn = |ring: &mut Ring| {
        ring.turn(&fresh, now);
        ring.clone()
    };
    Ok(Sealer::new(&store.change(KEYS, None, Ring::default, turn).await?, now)?)
}

/// The name of a person's record: no name of a file or Secret can hold what a subject may.
fn person_name(id: &PrincipalId) -> Result<String, Refused> {
    if !matches!(id, PrincipalId::User { .. }) {
        return Err(Refused::NoPerson);
    }
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, id.to_string().as_bytes());
    // half of it is enough that no two names share one by accident
    let name = hex::encode(digest.as_ref().get(..16).unwrap_or_default());
    Ok(format!("second-factors-{name}"))
}
