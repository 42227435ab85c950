//! The standalone lane: `durward up`, its commands and gates, with no Kubernetes.

mod admin;
mod agent;
mod api_keys;
mod approvals;
mod architecture;
mod audit_chain;
mod authn_credentials;
mod authn_federation;
mod authn_keys;
mod conditions;
mod corpus;
mod descriptors;
mod documents;
mod doors;
mod examples;
mod exchange;
mod expiry;
mod gate;
mod openfga;
mod openfga_models;
mod policy_tools;
mod relations;
mod step_up;
mod step_up_browser;
mod step_up_doors;
mod up;
