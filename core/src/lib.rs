//! OptimaCore's data plane: any Postgres client on one side, PostgreSQL on the other, one shard per core between.
//!
//! A shard ([`shard`]) owns sessions ([`session`]), server connections ([`server`], [`pipe`]) and its part of the pools
//! ([`pool`]). Bytes come in by `Shard::on_event`, and all that happens is decided in the turn they came in.
//! ARCHITECTURE.md draws the picture.

mod admin;
mod bound;
mod cancel;
mod catalog;
mod clerk;
mod deadline;
mod dress;
mod error;
mod event;
mod export;
mod http;
mod listen;
mod log;
mod machine;
mod memory;
mod pace;
mod pipe;
pub mod plane;
mod pool;
mod probe;
mod replication;
mod server;
mod session;
mod shape;
mod shard;
mod share;
mod slab;
mod statement;
mod stock;
mod stopwatch;
mod systemd;
mod tally;
mod throttle;
mod tls;
mod upstream;
mod verdict;
