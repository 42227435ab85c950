//! The decision engine of Durward: values in, values out.
//!
//! Nothing here reads a clock, a file or a socket, takes a lock or waits. A [`principal::Principal`] and a
//! request go in together with an instant and an immutable snapshot; a decision comes out, the same one every time.

pub mod host;
pub mod principal;
pub mod risk;
pub mod scope;
