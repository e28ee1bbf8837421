//! What a load is made of: its data, its operations with their weights, and what every reply must be. Read from TOML; whatever
//! is wrong with a file is said with its name and line.
//!
//! `benches/README.md` has the keys, `benches/scenarios/` the scenarios that come with the program.

use std::fmt;

use crate::generator::template::{Template, Value};

mod raw;
mod read;

pub use read::{built_in, names, read};

/// A load.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Its name.
    pub(crate) name: String,
    /// What it stands for, in a sentence.
    pub(crate) description: String,
    /// The whole file, of which the hash goes into `run.json`.
    pub(crate) text: String,
    /// What must be there before.
    pub(crate) data: Data,
    /// What each connection runs when it has logged in.
    pub(crate) session: Vec<Template>,
    /// What connections do.
    pub(crate) operations: Vec<Operation>,
}

/// What must be in the database.
#[derive(Clone, Debug, Default)]
pub(crate) struct Data {
    /// Statements that make it; run when a check does not hold.
    pub(crate) setup: Vec<String>,
    /// Queries, and what the first column of their only row must be.
    pub(crate) checks: Vec<(String, String)>,
}

/// Something that is done as a whole: its latency is from when it was meant to begin to the last reply.
#[derive(Clone, Debug)]
pub(crate) struct Operation {
    /// Its name.
    pub(crate) name: String,
    /// How often it is chosen, in relation to the others' weights.
    pub(crate) weight: u32,
    /// Whether steps wait for each other.
    pub(crate) flow: Flow,
    /// Where its values come from. Slots of values: the client's number, the number of a COPY's line, then these.
    pub(crate) sources: Vec<Source>,
    /// What it sends.
    pub(crate) steps: Vec<Step>,
}

/// Whether the steps of an operation wait for each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Flow {
    /// Each is sent when the one before is answered.
    OneByOne,
    /// All are sent at once.
    Together,
}

/// How a statement is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Deserialize, serde::Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// As text in a Query message.
    Simple,
    /// Parsed anew each time, without a name.
    Unprepared,
    /// Prepared once per connection.
    Prepared,
}

/// Where a value comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Source {
    /// Any number from the one to the other, all alike.
    Uniform(i64, i64),
    /// What is in that slot and this much more.
    Sum(usize, i64),
    /// So many random letters.
    Text(u32),
}

/// One request and its reply.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    /// How it is sent.
    pub(crate) form: Form,
    /// What is sent when the server asks for a COPY's data.
    pub(crate) copy: Option<Copied>,
    /// What the reply must be.
    pub(crate) expected: Expected,
}

/// The request of a step.
#[derive(Clone, Debug)]
pub(crate) enum Form {
    /// A Query.
    Simple(Template),
    /// Parse, Bind, Describe, Execute and Sync.
    Unprepared(Statement),
    /// The same without Parse, of a statement of this name.
    Prepared(String, Statement),
}

/// A statement with its parameters.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Statement {
    /// The text with `$1` and so on.
    pub(crate) text: String,
    /// The slots of its parameters.
    pub(crate) parameters: Vec<usize>,
}

/// The data of a COPY.
#[derive(Clone, Debug)]
pub(crate) struct Copied {
    /// One line.
    pub(crate) line: Template,
    /// How many.
    pub(crate) lines: u32,
}

/// What a reply must be; what is `None` may be anything.
#[derive(Clone, Debug, Default)]
pub(crate) struct Expected {
    /// How many rows.
    pub(crate) rows: Option<u64>,
    /// The columns of the first.
    pub(crate) first: Option<Vec<Column>>,
    /// The columns of the last.
    pub(crate) last: Option<Vec<Column>>,
    /// The tag of its CommandComplete.
    pub(crate) tag: Option<Template>,
}

/// What a column must be.
#[derive(Clone, Debug)]
pub(crate) enum Column {
    /// Whatever it is.
    Any,
    /// So many bytes.
    Length(usize),
    /// This text.
    Is(Template),
}

/// What is wrong with a scenario, and where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ScenarioError {
    pub(crate) file: String,
    pub(crate) line: usize,
    pub(crate) text: String,
}

impl fmt::Display for ScenarioError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.text)
    }
}

impl std::error::Error for ScenarioError {}

/// The slot of the client's number.
pub(crate) const CLIENT: usize = 0;
/// The slot of the number of a COPY's line.
pub(crate) const LINE: usize = 1;

impl Scenario {
    /// An operation of its weight's likelihood.
    pub(crate) fn choose(&self, random: &mut fastrand::Rng) -> usize {
        let all: u32 = self.operations.iter().map(|operation| operation.weight).sum();
        let mut left = random.u32(0..all.max(1));
        for (index, operation) in self.operations.iter().enumerate() {
            match left.checked_sub(operation.weight) {
                Some(rest) => left = rest,
                None => return index,
            }
        }
        0
    }

    /// Whether a connection may have several operations under way: none has steps that wait for each other.
    pub(crate) fn is_pipelining(&self) -> bool {
        self.operations.iter().all(|operation| {
            let waits = operation.flow == Flow::OneByOne && operation.steps.len() > 1;
            !waits && operation.steps.iter().all(|step| step.copy.is_none())
        })
    }
}

impl Operation {
    /// Values for one time.
    pub(crate) fn draw(&self, client: u32, random: &mut fastrand::Rng) -> Vec<Value> {
        let mut out = Vec::with_capacity(self.sources.len() + 2);
        out.extend([Value::Integer(i64::from(client)), Value::Integer(0)]);
        for source in &self.sources {
            let value = match source {
                Source::Uniform(from, to) => Value::Integer(random.i64(*from..=*to)),
                Source::Sum(..) => Value::Integer(0),
                Source::Text(len) => Value::Text((0..*len).map(|_| random.alphanumeric()).collect()),
            };
            out.push(value);
        }
        // those that are made of others may stand before them
        for (index, source) in self.sources.iter().enumerate() {
            if let Source::Sum(of, more) = source
                && let Some(Value::Integer(value)) = out.get(*of)
            {
                let sum = Value::Integer(value.saturating_add(*more));
                if let Some(place) = out.get_mut(index + 2) {
                    *place = sum;
                }
            }
        }
        out
    }
}
