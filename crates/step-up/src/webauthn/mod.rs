//! Passkeys and hardware keys as a second factor (Web Authentication, Level 3): the keys that a person has registered,
//! and the pending ceremony. Both are values in the person's record; this module keeps no state.
//!
//! A record holds one ceremony at most. Finishing a ceremony removes it, with or without success. As a record is
//! replaced only if unchanged, each response is accepted once, whichever replica reads it.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, TimeDelta, Utc};
use durward_authn::Factor;
use durward_runtime::random::{RandomnessUnavailable, random_bytes};
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
pub const MAX_KEY_NAME_LENGTH: usize = 64;
/// Largest accepted response, in bytes. Those of browsers have one or two thousand.
pub(crate) const MAX_RESPONSE: usize = 8 * 1024;
/// Largest key in a record, in bytes: the longest ID (1023 bytes, section 6.5.1) in base64, and as much again for the
/// rest. A record holds up to 16 keys, twice during a ceremony.
const MAX_KEY: usize = 2 * 1024;
/// Time limit of a ceremony. The browser gets the same limit.
const CEREMONY_TIME: TimeDelta = TimeDelta::seconds(DEFAULT_AUTHENTICATOR_TIMEOUT.as_secs().cast_signed());

/// This installation as browsers and authenticators identify it: a domain name, and the one origin of the page.
#[derive(Debug, Clone)]
pub struct RelyingParty(Webauthn);

/// A person's keys, and the pending ceremony.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct RegisteredKeys {
    /// Identifies the person to authenticators without naming the principal.
    handle: Option<Uuid>,
    keys: Vec<RegisteredKey>,
    pending: Option<PendingCeremony>,
}

/// A passkey or hardware key.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RegisteredKey {
    /// The name that its holder chose.
    pub name: String,
    pub created: DateTime<Utc>,
    pub used: Option<DateTime<Utc>>,
    passkey: Passkey,
}

/// A ceremony that has started and not finished.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct PendingCeremony {
    until: DateTime<Utc>,
    ceremony: Ceremony,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
enum Ceremony {
    Registration(PasskeyRegistration),
    Authentication(PasskeyAuthentication),
}

/// Browsers don't offer WebAuthn at this URL.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{0}` can't have passkeys: they need an https URL with a domain name, or http://localhost")]
pub struct UnsuitableUrl(String);

/// Why a ceremony failed. The audit log records the message.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PasskeyError {
    #[error("there are {MAX_KEYS} keys already")]
    Full,
    #[error("no key is registered")]
    NoKeys,
    #[error(
        "a key's name has between 1 and {MAX_KEY_NAME_LENGTH} characters, none of them a control character, \
         and is given once"
    )]
    Name,
    #[error("no such ceremony is under way, or it has ended before")]
    NotStarted,
    #[error("the ceremony ended at {0}")]
    Expired(DateTime<Utc>),
    #[error("the response is larger than {MAX_RESPONSE} bytes")]
    ResponseTooLarge,
    #[error("the key would take more than {MAX_KEY} bytes of the record")]
    KeyTooLarge,
    #[error("the response can't be read")]
    Malformed,
    #[error("the response is for another person")]
    OtherPerson,
    #[error("the counter of a key has gone back: there may be a copy of it")]
    Counter,
    #[error("{0}")]
    Response(String),
    #[error(transparent)]
    Randomness(#[from] RandomnessUnavailable),
}

impl From<WebauthnError> for PasskeyError {
    fn from(error: WebauthnError) -> Self {
        match error {
            WebauthnError::CredentialPossibleCompromise => Self::Counter,
            other => Self::Response(other.to_string()),
        }
    }
}

impl RelyingParty {
    /// The relying party of a page. A later change of its domain loses every key.
    ///
    /// # Errors
    /// When browsers don't offer WebAuthn at the URL.
    pub fn new(page: &Url) -> Result<Self, UnsuitableUrl> {
        let error = || UnsuitableUrl(page.to_string());
        let domain = page.domain().ok_or_else(error)?;
        if page.scheme() != "https" && domain != "localhost" {
            return Err(error());
        }
        let origin = Url::parse(&page.origin().ascii_serialization()).map_err(|_| error())?;
        let builder = WebauthnBuilder::new(domain, &origin).map_err(|_| error())?;
        builder.rp_name("Durward").build().map(Self).map_err(|_| error())
    }

    /// Starts the registration of a key under the user name `user`. The browser gets the result. It replaces a pending
    /// ceremony.
    pub(crate) fn start_registration(
        &self,
        keys: &mut RegisteredKeys,
        user: &str,
        now: DateTime<Utc>,
    ) -> Result<CreationChallengeResponse, PasskeyError> {
        if keys.keys.len() >= MAX_KEYS {
            return Err(PasskeyError::Full);
        }
        let handle = match keys.handle {
            Some(handle) => handle,
            None => *keys.handle.insert(Uuid::from_bytes(random_bytes()?)),
        };
        let excluded = keys.keys.iter().map(|key| key.passkey.cred_id().clone()).collect();
        let (options, state) = self.0.start_passkey_registration(handle, user, user, Some(excluded))?;
        keys.pending = Some(PendingCeremony { until: now + CEREMONY_TIME, ceremony: Ceremony::Registration(state) });
        Ok(options)
    }

    /// Adds the key that a browser created. Ends the ceremony, with or without success.
    pub(crate) fn finish_registration(
        &self,
        keys: &mut RegisteredKeys,
        response: &[u8],
        name: &str,
        now: DateTime<Utc>,
    ) -> Result<(), PasskeyError> {
        let Ceremony::Registration(state) = keys.take_ceremony(now)? else { return Err(PasskeyError::NotStarted) };
        let name = name.trim();
        let valid = (1..=MAX_KEY_NAME_LENGTH).contains(&name.chars().count()) && !name.contains(char::is_control);
        if !valid || keys.keys.iter().any(|key| key.name == name) {
            return Err(PasskeyError::Name);
        }
        if keys.keys.len() >= MAX_KEYS {
            return Err(PasskeyError::Full);
        }
        let response: RegisterPublicKeyCredential = parse(response)?;
        let passkey = self.0.finish_passkey_registration(&response, &state)?;
        let key = RegisteredKey { name: name.to_owned(), created: now, used: None, passkey };
        // a browser may add an attestation statement, of any size, although none was requested
        if !serde_json::to_vec(&key).is_ok_and(|text| text.len() <= MAX_KEY) {
            return Err(PasskeyError::KeyTooLarge);
        }
        keys.keys.push(key);
        Ok(())
    }

    /// Starts an authentication by any of a person's keys. The browser gets the result. It replaces a pending ceremony.
    pub(crate) fn start_authentication(
        &self,
        keys: &mut RegisteredKeys,
        now: DateTime<Utc>,
    ) -> Result<RequestChallengeResponse, PasskeyError> {
        if keys.keys.is_empty() {
            return Err(PasskeyError::NoKeys);
        }
        let allowed: Vec<_> = keys.keys.iter().map(|key| key.passkey.clone()).collect();
        let (options, state) = self.0.start_passkey_authentication(&allowed)?;
        keys.pending = Some(PendingCeremony { until: now + CEREMONY_TIME, ceremony: Ceremony::Authentication(state) });
        Ok(options)
    }

    /// Verifies a response, and returns the kind of the key. Ends the ceremony, with or without success.
    pub(crate) fn finish_authentication(
        &self,
        keys: &mut RegisteredKeys,
        response: &[u8],
        now: DateTime<Utc>,
    ) -> Result<Factor, PasskeyError> {
        let Ceremony::Authentication(state) = keys.take_ceremony(now)? else { return Err(PasskeyError::NotStarted) };
        let response: PublicKeyCredential = parse(response)?;
        let holder = response.get_user_unique_id();
        if holder.is_some() && holder != keys.handle.as_ref().map(|handle| handle.as_bytes().as_slice()) {
            return Err(PasskeyError::OtherPerson);
        }
        let result = self.0.finish_passkey_authentication(&response, &state)?;
        let key = keys.keys.iter_mut().find(|key| key.passkey.cred_id() == result.cred_id());
        let key = key.ok_or(PasskeyError::NotStarted)?;
        key.passkey.update_credential(&result);
        key.used = Some(now);
        Ok(if result.backup_eligible() { Factor::Passkey } else { Factor::HardwareKey })
    }
}

fn parse<'r, T: Deserialize<'r>>(response: &'r [u8]) -> Result<T, PasskeyError> {
    if response.len() > MAX_RESPONSE {
        return Err(PasskeyError::ResponseTooLarge);
    }
    serde_json::from_slice(response).map_err(|_| PasskeyError::Malformed)
}

impl RegisteredKeys {
    /// The keys, oldest first.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &RegisteredKey> {
        self.keys.iter()
    }

    /// Whether there are no keys.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Removes a key, and the pending ceremony, which may refer to it. Returns whether the key existed.
    pub fn remove(&mut self, id: &str) -> bool {
        let before = self.keys.len();
        self.keys.retain(|key| key.id() != id);
        self.pending = None;
        self.keys.len() < before
    }

    /// Whether an authentication is pending and has not expired.
    pub(crate) fn awaits_response(&self, now: DateTime<Utc>) -> bool {
        let awaits =
            |pending: &PendingCeremony| now < pending.until && matches!(pending.ceremony, Ceremony::Authentication(_));
        self.pending.as_ref().is_some_and(awaits)
    }

    /// Takes the pending ceremony out, if it has not expired.
    fn take_ceremony(&mut self, now: DateTime<Utc>) -> Result<Ceremony, PasskeyError> {
        let PendingCeremony { until, ceremony } = self.pending.take().ok_or(PasskeyError::NotStarted)?;
        if now >= until { Err(PasskeyError::Expired(until)) } else { Ok(ceremony) }
    }
}

impl RegisteredKey {
    /// The credential's ID (WebAuthn, section 4), in base64url.
    pub fn id(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.passkey.cred_id())
    }
}

#[cfg(test)]
mod tests;
