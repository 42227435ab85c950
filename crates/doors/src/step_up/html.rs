//! The page as HTML. Templates escape all values; only the picture of a QR code is inserted as it is.

use crate::step_up::visit::{StepUpQuery, Visit};
use chrono::{DateTime, Utc};
use durward_identity::AccessToken;
use durward_step_up::{EnrolledFactors, MAX_KEY_NAME_LENGTH, STEP_UP_PATH, TotpEnrolment};
use maud::{DOCTYPE, Markup, PreEscaped, html};

/// A message above the content of a page.
#[derive(Debug, Clone, Copy)]
pub(super) enum Notice<'t> {
    None,
    Success(&'t str),
    Error(&'t str),
}

/// A page with a heading.
pub(super) fn page(title: &str, notice: Notice<'_>, content: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) }
                link rel="stylesheet" href={ (STEP_UP_PATH) "/style.css" };
                script src={ (STEP_UP_PATH) "/passkey.js" } defer {}
            }
            body {
                main {
                    h1 { (title) }
                    @match notice {
                        Notice::None => {}
                        Notice::Success(text) => p role="status" { (text) }
                        Notice::Error(text) => p role="alert" { (text) }
                    }
                    p id="passkey-status" aria-live="polite" {}
                    (content)
                }
            }
        }
    }
}

/// Asks for the first token.
pub(super) fn ask_for_token(query: &StepUpQuery) -> Markup {
    html! {
        p { "Paste the token with which you signed in. Apps send people here with it." }
        form method="post" action=(STEP_UP_PATH) {
            label for="subject_token" { "Token" }
            textarea id="subject_token" name="subject_token" required autocomplete="off" spellcheck="false" {}
            label for="audience" { "Service" }
            input id="audience" name="audience" required autocomplete="off" value=(query.audience);
            @let hidden = [
                ("operation", &query.operation), ("return_to", &query.return_to), ("state", &query.state),
            ];
            @for (name, value) in hidden {
                @if !value.is_empty() { input type="hidden" name=(name) value=(value); }
            }
            button { "Continue" }
        }
    }
}

/// A form of a visit, which carries the sealed visit.
fn form(sealed: &str, to: &str, content: &Markup) -> Markup {
    html! {
        form method="post" action={ (STEP_UP_PATH) "/" (to) } {
            input type="hidden" name="visit" value=(sealed);
            (content)
        }
    }
}

/// The person, and the service and operation of the visit.
fn about(person: &str, visit: &Visit) -> Markup {
    html! {
        dl {
            dt { "You" } dd { (person) }
            dt { "Service" } dd { (visit.audience) }
            @if let Some(operation) = &visit.operation { dt { "Operation" } dd { (operation) } }
        }
    }
}

/// A form that a key of the browser fills in. It stays hidden until `passkey.js` finds WebAuthn.
fn key_form(sealed: &str, ceremony: &str, to: &str, content: &Markup) -> Markup {
    html! {
        form method="post" action={ (STEP_UP_PATH) "/" (to) } data-passkey=(ceremony)
            data-options={ (STEP_UP_PATH) "/passkeys/" (ceremony) } hidden {
            input type="hidden" name="visit" value=(sealed);
            input type="hidden" name="passkey";
            (content)
        }
    }
}

/// The form that adds a key.
fn add_key(sealed: &str) -> Markup {
    key_form(
        sealed,
        "create",
        "passkeys/add",
        &html! {
            label for="key-name" { "Name of the new key" }
            input id="key-name" name="name" required autocomplete="off" maxlength=(MAX_KEY_NAME_LENGTH)
                aria-describedby="key-hint";
            p id="key-hint" class="quiet" { "As you would call it: “laptop”, “blue key”." }
            button { "Add a passkey or hardware key" }
        },
    )
}

fn date(at: DateTime<Utc>) -> Markup {
    html! { time datetime=(at.to_rfc3339()) { (at.format("%Y-%m-%d %H:%M UTC")) } }
}

fn code_field(label: &str) -> Markup {
    html! {
        label for="code" { (label) }
        input id="code" class="code" name="otp" required autofocus autocomplete="one-time-code" inputmode="numeric"
            pattern="[0-9 ]{6,7}" maxlength="7" aria-describedby="code-hint";
        p id="code-hint" class="quiet" { "Six digits, from your authenticator app." }
    }
}

/// Asks for a second factor, or for a first one to be enrolled.
pub(super) fn verify(person: &str, visit: &Visit, sealed: &str, factors: &EnrolledFactors) -> Markup {
    html! {
        (about(person, visit))
        @if !factors.keys.is_empty() {
            (key_form(sealed, "get", "verify", &html! {
                button { "Use a passkey or hardware key" }
                @if factors.totp.is_some() { p class="quiet" { "or" } }
            }))
            noscript { p { "Passkeys and hardware keys need JavaScript; codes work without it." } }
        }
        @if factors.totp.is_some() {
            (form(sealed, "verify", &html! { (code_field("Code")) button { "Confirm" } }))
        }
        @if factors.recovery_codes > 0 {
            details open[factors.totp.is_none()] {
                summary { "Use a recovery code" }
                (form(sealed, "verify", &html! {
                    label for="recovery" { "Recovery code" }
                    input id="recovery" name="recovery_code" required autocomplete="off" spellcheck="false"
                        maxlength="40";
                    button { "Confirm" }
                }))
            }
        }
        @if !factors.any() {
            p {
                "You have no second factor yet. Set one up: a passkey or hardware key, or an authenticator app on your phone."
            }
            (add_key(sealed))
            (form(sealed, "totp", &html! { button class="second" { "Set up an authenticator app" } }))
        }
    }
}

/// Shows a new secret, and asks for its first code.
pub(super) fn enrol_totp(sealed: &str, enrolment: &TotpEnrolment) -> Markup {
    html! {
        p { "Scan this with your authenticator app, or type the secret." }
        @if let Some(picture) = enrolment.qr_code() {
            figure role="img" aria-label="QR code of the secret below" { (PreEscaped(picture)) }
        }
        p { "Secret: " code id="secret" { (enrolment.text()) } }
        (form(sealed, "totp/confirm", &html! { (code_field("First code")) button { "Confirm" } }))
    }
}

/// Shows recovery codes, which the page never shows again.
pub(super) fn recovery_codes(sealed: &str, codes: &[String]) -> Markup {
    html! {
        h2 { "Recovery codes" }
        p { "Write these down, and keep them apart from your phone. Each is good once. They are not shown again." }
        ol class="codes" { @for code in codes { li { (code) } } }
        (continue_form(sealed))
    }
}

/// The button that leads to the token.
pub(super) fn continue_form(sealed: &str) -> Markup {
    form(sealed, "token", &html! { button { "Continue" } })
}

/// Shows the new token: in a form that returns it to the app, or as text to copy.
pub(super) fn token(visit: &Visit, sealed: &str, token: &AccessToken) -> Markup {
    let seconds = token.lifetime.num_seconds();
    html! {
        p { "This token is valid for " (seconds) " seconds." }
        @match &visit.return_to {
            Some(url) => form method="post" action=(url) {
                input type="hidden" name="access_token" value=(token.text);
                input type="hidden" name="token_type" value="Bearer";
                input type="hidden" name="expires_in" value=(seconds);
                @if let Some(state) = &visit.state { input type="hidden" name="state" value=(state); }
                button autofocus { "Go on" }
            },
            None => {
                label for="token" { "Token" }
                textarea id="token" readonly spellcheck="false" { (token.text) }
            }
        }
        (form(sealed, "manage", &html! { button class="second" { "Manage my factors" } }))
    }
}

/// Lists a person's factors.
pub(super) fn manage(sealed: &str, factors: &EnrolledFactors) -> Markup {
    html! {
        h2 { "Passkeys and hardware keys" }
        @if factors.keys.is_empty() { p { "There are none." } }
        ul class="keys" {
            @for key in &factors.keys {
                li {
                    div {
                        strong { (key.name) }
                        p class="quiet" { "Since " (date(key.created)) }
                        p class="quiet" {
                            @match key.used { Some(at) => { "Last used " (date(at)) }, None => "Not used yet" }
                        }
                    }
                    (form(sealed, "passkeys/remove", &html! {
                        input type="hidden" name="key" value=(key.id);
                        button class="second" aria-label={ "Remove " (key.name) } { "Remove it" }
                    }))
                }
            }
        }
        (add_key(sealed))
        h2 { "Authenticator app" }
        @match factors.totp {
            Some(since) => {
                p { "Since " (date(since)) }
                div class="row" {
                    (form(sealed, "totp", &html! { button class="second" { "Replace it" } }))
                    (form(sealed, "totp/remove", &html! { button class="second" { "Remove it" } }))
                }
            }
            None => (form(sealed, "totp", &html! { button class="second" { "Set one up" } })),
        }
        h2 { "Recovery codes" }
        p { (factors.recovery_codes) " are left." }
        (form(sealed, "recovery-codes", &html! { button class="second" { "Make new ones" } }))
        (continue_form(sealed))
    }
}
