//! `optimacore-bench`: an open-loop load generator on our own protocol and runtime.
//!
//! `command` does what the command line says: it makes a `scenario`'s data (`talk`), starts `worker`s (`measure`), and keeps
//! what they have counted (`record`, `results`). A closed loop is there too, for comparing with pgbench (`selfcheck`);
//! `curve` compares servers.

mod assignment;
pub mod command;
mod curve;
mod hlog;
mod host;
mod measure;
mod metric;
pub mod options;
mod peer;
mod record;
mod results;
mod sample;
pub mod scenario;
pub mod schedule;
mod scorecard;
mod selfcheck;
mod series;
mod talk;
mod target;
mod template;
pub mod trouble;
mod worker;
