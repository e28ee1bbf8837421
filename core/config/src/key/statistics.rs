//! The keys of `[stats]`.

use super::{Section, key};

pub(crate) const STATS: Section = Section {
    title: "[stats]",
    name: "stats",
    doc: "Statistics, as `ctl stats` reads them.",
    keys: &[
        key("socket", "path", "", "Unix socket that gives out statistics. Without the key there is none."),
        key(
            "statements",
            "number, at most 10000",
            "500",
            "Statements that are counted singly on each core (`SHOW STATEMENTS`), constants left out. When there are more, those \
             that have not run lately are counted together. Each takes up to 4 KiB. `0`: none.",
        ),
        key(
            "export_dir",
            "path",
            "",
            "Directory that what is measured is written into (`docs/export.md`); it must be there. While it cannot be written to, statistics are lost and nothing else. Without the key: nothing is written.",
        ),
        key("export_interval", "duration, at least 100ms", "\"1s\"", "How often it is written."),
        key(
            "export_size_max",
            "size such as `\"512MiB\"`, at least `\"1MiB\"`",
            "\"1GiB\"",
            "Bytes of the files there that are complete; the oldest are removed.",
        ),
    ],
};
