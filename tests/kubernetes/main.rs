//! The Kubernetes lane: Durward in a real cluster, which `durward-cluster` brings up.

mod access;
mod agent;
mod api_server;
mod ca;
mod cert_manager;
mod federation;
mod gate;
mod identity;
mod identity_v1beta1;
mod image;
mod injection;
mod install;
mod install_chart;
mod install_disruption;
mod oldest;
mod orders;
mod rules;
mod spiffe_crate;
