//! Passkeys and hardware keys as a second factor (Web Authentication, Level 3): what one person has registered, and the
//! ceremony that is under way. All of it is a value of the person's record; nothing is kept here.
//!
//! A ceremony is in the record from its start to its end, one at a time, and its end takes it out whatever comes of it.
//! As records are replaced only if unchanged, a response counts once, whichever replica reads it.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, TimeDelta, Utc};
use durward_authn::Factor;
use durward_runtime::random::{NoRandomness, random};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use url::Url;
use webauthn_rs::prelude::{
    CreationChallengeResponse, Passkey, PasskeyAuthentication, PasskeyRegistration, PublicKeyCredential,
    RegisterPublicKeyCredential, RequestChallengeResponse, Uuid, WebauthnError,
};
use webauthn_rs::{DEFAULT_AUTHENTICATOR_TIMEOUT, Webauthn, WebauthnBuilder};

/// Most keys of a person.
pub const MAX_KEYS: usize = 16;
/// Longest name of a key, in characters.
pub const MAX_NAME: usize = 64;
/// Largest response that is read, in bytes; browsers' have one or two thousand.
pub(crate) const MAX_RESPONSE: usize = 8 * 1024;
/// Most that a record keeps of a key, in bytes: the longest ID (1023 bytes, section 6.5.1) in base64, and as much again for
/// the rest. A record has sixteen of them, twice during a ceremony.
const MAX_KEY: usize = 2 * 1024;
/// How long a ceremony may take, which is what the browser is told too.
const TIME: TimeDelta = TimeDelta::seconds(DEFAULT_AUTHENTICATOR_TIMEOUT.as_secs().cast_signed());

/// Us, as browsers and authenticators know us: a domain name and the one origin of the page.
#[derive(Debug, Clone)]
pub struct RelyingParty(Webauthn);

/// What a person has registered.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Keys {
    /// Names the person to authenticators without saying who it is.
    handle: Option<Uuid>,
    keys: Vec<Key>,
    pending: Option<Pending>,
}

/// A passkey or hardware key.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Key {
    /// As its holder calls it.
    pub name: String,
    pub created: DateTime<Utc>,
    pub used: Option<DateTime<Utc>>,
    passkey: Passkey,
}

/// A ceremony that has begun.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Pending {
    until: DateTime<Utc>,
    ceremony: Ceremony,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
enum Ceremony {
    Registration(PasskeyRegistration),
    Authentication(PasskeyAuthentication),
}

/// A URL that is no origin for WebAuthn.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{0}` can't have passkeys: they need an https URL with a domain name, or http://localhost")]
pub struct NoOrigin(String);

/// Why a ceremony came to nothing. What it displays is for the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refusal {
    #[error("there are {MAX_KEYS} keys already")]
    Full,
    #[error("no key is registered")]
    NoKeys,
    #[error(
        "a key's name has between 1 and {MAX_NAME} characters, none of them a control character, and is given once"
    )]
    Name,
    #[error("no such ceremony is under way, or it has ended before")]
    NotStarted,
    #[error("the ceremony ended at {0}")]
    Late(DateTime<Utc>),
    #[error("the response is larger than {MAX_RESPONSE} bytes")]
    TooLarge,
    #[error("the key would take more than {MAX_KEY} bytes of the record")]
    TooMuchOfKey,
    #[error("the response can't be read")]
    Malformed,
    #[error("the response is for another person")]
    OtherPerson,
    #[error("the counter of a key has gone back: there may be a copy of it")]
    Counter,
    #[error("{0}")]
    Response(String),
    #[error(transparent)]
    Randomness(#[from] NoRandomness),
}

impl From<WebauthnError> for Refusal {
    fn from(error: WebauthnError) -> Self {
        match error {
            WebauthnError::CredentialPossibleCompromise => Self::Counter,
            other => Self::Response(other.to_string()),
        }
    }
}

impl RelyingParty {
    /// The relying party of a page. Its domain can't change later without losing every key.
    ///
    /// # Errors
    /// When browsers have no WebAuthn at the URL.
    pub fn new(page: &Url) -> Result<Self, NoOrigin> {
        let error = || NoOrigin(page.to_string());
        let domain = page.domain().ok_or_else(error)?;
        if page.scheme() != "https" && domain != "localhost" {
            return Err(error());
        }
        let origin = Url::parse(&page.origin().ascii_serialization()).map_err(|_| error())?;
        let builder = WebauthnBuilder::new(domain, &origin).map_err(|_| error())?;
        builder.rp_name("Durward").build().map(Self).map_err(|_| error())
    }

    /// Begins to register a key for a person who is called `user`; what is returned goes to the browser. It ends whatever
    /// ceremony was under way.
    pub(crate) fn start_registration(
        &self,
        keys: &mut Keys,
        user: &str,
        now: DateTime<Utc>,
    ) -> Result<CreationChallengeResponse, Refusal> {
        if keys.keys.len() >= MAX_KEYS {
            return Err(Refusal::Full);
        }
        let handle = match keys.handle {
            Some(handle) => handle,
            None => *keys.handle.insert(Uuid::from_bytes(random()?)),
        };
        let known = keys.keys.iter().map(|key| key.passkey.cred_id().clone()).collect();
        let (options, state) = self.0.start_passkey_registration(handle, user, user, Some(known))?;
        keys.pending = Some(Pending { until: now + TIME, ceremony: Ceremony::Registration(state) });
        Ok(options)
    }

    /// Adds the key that a browser has made. The ceremony is over either way.
    pub(crate) fn finish_registration(
        &self,
        keys: &mut Keys,
        response: &[u8],
        name: &str,
        now: DateTime<Utc>,
    ) -> Result<(), Refusal> {
        let Ceremony::Registration(state) = keys.pending(now)? else { return Err(Refusal::NotStarted) };
        let name = name.trim();
        let good = (1..=MAX_NAME).contains(&name.chars().count()) && !name.contains(char::is_control);
        if !good || keys.keys.iter().any(|key| key.name == name) {
            return Err(Refusal::Name);
        }
        if keys.keys.len() >= MAX_KEYS {
            return Err(Refusal::Full);
        }
        let response: RegisterPublicKeyCredential = read(response)?;
        let passkey = self.0.finish_passkey_registration(&response, &state)?;
        let key = Key { name: name.to_owned(), created: now, used: None, passkey };
        // a statement of where the key comes from was not asked for, and could be of any size
        if !serde_json::to_vec(&key).is_ok_and(|text| text.len() <= MAX_KEY) {
            return Err(Refusal::TooMuchOfKey);
        }
        keys.keys.push(key);
        Ok(())
    }

    /// Begins to ask for any of a person's keys; what is returned goes to the browser. It ends whatever ceremony was under
    /// way.
    pub(crate) fn start_authentication(
        &self,
        keys: &mut Keys,
        now: DateTime<Utc>,
    ) -> Result<RequestChallengeResponse, Refusal> {
        if keys.keys.is_empty() {
            return Err(Refusal::NoKeys);
        }
        let known: Vec<_> = keys.keys.iter().map(|key| key.passkey.clone()).collect();
        let (options, state) = self.0.start_passkey_authentication(&known)?;
        keys.pending = Some(Pending { until: now + TIME, ceremony: Ceremony::Authentication(state) });
        Ok(options)
    }

    /// Which kind of key has answered. The ceremony is over either way.
    pub(crate) fn finish_authentication(
        &self,
        keys: &mut Keys,
        response: &[u8],
        now: DateTime<Utc>,
    ) -> Result<Factor, Refusal> {
        let Ceremony::Authentication(state) = keys.pending(now)? else { return Err(Refusal::NotStarted) };
        let response: PublicKeyCredential = read(response)?;
        let holder = response.get_user_unique_id();
        if holder.is_some() && holder != keys.handle.as_ref().map(|handle| handle.as_bytes().as_slice()) {
            return Err(Refusal::OtherPerson);
        }
        let result = self.0.finish_passkey_authentication(&response, &state)?;
        let key = keys.keys.iter_mut().find(|key| key.passkey.cred_id() == result.cred_id());
        let key = key.ok_or(Refusal::NotStarted)?;
        key.passkey.update_credential(&result);
        key.used = Some(now);
        Ok(if result.backup_eligible() { Factor::Passkey } else { Factor::HardwareKey })
    }
}

fn read<'r, T: Deserialize<'r>>(response: &'r [u8]) -> Result<T, Refusal> {
    if response.len() > MAX_RESPONSE {
        return Err(Refusal::TooLarge);
    }
    serde_json::from_slice(response).map_err(|_| Refusal::Malformed)
}

impl Keys {
    /// Each key, oldest first.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Key> {
        self.keys.iter()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Takes a key away, and with it the ceremony that may know it; says whether it was there.
    pub fn remove(&mut self, id: &str) -> bool {
        let before = self.keys.len();
        self.keys.retain(|key| key.id() != id);
        self.pending = None;
        self.keys.len() < before
    }

    /// Whether one of the keys is to answer, and has time to.
    pub(crate) fn wait_for_answer(&self, now: DateTime<Utc>) -> bool {
        let waits = |pending: &Pending| now < pending.until && matches!(pending.ceremony, Ceremony::Authentication(_));
        self.pending.as_ref().is_some_and(waits)
    }

    /// The ceremony that is under way; it is no longer.
    fn pending(&mut self, now: DateTime<Utc>) -> Result<Ceremony, Refusal> {
        let Pending { until, ceremony } = self.pending.take().ok_or(Refusal::NotStarted)?;
        if now >= until { Err(Refusal::Late(until)) } else { Ok(ceremony) }
    }
}

impl Key {
    /// The credential's ID (WebAuthn, section 4), in base64url.
    pub fn id(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.passkey.cred_id())
    }
}

#[cfg(test)]
mod tests;
