//! The flags that name the domains of a cluster.

use durward_api::compile::ClusterDomains;

/// The arguments that name the domains policies are compiled for.
#[derive(Debug, Clone, clap::Args)]
pub struct ClusterDomainArguments {
    /// SPIFFE trust domain of the cluster's own workloads
    #[arg(long, value_name = "NAME", default_value = "cluster.local", env = "DURWARD_TRUST_DOMAIN")]
    pub trust_domain: String,
    /// DNS domain of the cluster's Services
    #[arg(long, value_name = "NAME", default_value = "cluster.local")]
    pub cluster_domain: String,
}

impl ClusterDomainArguments {
    pub fn to_domains(&self) -> ClusterDomains {
        self.clone().into()
    }
}

impl From<ClusterDomainArguments> for ClusterDomains {
    fn from(ClusterDomainArguments { trust_domain, cluster_domain }: ClusterDomainArguments) -> Self {
        Self { trust_domain, cluster_domain }
    }
}
