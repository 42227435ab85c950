//! Step-up: second factors of people.

#[cfg_attr(not(test), expect(dead_code, reason = "the page that asks for keys comes next"))]
mod webauthn;
