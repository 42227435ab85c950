//! Why a factor is not accepted, or can't be changed.

use crate::seal::SealingKeyError;
use crate::store::FactorStoreError;
use crate::webauthn::PasskeyError;
use chrono::TimeDelta;
use durward_runtime::random::RandomnessUnavailable;
use thiserror::Error;

/// Why a factor is not accepted, or can't be changed. The audit log records the message.
#[derive(Debug, Error)]
pub enum StepUpError {
    /// Only people have second factors.
    #[error("only a user of an IdentityProvider can step up")]
    NotAUser,
    /// The code is not valid, or the person has no such factor.
    #[error("{0}")]
    WrongFactor(#[from] WrongFactor),
    /// The response of a passkey or hardware key is not valid.
    #[error("{0}")]
    Passkey(#[from] PasskeyError),
    /// There were too many failures recently.
    #[error("too many failures, by the {by}; try again in {} s", wait.num_seconds())]
    Paused {
        /// What the failures are counted by: `person` or `address`.
        by: &'static str,
        /// Time until the next attempt is accepted.
        wait: TimeDelta,
    },
    /// The caller may not change factors now.
    #[error("{0}")]
    Forbidden(&'static str),
    /// The service can't work at the moment.
    #[error(transparent)]
    Unavailable(#[from] StepUpUnavailable),
}

/// Why a presented factor is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum WrongFactor {
    #[error("the person has no such factor")]
    NotEnrolled,
    #[error("the code is not the one of now")]
    Code,
    #[error("the code has been used")]
    Used,
    #[error("no secret waits for a code")]
    NothingPending,
    #[error("the stored factors are another person's")]
    OtherPerson,
}

/// Why the step-up service can't work at the moment.
#[derive(Debug, Error)]
pub enum StepUpUnavailable {
    /// The records can't be read or changed.
    #[error(transparent)]
    Store(#[from] FactorStoreError),
    /// The sealing keys are not valid.
    #[error(transparent)]
    SealingKeys(#[from] SealingKeyError),
    /// The system gives no random numbers.
    #[error(transparent)]
    Randomness(#[from] RandomnessUnavailable),
    /// The secret of an authenticator app can't be created.
    #[error("no secret can be made")]
    Enrolment,
    /// The audit log does not accept the record.
    #[error("it can't be recorded")]
    AuditLog,
}

impl From<FactorStoreError> for StepUpError {
    fn from(error: FactorStoreError) -> Self {
        Self::Unavailable(error.into())
    }
}

impl From<RandomnessUnavailable> for StepUpError {
    fn from(error: RandomnessUnavailable) -> Self {
        Self::Unavailable(error.into())
    }
}
