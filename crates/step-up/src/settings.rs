//! Settings of the step-up service, and the flags that they come from.

use thiserror::Error;
use url::Url;

/// Path of the step-up page at its origin.
pub const STEP_UP_PATH: &str = "/step-up";

/// Who may enrol a first factor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum EnrolmentPolicy {
    /// Any holder of the first token of a person without a factor: the factor is only as trustworthy as that token
    #[default]
    FirstUse,
    /// No one: people keep the factors that they have
    Closed,
}

/// Flags of the step-up service.
#[derive(Debug, Clone, clap::Args)]
pub struct StepUpArguments {
    /// URL of the token listener as browsers see it; the step-up page is there [default: the issuer]
    #[arg(long, value_name = "URL")]
    pub step_up_url: Option<Url>,
    /// Who may enrol a person's first second factor
    #[arg(long, value_enum, default_value_t)]
    pub(crate) step_up_enrolment: EnrolmentPolicy,
    /// Origin that the step-up page may return a new token to. Repeatable
    #[arg(long, value_name = "ORIGIN")]
    pub(crate) step_up_return_to: Vec<Url>,
}

/// The default URL of the step-up page is not a URL.
#[derive(Debug, Error)]
#[error("`{url}` is not a URL for the step-up page: {source}; set --step-up-url")]
pub struct InvalidStepUpUrl {
    url: String,
    source: url::ParseError,
}

impl StepUpArguments {
    /// The settings, with `default_url` unless a URL is given.
    ///
    /// # Errors
    /// When `default_url` is needed and is not a URL.
    pub fn into_settings(self, default_url: &str) -> Result<StepUpSettings, InvalidStepUpUrl> {
        let url = match self.step_up_url {
            Some(url) => url,
            None => {
                Url::parse(default_url).map_err(|source| InvalidStepUpUrl { url: default_url.to_owned(), source })?
            }
        };
        Ok(StepUpSettings { url, enrolment: self.step_up_enrolment, return_to: self.step_up_return_to })
    }
}

/// Settings of the step-up service.
#[derive(Debug, Clone)]
pub struct StepUpSettings {
    /// URL of the step-up page. Its origin is the only one accepted, and its host is the relying party of WebAuthn.
    pub url: Url,
    /// Who may enrol a first factor.
    pub enrolment: EnrolmentPolicy,
    /// Origins that a first token may come from, and that a new token may be returned to.
    pub return_to: Vec<Url>,
}

impl StepUpSettings {
    /// The name under which authenticator apps keep the secret.
    pub fn host(&self) -> &str {
        self.url.host_str().unwrap_or("durward")
    }
}

/// URL of the step-up page of a token listener.
pub fn step_up_page(listener: &Url) -> Url {
    let mut page = listener.clone();
    page.set_path(STEP_UP_PATH);
    page.set_query(None);
    page.set_fragment(None);
    page
}
