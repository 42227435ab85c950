//! `durward ca`: print the state of the certificate authority, and rotate it.

use crate::cli::cluster::{block_on, connect};
use crate::cli::outcome::{CommandOutcome, CommandResult};
use crate::cli::output::{OutputError, OutputFormat, print_text};
use durward_identity::{ROTATE_ANNOTATION, RotationRequest, ca_secret_names};
use durward_kubernetes::requests::redacted;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;
use thiserror::Error;
use tokio::time::sleep;

/// What stops working when the CA is replaced immediately.
const COMPROMISED_WARNING: &str = "Replacing the CA immediately invalidates everything that the old CA signed:
- Every door refuses the certificates of pods. Pods get new ones when kubelet renews them, at half of their lifetime or
  later: restart pods that can't wait (kubectl rollout restart).
- Pods that trust the old root refuse certificates of the new CA until kubelet updates their trust bundle, which takes a
  minute or two.
- Gateways that verify Durward's own certificate by a copy of the old root can't connect, and deny, until they have the
  new root (ConfigMap durward-trust-bundle, ClusterTrustBundle durward.dev:workload:roots, or /bundle).
- Calls of the API server to webhooks may fail for some seconds: governed operations are refused meanwhile.
- Other trust domains that federate with this one trust the old root until they fetch the bundle again.
Tokens are signed by other keys and stay valid.
";
const POLL_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Debug, clap::Subcommand)]
pub(crate) enum CaCommand {
    /// Print the signing CA, the trusted roots, and the progress of a rotation
    Status(CaStatusCommand),
    /// Rotate the CA step by step, without an outage
    Rotate(RotateCaCommand),
}

#[derive(Debug, clap::Args)]
struct InstallationArguments {
    /// Namespace of the installation
    #[arg(long, short, value_name = "NAME", env = "POD_NAMESPACE", default_value = "durward-system")]
    namespace: String,
    /// Service of the installation
    #[arg(long, value_name = "NAME", default_value = "durward")]
    service: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct CaStatusCommand {
    #[command(flatten)]
    installation: InstallationArguments,
    /// Output format
    #[arg(long, short, value_enum, default_value_t)]
    output: OutputFormat,
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  kubectl durward ca rotate --wait\n  kubectl durward ca rotate --compromised --yes"
)]
pub(crate) struct RotateCaCommand {
    #[command(flatten)]
    installation: InstallationArguments,
    /// Replace a CA with a compromised key immediately, whatever stops working
    #[arg(long)]
    compromised: bool,
    /// Confirm that you have read what stops working
    #[arg(long, requires = "compromised")]
    yes: bool,
    /// Print each step, and exit when the new CA signs
    #[arg(long)]
    wait: bool,
}

impl CaCommand {
    pub(crate) fn run(self) -> CommandResult {
        match self {
            Self::Status(status) => block_on(status.run())?,
            Self::Rotate(rotate) => block_on(rotate.run())?,
        }
    }
}

/// The data of the installation's status ConfigMap.
type RotationStatus = BTreeMap<String, String>;

/// The CA of an installation can't be read or rotated.
#[derive(Debug, Error)]
enum CaError {
    #[error(
        "cannot read ConfigMap `{name}` in namespace `{namespace}`: {reason}; name the installation with --namespace and --service"
    )]
    Status { name: String, namespace: String, reason: String },
    #[error("cannot annotate Secret `{name}`: {reason}")]
    Annotate { name: String, reason: String },
    #[error("there is no CA of `{service}` in namespace `{namespace}`")]
    NoCa { service: String, namespace: String },
    #[error("a rotation is already in progress: {step}, waits for {waits_for}")]
    InProgress { step: String, waits_for: String },
}

impl InstallationArguments {
    async fn status(&self, client: &Client) -> Result<RotationStatus, CaError> {
        let name = format!("{}-ca-status", self.service);
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), &self.namespace);
        match maps.get(&name).await {
            Ok(map) => Ok(map.data.unwrap_or_default()),
            Err(error) => Err(CaError::Status { name, namespace: self.namespace.clone(), reason: redacted(&error) }),
        }
    }

    async fn request_rotation(&self, client: &Client, request: RotationRequest) -> Result<(), CaError> {
        let secrets: Api<Secret> = Api::namespaced(client.clone(), &self.namespace);
        let patch = Patch::Merge(json!({"metadata": {"annotations": {ROTATE_ANNOTATION: request.as_str()}}}));
        for name in ca_secret_names(&self.service) {
            match secrets.patch_metadata(&name, &PatchParams::default(), &patch).await {
                Ok(_) => return Ok(()),
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => return Err(CaError::Annotate { name, reason: redacted(&error) }),
            }
        }
        Err(CaError::NoCa { service: self.service.clone(), namespace: self.namespace.clone() })
    }
}

fn get<'s>(status: &'s RotationStatus, key: &str) -> &'s str {
    status.get(key).map_or("", String::as_str)
}

impl CaStatusCommand {
    async fn run(self) -> CommandResult {
        let status = self.installation.status(&connect().await?).await?;
        self.output.print(&status, |status| {
            let line = |label: &str, key: &str| format!("{label:<12}{}\n", get(status, key));
            let mut text = line("Step", "step") + &line("Since", "since") + &line("Waits for", "waitsFor");
            text += &(line("Signs", "active") + &line("Until", "activeUntil"));
            if status.contains_key("next") {
                text += &line("Next", "next");
            }
            text + &line("Roots", "roots")
        })?;
        Ok(CommandOutcome::Success)
    }
}

impl RotateCaCommand {
    async fn run(self) -> CommandResult {
        let client = connect().await?;
        let before = self.installation.status(&client).await?;
        if self.compromised && !self.yes {
            print_text(COMPROMISED_WARNING)?;
            eprintln!("the CA is unchanged; add --yes to replace it immediately");
            return Ok(CommandOutcome::Negative);
        }
        if !self.compromised && get(&before, "step") != "Steady" {
            let [step, waits_for] = ["step", "waitsFor"].map(|key| get(&before, key).to_owned());
            return Err(CaError::InProgress { step, waits_for }.into());
        }
        let request = if self.compromised { RotationRequest::Compromised } else { RotationRequest::Planned };
        self.installation.request_rotation(&client, request).await?;
        if !self.wait {
            print_text("rotation requested; `durward ca status` prints its progress\n")?;
            return Ok(CommandOutcome::Success);
        }
        self.follow_rotation(&client, &before).await?;
        Ok(CommandOutcome::Success)
    }

    /// Prints each step of a rotation until another CA signs than before.
    async fn follow_rotation(&self, client: &Client, before: &RotationStatus) -> Result<(), OutputError> {
        let mut printed = String::new();
        loop {
            // keep waiting through an outage of the API server
            let status = self.installation.status(client).await.unwrap_or_default();
            let step = format!("{}: waits for {}\n", get(&status, "step"), get(&status, "waitsFor"));
            let started = !status.is_empty() && status != *before;
            if started && step != printed {
                print_text(&step)?;
                printed = step;
            }
            if started && get(&status, "active") != get(before, "active") {
                return print_text(&format!("the new CA signs: {}\n", get(&status, "active")));
            }
            sleep(POLL_INTERVAL).await;
        }
    }
}
