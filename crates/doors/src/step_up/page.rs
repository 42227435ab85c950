//! The page as HTML. Templates escape whatever they are given; nothing on it is inline but the picture of a QR code.

use crate::step_up::{Asked, Visit};
use chrono::{DateTime, Utc};
use durward_identity::AccessToken;
use durward_step_up::{Enrolment, Known, MAX_NAME, PATH};
use maud::{DOCTYPE, Markup, PreEscaped, html};

/// What a person is told first.
#[derive(Debug, Clone, Copy)]
pub(super) enum Told<'t> {
    Nothing,
    Done(&'t str),
    Wrong(&'t str),
}

/// A page with a heading.
pub(super) fn page(title: &str, told: Told<'_>, content: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) }
                link rel="stylesheet" href={ (PATH) "/style.css" };
                script src={ (PATH) "/passkey.js" } defer {}
            }
            body {
                main {
                    h1 { (title) }
                    @match told {
                        Told::Nothing => {}
                        Told::Done(what) => p role="status" { (what) }
                        Told::Wrong(what) => p role="alert" { (what) }
                    }
                    p id="passkey-status" aria-live="polite" {}
                    (content)
                }
            }
        }
    }
}

/// Asks for the first token.
pub(super) fn begin(asked: &Asked) -> Markup {
    html! {
        p { "Paste the token with which you came in. Apps bring people here with it." }
        form method="post" action=(PATH) {
            label for="subject_token" { "Token" }
            textarea id="subject_token" name="subject_token" required autocomplete="off" spellcheck="false" {}
            label for="audience" { "Service" }
            input id="audience" name="audience" required autocomplete="off" value=(asked.audience);
            @for (name, value) in [("operation", &asked.operation), ("return_to", &asked.return_to), ("state", &asked.state)] {
                @if !value.is_empty() { input type="hidden" name=(name) value=(value); }
            }
            button { "Continue" }
        }
    }
}

/// A form of somebody's visit: it says whose, and for what, in a way that nobody else can write.
fn form(visit: &str, to: &str, content: &Markup) -> Markup {
    html! {
        form method="post" action={ (PATH) "/" (to) } {
            input type="hidden" name="visit" value=(visit);
            (content)
        }
    }
}

/// Who is here, and for what.
fn about(person: &str, visit: &Visit) -> Markup {
    html! {
        dl {
            dt { "You" } dd { (person) }
            dt { "Service" } dd { (visit.audience) }
            @if let Some(operation) = &visit.operation { dt { "Operation" } dd { (operation) } }
        }
    }
}

/// A form that a key of the browser fills in (see `passkey.js`, which shows it where there is WebAuthn).
fn key(visit: &str, act: &str, to: &str, content: &Markup) -> Markup {
    html! {
        form method="post" action={ (PATH) "/" (to) } data-passkey=(act) data-options={ (PATH) "/passkeys/" (act) } hidden {
            input type="hidden" name="visit" value=(visit);
            input type="hidden" name="passkey";
            (content)
        }
    }
}

/// Adds a key.
fn add_key(sealed: &str) -> Markup {
    key(
        sealed,
        "create",
        "passkeys/add",
        &html! {
            label for="key-name" { "Name of the new key" }
            input id="key-name" name="name" required autocomplete="off" maxlength=(MAX_NAME) aria-describedby="key-hint";
            p id="key-hint" class="quiet" { "As you would call it: “laptop”, “blue key”." }
            button { "Add a passkey or hardware key" }
        },
    )
}

fn date(at: DateTime<Utc>) -> Markup {
    html! { time datetime=(at.to_rfc3339()) { (at.format("%Y-%m-%d %H:%M UTC")) } }
}

fn code(label: &str) -> Markup {
    html! {
        label for="code" { (label) }
        input id="code" class="code" name="otp" required autofocus autocomplete="one-time-code" inputmode="numeric"
            pattern="[0-9 ]{6,7}" maxlength="7" aria-describedby="code-hint";
        p id="code-hint" class="quiet" { "Six digits, from your authenticator app." }
    }
}

/// Asks for a second factor, or for a first one to be enrolled.
pub(super) fn verify(person: &str, visit: &Visit, sealed: &str, known: &Known) -> Markup {
    html! {
        (about(person, visit))
        @if !known.keys.is_empty() {
            (key(sealed, "get", "verify", &html! {
                button { "Use a passkey or hardware key" }
                @if known.totp.is_some() { p class="quiet" { "or" } }
            }))
            noscript { p { "Passkeys and hardware keys need JavaScript; codes work without it." } }
        }
        @if known.totp.is_some() {
            (form(sealed, "verify", &html! { (code("Code")) button { "Confirm" } }))
        }
        @if known.recovery_codes > 0 {
            details open[known.totp.is_none()] {
                summary { "Use a recovery code" }
                (form(sealed, "verify", &html! {
                    label for="recovery" { "Recovery code" }
                    input id="recovery" name="recovery_code" required autocomplete="off" spellcheck="false" maxlength="40";
                    button { "Confirm" }
                }))
            }
        }
        @if !known.any() {
            p { "You have no second factor yet. Set one up: a passkey or hardware key, or an authenticator app on your phone." }
            (add_key(sealed))
            (form(sealed, "totp", &html! { button class="second" { "Set up an authenticator app" } }))
        }
    }
}

/// Shows a new secret, and asks for its first code.
pub(super) fn enrol(sealed: &str, enrolment: &Enrolment) -> Markup {
    html! {
        p { "Scan this with your authenticator app, or type the secret." }
        @if let Some(picture) = enrolment.qr_code() {
            figure role="img" aria-label="QR code of the secret below" { (PreEscaped(picture)) }
        }
        p { "Secret: " code id="secret" { (enrolment.text()) } }
        (form(sealed, "totp/confirm", &html! { (code("First code")) button { "Confirm" } }))
    }
}

/// Shows recovery codes, this once.
pub(super) fn recovery_codes(sealed: &str, codes: &[String]) -> Markup {
    html! {
        h2 { "Recovery codes" }
        p { "Write these down, and keep them apart from your phone. Each is good once. They are not shown again." }
        ol class="codes" { @for code in codes { li { (code) } } }
        (next(sealed))
    }
}

/// Goes on to the token.
pub(super) fn next(sealed: &str) -> Markup {
    form(sealed, "token", &html! { button { "Continue" } })
}

/// Hands the new token over: to where the person came from, or to be copied.
pub(super) fn token(visit: &Visit, sealed: &str, token: &AccessToken) -> Markup {
    let seconds = token.lifetime.num_seconds();
    html! {
        p { "This counts for " (seconds) " seconds." }
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
pub(super) fn manage(sealed: &str, known: &Known) -> Markup {
    html! {
        h2 { "Passkeys and hardware keys" }
        @if known.keys.is_empty() { p { "There are none." } }
        ul class="keys" {
            @for key in &known.keys {
                li {
                    div {
                        strong { (key.name) }
                        p class="quiet" { "Since " (date(key.created)) }
                        p class="quiet" { @match key.used { Some(at) => { "Last used " (date(at)) }, None => "Not used yet" } }
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
        @match known.totp {
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
        p { (known.recovery_codes) " are left." }
        (form(sealed, "recovery-codes", &html! { button class="second" { "Make new ones" } }))
        (next(sealed))
    }
}
