//! Authenticator apps (RFC 6238): SHA-1, six digits, thirty seconds, which every app knows; one step early or late counts.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use durward_core::principal::PrincipalId;
use durward_runtime::random::random;
use qrcode::QrCode;
use qrcode::render::svg;
use serde::{Deserialize, Serialize};
use totp_rs::{Algorithm, Builder, Totp};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Length of secrets, in bytes: what RFC 4226, section 4, recommends.
const SECRET: usize = 20;
const DIGITS: usize = 6;

/// A secret that an authenticator app shares with us.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(transparent)]
pub(super) struct Secret(String);

impl Secret {
    fn totp(&self, account: &str, issuer: &str) -> Option<Totp> {
        let bytes = STANDARD.decode(&self.0).ok()?;
        let builder = Builder::new().with_algorithm(Algorithm::SHA1).with_digits(6).with_skew(1).with_step_duration(30);
        // a colon parts the two in the URI that apps read
        let plain = |text: &str| text.replace(':', " ");
        builder.with_secret(bytes).with_account_name(plain(account)).with_issuer(Some(plain(issuer))).build().ok()
    }

    /// The step whose code this is, `now` in seconds since 1970.
    pub(super) fn step(&self, code: &str, now: u64) -> Option<u64> {
        let code: String = code.chars().filter(|c| !c.is_whitespace()).take(DIGITS + 1).collect();
        let digits = code.len() == DIGITS && code.bytes().all(|byte| byte.is_ascii_digit());
        self.totp("code", "durward").filter(|_| digits)?.check(&code, now)
    }
}

/// A secret on its way to an app.
pub struct Enrolment {
    pub(super) secret: Secret,
    totp: Totp,
}

/// Names the type alone: what it holds is secret or large.
impl std::fmt::Debug for Enrolment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Enrolment").finish_non_exhaustive()
    }
}

impl Enrolment {
    /// A new secret for a person, at `host`.
    pub(super) fn new(id: &PrincipalId, host: &str) -> Result<Self, String> {
        let bytes: [u8; SECRET] = random().map_err(|error| error.to_string())?;
        let secret = Secret(STANDARD.encode(bytes));
        Self::of(secret, id, host).ok_or_else(|| "no secret can be made".to_owned())
    }

    pub(super) fn of(secret: Secret, id: &PrincipalId, host: &str) -> Option<Self> {
        let PrincipalId::User { subject, .. } = id else { return None };
        let totp = secret.totp(subject, host)?;
        Some(Self { secret, totp })
    }

    /// The secret as it is typed (RFC 4648, section 6).
    pub fn text(&self) -> String {
        self.totp.secret().to_base32()
    }

    /// The URI of the QR code.
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
    fn the_codes_are_those_of_the_rfc() {
        let secret = Secret(STANDARD.encode("12345678901234567890"));
        for (time, code) in [(59, "287082"), (1_111_111_109, "081804"), (2_000_000_000, "279037")] {
            assert_eq!(secret.step(code, time), Some(time / 30));
            assert_eq!(secret.step(code, time + 30), Some(time / 30), "a step late");
            assert_eq!(secret.step(code, time - 30), Some(time / 30), "a step early");
            assert_eq!(secret.step(code, time + 60), None);
            assert_eq!(secret.step(code, time.saturating_sub(60)), None.filter(|_| time > 60).or(secret.step(code, 0)));
        }
        for bad in ["", "28708", "2870822", "28708a", "+87082", "２８７０８２", "-1", "999999999999"] {
            assert_eq!(secret.step(bad, 59), None, "{bad}");
        }
        assert_eq!(secret.step("287 082", 59), Some(1), "as apps show it");
    }

    #[test]
    fn an_app_is_told_everything_it_needs() {
        let id = PrincipalId::user("corporate", "a:lice").expect("a name");
        let enrolment = Enrolment::new(&id, "auth.example.com").expect("made");
        let uri = enrolment.uri().expect("a URI");
        assert!(uri.starts_with("otpauth://totp/auth.example.com:a%20lice?secret="), "{uri}");
        assert!(uri.contains(&enrolment.text()), "{uri}");
        assert!(enrolment.qr_code().is_some_and(|svg| svg.starts_with("<svg") && !svg.contains("style=")));
    }
}
