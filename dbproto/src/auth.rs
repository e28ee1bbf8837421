//! Authentication in both roles: we as a client of Postgres ([`client`]), and clients of ours ([`server`]).
//!
//! Source: "Authentication" in the protocol chapter, RFC 5802 and RFC 7677.

pub mod client;
pub mod keys;
pub mod server;

pub use client::{AuthError, ClientAuth, Proof, Proofs, Step};
pub use keys::Credentials;
