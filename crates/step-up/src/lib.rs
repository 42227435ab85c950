//! Step-up: a person who holds a first token proves a second factor, and gets a short-lived token that states it.
//! It serves no pages and issues no tokens: `durward-doors` and `durward-identity` do.
//! Begin with [`StepUpService`].
//!
//! Each person has one record in a [`FactorStore`] that all replicas share. Every change of a record is one
//! compare-and-swap: each code is accepted once, and guesses at several replicas count together.

mod error;
mod pauses;
mod person;
mod recovery;
mod seal;
mod service;
mod settings;
mod store;
mod totp;
mod webauthn;

pub use error::{StepUpError, StepUpUnavailable, WrongFactor};
pub use person::{EnrolledFactors, PresentedFactor};
pub use seal::{Sealer, SealingKeyError};
pub use service::{FRESHNESS, StepUpCaller, StepUpService};
pub use settings::{EnrolmentPolicy, InvalidStepUpUrl, STEP_UP_PATH, StepUpArguments, StepUpSettings, step_up_page};
pub use store::{FactorStore, FactorStoreError};
pub use totp::TotpEnrolment;
pub use webauthn::{MAX_KEY_NAME_LENGTH, PasskeyError};
