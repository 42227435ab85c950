//! `durward gate`: the enforcing proxy beside one application. It authenticates callers, asks the engine, and forwards what is
//! allowed.
//!
//! It decides nothing itself, and it reads and answers requests as the doors do.
//! Begin with `wiring`, then read `inbound`.
//!
//! ```text
//!           mTLS, HTTP/1.1 or HTTP/2            plain HTTP on loopback
//! callers ─────────────────────────▶ inbound ───────────────────────▶ application
//!                                       │ the engine decides here            │
//! services ◀──────── mTLS ────────── outbound ◀───── plain HTTP ─────────────┘
//! ```
//!
//! Policies, certificate and trust come from files or from the controller.

mod application;
mod approval_requests;
mod certificate_files;
mod error;
mod exchange;
mod forwarding;
mod identity;
mod inbound;
mod key_use_reporter;
mod outbound;
mod proxy_error;
mod server_verifier;
mod settings;
mod snapshot;
mod tunnel;
mod wiring;

pub use certificate_files::CertificateFiles;
pub use error::{CertificateFileProblem, GateError};
pub use settings::{GateAddresses, GateLimits, GateSettings, GateSource, RecheckedStreams};
pub use wiring::{ClusterGate, GateCertificate, LocalGate, run};
