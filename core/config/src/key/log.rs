//! The keys of `[log]`.

use super::{Section, key};

pub(crate) const LOG: Section = Section {
    title: "[log]",
    name: "log",
    doc: "What is logged, to standard error. Writing waits for nobody: lines that come faster than they can be written are lost and \
          counted. What is said again unchanged is told once a minute, with `times`.",
    keys: &[
        key(
            "level",
            "`error`, `warn`, `info`, `debug`, `trace`",
            "\"info\"",
            "The least important messages that are logged.",
        ),
        key(
            "format",
            "`text`, `json`",
            "\"text\"",
            "How a line looks: for people, or one JSON object with `time`, `level`, `message` and what else there is to say.",
        ),
        key(
            "connections",
            "`on`, `off`",
            "\"off\"",
            "Whether it is told when a client connects, logs in and leaves, and then why, after how long, and what it has sent and got.",
        ),
        key(
            "slow_statements",
            "duration or `\"off\"`",
            "\"off\"",
            "Requests that take at least so long are told with their last statement (without its constants), pool, client, rows and where the time went: `queue_us`, `pipe_wait_us`, `server_us`. At most ten a second on each core; `left_out` tells how many more there were. Needs `stats.statements`.",
        ),
    ],
};
