//! Pinned executors, the socket ring, the mesh between shards: everything a shard asks of the machine it runs on.
//!
//! The only crate that names glommio or io_uring. It knows nothing of Postgres, of configuration files or of sessions: it
//! runs a [`Reactor`] per core and hands it an [`Io`]. Invariants: a reactor is called on its own thread only and never
//! re-entrantly; a [`SocketId`] of a closed socket does nothing; an idle socket owns no buffer.

#![deny(unsafe_op_in_unsafe_fn)]

mod batch;
mod buffer;
mod executor;
pub mod listen;
mod mesh;
pub mod reactor;
mod socket;
mod tls;
pub mod topology;
mod uring;

pub use batch::Expectation;
pub use executor::{Plan, Running, ShardHandle, StartError, launch};
pub use reactor::{Address, Closed, Event, Io, Load, Reactor, ShardId, SocketId, Tenure, Token};
pub use tls::{Agreed, Tls, TlsSide};
