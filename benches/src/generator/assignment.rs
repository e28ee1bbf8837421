//! What the workers of a load are told, and what they tell.

use std::time::Instant;

use crate::generator::sample::Sample;
use crate::generator::scenario::Scenario;
use crate::generator::schedule::Pace;
use crate::generator::target::Target;

/// A load, as its workers know it.
#[derive(Clone, Debug)]
pub(crate) struct Assignment {
    /// What is done.
    pub(crate) scenario: Scenario,
    /// Where.
    pub(crate) target: Target,
    /// When.
    pub(crate) pace: Pace,
    /// Connections that run operations, of all workers.
    pub(crate) clients: u32,
    /// Connections that only are there, of all workers.
    pub(crate) idle: u32,
    /// Operations under way on one connection at most.
    pub(crate) depth: u32,
    /// Operations after which a connection is made anew; 0 for never.
    pub(crate) reconnect_after: u32,
    /// Operations of a worker that may wait for a connection.
    pub(crate) queue_max: usize,
    /// How many workers there are.
    pub(crate) workers: u16,
    /// Where chance begins.
    pub(crate) seed: u64,
}

/// What a worker is told.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Order {
    /// The load begins then.
    Begin(Instant),
    /// Say what you have counted.
    Tell,
    /// Begin nothing more.
    Stop,
    /// Give up what is not answered, and end.
    End,
}

/// What a worker tells.
#[derive(Debug)]
pub(crate) enum Report {
    /// All its connections are open.
    Connected,
    /// One of them cannot be made.
    Refused {
        /// The class of the error.
        class: String,
        /// Why.
        text: String,
    },
    /// What it has counted since it was last asked.
    Counted(Box<Sample>),
    /// Everything that began has been answered.
    Drained,
}
