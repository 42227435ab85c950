//! Certificates and tokens of a trust domain: how they are made, and what makes one an SVID.
//!
//! Time and serial numbers are passed in. Keys are made by the crypto library and wiped when they are dropped.

pub mod authority;
pub mod bundle;
pub mod request;
pub mod rotation;
pub mod serial;
pub mod svid;
pub mod token;
