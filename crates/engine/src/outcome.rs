//! Outcomes, as audit records and metrics name them.

use durward_core::named_enum;
use serde::Serialize;

named_enum! {
    /// The component that issues credentials.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
    #[serde(rename_all = "camelCase")]
    pub enum IssuedBy {
        /// The signer of `PodCertificateRequest`s.
        Signer => "signer",
        /// The mint, which agents and gates call.
        Mint => "mint",
        /// The token exchange.
        Exchange => "exchange",
    }
}

named_enum! {
    /// The outcome of a request for a credential.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
    #[serde(rename_all = "camelCase")]
    pub enum IssuanceOutcome {
        /// Issued.
        Issued => "issued",
        /// Denied for good.
        Denied => "denied",
        /// Refused under the current policies.
        Refused => "refused",
    }
}

named_enum! {
    /// What happened to a second factor.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
    #[serde(rename_all = "camelCase")]
    pub enum SecondFactorOutcome {
        /// A factor was added.
        Enrolled => "enrolled",
        /// A factor was removed.
        Removed => "removed",
        /// The person proved the factor.
        Proved => "proved",
        /// The proof was wrong.
        Refused => "refused",
        /// The proof was not verified, after too many failures.
        Paused => "paused",
    }
}
