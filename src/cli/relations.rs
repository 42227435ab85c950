//! `durward relations`: export the relations of a service for an OpenFGA server.

use crate::cli::outcome::{CommandOutcome, CommandResult};
use crate::cli::output;
use crate::cli::policies::PolicySourceArguments;
use durward_core::service::CompiledService;
use durward_core::snapshot::Snapshot;
use durward_engine::openfga::{model, names};
use thiserror::Error;

/// The service does not exist.
#[derive(Debug, Error)]
#[error("no policy declares a service `{0}`")]
struct UnknownService(String);

#[derive(Debug, clap::Subcommand)]
pub(crate) enum RelationsCommand {
    /// Print the authorization model of a service's relations, in the format of OpenFGA's API
    Model(RelationsArguments),
    /// Print the tuples of a service's Relationships, in the format of `fga tuple write`
    Tuples(RelationsArguments),
}

#[derive(Debug, clap::Args)]
pub(crate) struct RelationsArguments {
    /// Audience of the service
    audience: String,
    #[command(flatten)]
    policies: PolicySourceArguments,
}

impl RelationsCommand {
    pub(crate) fn run(self) -> CommandResult {
        let (Self::Model(RelationsArguments { policies, .. }) | Self::Tuples(RelationsArguments { policies, .. })) =
            &self;
        let printed = match &self {
            Self::Model(arguments) => {
                let snapshot = arguments.policies.snapshot()?;
                let model = model::authorization_model(arguments.service(&snapshot)?.relations())?;
                serde_json::to_string_pretty(&model)?
            }
            Self::Tuples(arguments) => {
                let snapshot = arguments.policies.snapshot()?;
                let tuples = snapshot.tuples(arguments.service(&snapshot)?.key());
                let mut keys: Vec<_> = tuples.iter().flat_map(|tuple| names::tuples(&tuple)).collect();
                keys.sort_unstable();
                serde_json::to_string_pretty(&keys)?
            }
        };
        output::print_text(&(printed + "\n"))?;
        policies.conclude(CommandOutcome::Success)
    }
}

impl RelationsArguments {
    fn service<'s>(&self, snapshot: &'s Snapshot) -> Result<&'s CompiledService, UnknownService> {
        let service = snapshot.by_audience(&self.audience);
        service.map(AsRef::as_ref).ok_or_else(|| UnknownService(self.audience.clone()))
    }
}
