//! `durward relations`: what an OpenFGA server is to be told of a service.

use crate::cli::policies::Policies;
use crate::cli::{Failure, Verdict, output};
use durward_core::service::CompiledService;
use durward_core::snapshot::Snapshot;
use durward_engine::openfga::{model, names};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Relations {
    /// Print the authorization model of a service's relations, as OpenFGA's API takes it
    Model(Of),
    /// Print the tuples of a service's Relationships, as OpenFGA's `fga tuple write` takes them
    Tuples(Of),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Of {
    /// Audience of the service
    audience: String,
    #[command(flatten)]
    policies: Policies,
}

impl Relations {
    pub(crate) fn run(self) -> Result<Verdict, Failure> {
        let printed = match self {
            Self::Model(of) => {
                let snapshot = of.policies.snapshot()?;
                let model = model::authorization_model(of.service(&snapshot)?.relations())?;
                serde_json::to_string_pretty(&model)?
            }
            Self::Tuples(of) => {
                let snapshot = of.policies.snapshot()?;
                let tuples = snapshot.tuples(of.service(&snapshot)?.key());
                let mut keys: Vec<_> = tuples.iter().flat_map(|tuple| names::tuples(&tuple)).collect();
                keys.sort_unstable();
                serde_json::to_string_pretty(&keys)?
            }
        };
        output::say(&(printed + "\n"))?;
        Ok(Verdict::Yes)
    }
}

impl Of {
    fn service<'s>(&self, snapshot: &'s Snapshot) -> Result<&'s CompiledService, Failure> {
        let found = snapshot.by_audience(&self.audience);
        found.map(AsRef::as_ref).ok_or_else(|| format!("no policy is about a service `{}`", self.audience).into())
    }
}
