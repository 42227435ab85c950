//! Authenticator apps (RFC 6238): SHA-1, six digits and steps of 30 seconds, which every app supports. A code is also
//! accepted one step early or late.

use crate::error::StepUpUnavailable;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use durward_core::principal::PrincipalId;
use durward_runtime::random::random_bytes;
use qrcode::QrCode;
use qrcode::render::svg;
use serde::{Deserialize, Serialize};
use totp_rs::{Algorithm, Builder, Totp};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Length of secrets in bytes, as RFC 4226, section 4, recommends.
const SECRET_BYTES: usize = 20;
const DIGITS: usize = 6;

/// A secret shared with an authenticator app, in base64.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(transparent)]
pub(super) struct TotpSecret(String);

impl TotpSecret {
    fn totp(&self, account: &str, issuer: &str) -> Option<Totp> {
        let bytes = STANDARD.decode(&self.0).ok()?;
        let builder = Builder::new().with_algorithm(Algorithm::SHA1).with_digits(6).with_skew(1).with_step_duration(30);
        // in the URI that apps read, a colon separates issuer and account
        let plain = |text: &str| text.replace(':', " ");
        builder.with_secret(bytes).with_account_name(plain(account)).with_issuer(Some(plain(issuer))).build().ok()
    }

    /// The step that a code belongs to, if it is valid at `now`, in seconds since 1970.
    pub(super) fn step(&self, code: &str, now: u64) -> Option<u64> {
        let code: String = code.chars().filter(|c| !c.is_whitespace()).take(DIGITS + 1).collect();
        if code.len() != DIGITS || !code.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        self.totp("code", "durward")?.check(&code, now)
    }
}

/// A new secret, to be entered into an authenticator app.
pub struct TotpEnrolment {
    pub(super) secret: TotpSecret,
    totp: Totp,
}

/// Shows no fields: the secret must not reach a log.
impl std::fmt::Debug for TotpEnrolment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TotpEnrolment").finish_non_exhaustive()
    }
}

impl TotpEnrolment {
    /// A new secret for a person, at `host`.
    pub(super) fn new(id: &PrincipalId, host: &str) -> Result<Self, StepUpUnavailable> {
        let bytes: [u8; SECRET_BYTES] = random_bytes()?;
        let secret = TotpSecret(STANDARD.encode(bytes));
        Self::from_secret(secret, id, host).ok_or(StepUpUnavailable::Enrolment)
    }

    /// The enrolment of a stored secret, if the principal is a user.
    pub(super) fn from_secret(secret: TotpSecret, id: &PrincipalId, host: &str) -> Option<Self> {
        let PrincipalId::User { subject, .. } = id else { return None };
        let totp = secret.totp(subject, host)?;
        Some(Self { secret, totp })
    }

    /// The secret as a person types it (base32, RFC 4648, section 6).
    pub fn text(&self) -> String {
        self.totp.secret().to_base32()
    }

    /// The `otpauth:` URI in the QR code.
    pub fn uri(&self) -> Option<String> {
        self.totp.to_url().ok()
    }

    /// The QR code, as an SVG element.
    pub fn qr_code(&self) -> Option<String> {
        let code = QrCode::new(self.uri()?).ok()?;
        let svg = code.render::<svg::Color<'_>>().min_dimensions(240, 240).build();
        svg.find("<svg").and_then(|begin| svg.get(begin..)).map(ToOwned::to_owned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6238, appendix B, cut to six digits.
    #[test]
    fn codes_match_the_vectors_of_the_rfc() {
        let secret = TotpSecret(STANDARD.encode("12345678901234567890"));
        for (time, code) in [(59, "287082"), (1_111_111_109, "081804"), (2_000_000_000, "279037")] {
            assert_eq!(secret.step(code, time), Some(time / 30));
            assert_eq!(secret.step(code, time + 30), Some(time / 30), "a step late");
            assert_eq!(secret.step(code, time - 30), Some(time / 30), "a step early");
            assert_eq!(secret.step(code, time + 60), None);
            let two_steps_early = if time > 60 { None } else { secret.step(code, 0) };
            assert_eq!(secret.step(code, time.saturating_sub(60)), two_steps_early);
        }
        for bad in ["", "28708", "2870822", "28708a", "+87082", "２８７０８２", "-1", "999999999999"] {
            assert_eq!(secret.step(bad, 59), None, "{bad}");
        }
        assert_eq!(secret.step("287 082", 59), Some(1), "apps show a space");
    }

    #[test]
    fn uri_and_qr_code_configure_an_app() {
        let id = PrincipalId::user("corporate", "a:lice").expect("a name");
        let enrolment = TotpEnrolment::new(&id, "auth.example.com").expect("a secret");
        let uri = enrolment.uri().expect("a URI");
        assert!(uri.starts_with("otpauth://totp/auth.example.com:a%20lice?secret="), "{uri}");
        assert!(uri.contains(&enrolment.text()), "{uri}");
        assert!(enrolment.qr_code().is_some_and(|svg| svg.starts_with("<svg") && !svg.contains("style=")));
    }
}
