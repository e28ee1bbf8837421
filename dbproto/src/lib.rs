//! The Postgres wire protocol 3.0, both roles, sans-IO.
//!
//! Bytes in, facts out: framing, start-up, messages, and the machine that knows what a backend owes. Nothing here reads a
//! socket, a clock or a random source, and nothing knows of configuration or pools. A peer's bytes give an error value,
//! never a panic and never an allocation sized by a length the peer claimed.

#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

pub mod auth;
pub mod frame;
pub mod message;
pub mod pipeline;
pub mod sql;
pub mod startup;
