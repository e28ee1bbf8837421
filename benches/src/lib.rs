//! The throughput harness: the same load straight to PostgreSQL, through pgbouncer and through OptimaCore, on one machine, in
//! turns.
//!
//! `bench` (in `bin/`) is the program; all it does is here. It starts everything it measures by itself in a directory of its
//! own and removes it at the end. `README.md` says what the figures mean. `optimacore-bench`, the load generator, is in `generator`.

pub mod case;
pub mod dress;
pub mod generator;
pub mod idle;
pub mod interrupt;
pub mod load;
pub mod machine;
pub mod options;
pub mod place;
pub mod process;
pub mod program;
pub mod progress;
pub mod report;
pub mod run;
pub mod selects;
pub mod stack;
pub mod table;
pub mod usage;
pub mod wire;
