//! The file of a scenario as it is typed.

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::Spanned;

use super::Mode;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawScenario {
    pub(super) name: Spanned<String>,
    pub(super) description: String,
    #[serde(default)]
    pub(super) session: Vec<Spanned<String>>,
    #[serde(default)]
    pub(super) data: RawData,
    #[serde(default)]
    pub(super) operation: Vec<Spanned<RawOperation>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawData {
    #[serde(default)]
    pub(super) setup: Vec<String>,
    #[serde(default)]
    pub(super) check: Vec<RawCheck>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawCheck {
    pub(super) sql: String,
    pub(super) is: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawOperation {
    pub(super) name: Spanned<String>,
    pub(super) weight: Option<Spanned<i64>>,
    pub(super) mode: Option<Mode>,
    #[serde(default)]
    pub(super) pipelined: bool,
    #[serde(default)]
    pub(super) values: BTreeMap<String, Spanned<RawSource>>,
    #[serde(default)]
    pub(super) step: Vec<Spanned<RawStep>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSource {
    pub(super) uniform: Option<(i64, i64)>,
    pub(super) sum: Option<(String, i64)>,
    pub(super) text: Option<i64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawStep {
    pub(super) sql: Spanned<String>,
    pub(super) mode: Option<Mode>,
    pub(super) rows: Option<u64>,
    pub(super) first: Option<Vec<Spanned<String>>>,
    pub(super) last: Option<Vec<Spanned<String>>>,
    pub(super) tag: Option<Spanned<String>>,
    pub(super) copy: Option<Spanned<String>>,
    pub(super) lines: Option<Spanned<i64>>,
}
