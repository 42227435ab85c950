//! `durward ca`: how far the change of the certificate authority is, and asking for one.

use crate::cli::controller::{block_on, client};
use crate::cli::output::{Format, say};
use crate::cli::{Failure, Verdict};
use durward_identity::{ROTATE, Wish, stored_in};
use durward_kubernetes::requests::brief;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::sleep;

/// What ends with the old authority when it is replaced at once.
const ENDS: &str = "Replacing the CA at once ends, at this moment, everything that the old one signed:
- certificates of pods count at no door any more. Pods get new ones when kubelet renews them, at half of their lifetime
  and later: restart those that can't wait (kubectl rollout restart).
- pods that trust the old root refuse certificates of the new one until kubelet has brought them the new trust bundle,
  which takes a minute or two.
- gateways that verify Durward's own certificate by a copy of the old root get no answer, and deny, until they have the
  new one (ConfigMap durward-trust-bundle, ClusterTrustBundle durward.dev:workload:roots, or /bundle).
- for some seconds the API server may get no answer to webhooks: governed operations are refused meanwhile.
- other trust domains that federate with this one trust the old root until they fetch the bundle again.
Tokens are signed by other keys and stay valid.
";

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Ca {
    /// Tell which CA signs, which roots count, and how far a change is
    Status(Status),
    /// Ask for another CA, step by step without anybody noticing
    Rotate(Rotate),
}

#[derive(Debug, clap::Args)]
struct Installation {
    /// Namespace of the installation
    #[arg(long, short, value_name = "NAME", env = "POD_NAMESPACE", default_value = "durward-system")]
    namespace: String,
    /// Service of the installation
    #[arg(long, value_name = "NAME", default_value = "durward")]
    service: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Status {
    #[command(flatten)]
    installation: Installation,
    /// Output format
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  kubectl durward ca rotate --wait\n  kubectl durward ca rotate --compromised --yes"
)]
pub(crate) struct Rotate {
    #[command(flatten)]
    installation: Installation,
    /// The CA's key is in wrong hands: replace it at once, whatever stops working
    #[arg(long)]
    compromised: bool,
    /// Having read what stops working
    #[arg(long, requires = "compromised")]
    yes: bool,
    /// Tell each step, and end when the new CA signs
    #[arg(long)]
    wait: bool,
}

impl Ca {
    pub(crate) fn run(self) -> Result<Verdict, Failure> {
        match self {
            Self::Status(status) => block_on(status.run()),
            Self::Rotate(rotate) => block_on(rotate.run()),
        }
    }
}

type State = BTreeMap<String, String>;

impl Installation {
    async fn state(&self, client: &Client) -> Result<State, Failure> {
        let name = format!("{}-ca-status", self.service);
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), &self.namespace);
        let map = maps.get(&name).await.map_err(|error| {
            let hint = "name the installation with --namespace and --service";
            format!("ConfigMap `{name}` in namespace `{}` can't be read: {}; {hint}", self.namespace, brief(&error))
        })?;
        Ok(map.data.unwrap_or_default())
    }

    async fn ask(&self, client: &Client, wish: Wish) -> Result<(), Failure> {
        let secrets: Api<Secret> = Api::namespaced(client.clone(), &self.namespace);
        let patch = Patch::Merge(json!({"metadata": {"annotations": {ROTATE: wish.as_str()}}}));
        for name in stored_in(&self.service) {
            match secrets.patch_metadata(&name, &PatchParams::default(), &patch).await {
                Ok(_) => return Ok(()),
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => return Err(format!("Secret `{name}` can't be annotated: {}", brief(&error)).into()),
            }
        }
        Err(format!("there is no CA of `{}` in namespace `{}`", self.service, self.namespace).into())
    }
}

fn get<'s>(state: &'s State, key: &str) -> &'s str {
    state.get(key).map_or("", String::as_str)
}

impl Status {
    async fn run(self) -> Result<Verdict, Failure> {
        let state = self.installation.state(&client().await?).await?;
        self.output.print(&state, |state| {
            let line = |label: &str, key: &str| format!("{label:<12}{}\n", get(state, key));
            let mut text = line("Step", "step") + &line("Since", "since") + &line("Waits for", "waitsFor");
            text += &(line("Signs", "active") + &line("Until", "activeUntil"));
            if state.contains_key("next") {
                text += &line("Next", "next");
            }
            text + &line("Roots", "roots")
        })?;
        Ok(Verdict::Yes)
    }
}

impl Rotate {
    async fn run(self) -> Result<Verdict, Failure> {
        let client = client().await?;
        let before = self.installation.state(&client).await?;
        if self.compromised && !self.yes {
            say(ENDS)?;
            eprintln!("nothing was done; add --yes to replace the CA at once");
            return Ok(Verdict::No);
        }
        if !self.compromised && get(&before, "step") != "Steady" {
            let [step, waits] = ["step", "waitsFor"].map(|key| get(&before, key));
            return Err(format!("a change is under way already: {step}, waits for {waits}").into());
        }
        let wish = if self.compromised { Wish::Compromised } else { Wish::Planned };
        self.installation.ask(&client, wish).await?;
        if !self.wait {
            say("asked for; `durward ca status` tells how far it is\n")?;
            return Ok(Verdict::Yes);
        }
        let mut told = String::new();
        loop {
            // an outage of the API server ends nothing
            let state = self.installation.state(&client).await.unwrap_or_default();
            let news = format!("{}: waits for {}\n", get(&state, "step"), get(&state, "waitsFor"));
            let begun = !state.is_empty() && state != before;
            if begun && news != told {
                say(&news)?;
                told = news;
            }
            if begun && get(&state, "active") != get(&before, "active") {
                say(&format!("the new CA signs: {}\n", get(&state, "active")))?;
                return Ok(Verdict::Yes);
            }
            sleep(Duration::from_secs(1)).await;
        }
    }
}
