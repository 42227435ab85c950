//! Certificates and tokens of a SPIFFE trust domain: the authority, the X.509-SVID and token profiles, and the rotation
//! plan.
//!
//! It is not for storing keys, serving certificates, or deciding who gets one: callers pass in the time, the serial
//! numbers and the verified identity, and this crate does no I/O. Begin reading at
//! [`authority::CertificateAuthority::issue`], then [`svid::verify_client`], which checks what it issues.

pub mod authority;
pub mod bundle;
pub mod client_roots;
pub mod request;
pub mod rotation;
pub mod serial;
pub mod svid;
pub mod token;
