//! From the file as it is typed to a scenario in which everything is known.

use std::ops::Range;

use toml::Spanned;

use super::raw::{RawOperation, RawScenario, RawSource, RawStep};
use super::{
    CLIENT, Column, Copied, Data, Expected, Flow, Form, LINE, Mode, Operation, Scenario, ScenarioError, Source,
    Statement, Step,
};
use crate::generator::template::{Piece, Template, Use};

/// The scenarios that come with the program.
const BUILT_IN: [(&str, &str); 9] = [
    ("point-read", include_str!("../../../scenarios/point-read.toml")),
    ("range-read", include_str!("../../../scenarios/range-read.toml")),
    ("mix", include_str!("../../../scenarios/mix.toml")),
    ("transaction", include_str!("../../../scenarios/transaction.toml")),
    ("large-row", include_str!("../../../scenarios/large-row.toml")),
    ("copy", include_str!("../../../scenarios/copy.toml")),
    ("unprepared", include_str!("../../../scenarios/unprepared.toml")),
    ("session-state", include_str!("../../../scenarios/session-state.toml")),
    ("pgbench-select", include_str!("../../../scenarios/pgbench-select.toml")),
];

/// Longest text that a value may be made of, and most lines of a COPY.
const TEXT_LEN_MAX: i64 = 1 << 20;
const LINES_MAX: i64 = 100_000;

/// The names of the scenarios that come with the program.
pub fn names() -> impl Iterator<Item = &'static str> {
    BUILT_IN.iter().map(|(name, _)| *name)
}

/// The text of a scenario that comes with the program.
pub fn built_in(name: &str) -> Option<&'static str> {
    BUILT_IN.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
}

/// Reads a scenario; `mode` goes for all operations that do not say how they are sent.
///
/// # Errors
/// The first thing that is wrong, with its line.
pub fn read(file: &str, text: &str, mode: Option<Mode>) -> Result<Scenario, ScenarioError> {
    Reader { file, text, mode }.scenario()
}

struct Reader<'t> {
    file: &'t str,
    text: &'t str,
    mode: Option<Mode>,
}

impl Reader<'_> {
    fn error(&self, at: &Range<usize>, text: impl Into<String>) -> ScenarioError {
        let before = self.text.as_bytes().get(..at.start).unwrap_or(self.text.as_bytes());
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        ScenarioError { file: self.file.to_owned(), line, text: text.into() }
    }

    fn scenario(&self) -> Result<Scenario, ScenarioError> {
        let raw: RawScenario = toml::from_str(self.text).map_err(|error| {
            let end = self.text.len();
            self.error(&error.span().unwrap_or(end..end), error.message().trim())
        })?;
        if !is_name(raw.name.get_ref()) {
            return Err(self.error(&raw.name.span(), "a name has letters, digits and -, up to 40 of them"));
        }
        if raw.operation.is_empty() {
            return Err(self.error(&(0..0), "there is no [[operation]]"));
        }
        let session = raw.session.iter().map(|text| {
            let slot = |name: &str| (name == "client").then_some(CLIENT);
            self.template(text, Use::Sql, slot)
        });
        let mut operations: Vec<Operation> = Vec::new();
        for (number, operation) in raw.operation.iter().enumerate() {
            let name = &operation.get_ref().name;
            if operations.iter().any(|known| known.name == *name.get_ref()) {
                return Err(
                    self.error(&name.span(), format!("there are two operations of the name {}", name.get_ref()))
                );
            }
            operations.push(self.operation(operation, number)?);
        }
        Ok(Scenario {
            name: raw.name.get_ref().clone(),
            description: raw.description,
            text: self.text.to_owned(),
            session: session.collect::<Result<_, _>>()?,
            operations,
            data: Data {
                setup: raw.data.setup,
                checks: raw.data.check.into_iter().map(|check| (check.sql, check.is)).collect(),
            },
        })
    }

    fn operation(&self, spanned: &Spanned<RawOperation>, number: usize) -> Result<Operation, ScenarioError> {
        let raw = spanned.get_ref();
        let name = raw.name.get_ref();
        if !is_name(name) {
            return Err(self.error(&raw.name.span(), "a name has letters, digits and -, up to 40 of them"));
        }
        if raw.step.is_empty() {
            return Err(self.error(&spanned.span(), format!("the operation {name} has no [[operation.step]]")));
        }
        let weight = match &raw.weight {
            None => 1,
            Some(weight) => u32::try_from(*weight.get_ref())
                .ok()
                .filter(|weight| (1..=1_000_000).contains(weight))
                .ok_or_else(|| self.error(&weight.span(), "a weight is from 1 to 1000000"))?,
        };
        let names: Vec<&str> = raw.values.keys().map(String::as_str).collect();
        let slot = |name: &str| match name {
            "client" => Some(CLIENT),
            "line" => Some(LINE),
            other => names.iter().position(|known| *known == other).map(|index| index + 2),
        };
        let sources = raw.values.values().map(|source| self.source(source, raw, &slot)).collect::<Result<_, _>>()?;
        let mode = raw.mode.or(self.mode).unwrap_or(Mode::Prepared);
        let mut steps = Vec::new();
        for (step_number, step) in raw.step.iter().enumerate() {
            let statement_name = format!("s{number}_{step_number}");
            steps.push(self.step(step.get_ref(), mode, statement_name, &slot)?);
        }
        let flow = if raw.pipelined { Flow::Together } else { Flow::OneByOne };
        if let Some(step) = raw.step.iter().find(|step| raw.pipelined && step.get_ref().copy.is_some()) {
            return Err(self.error(&step.get_ref().sql.span(), "a COPY cannot be part of a pipelined operation"));
        }
        Ok(Operation { name: name.clone(), weight, flow, sources, steps })
    }

    fn source(
        &self,
        spanned: &Spanned<RawSource>,
        operation: &RawOperation,
        slot: &impl Fn(&str) -> Option<usize>,
    ) -> Result<Source, ScenarioError> {
        let error = |text: String| self.error(&spanned.span(), text);
        match spanned.get_ref() {
            RawSource { uniform: Some((from, to)), sum: None, text: None } if from <= to => {
                Ok(Source::Uniform(*from, *to))
            }
            RawSource { uniform: Some(_), sum: None, text: None } => Err(error("the range is empty".to_owned())),
            RawSource { uniform: None, sum: Some((of, more)), text: None } => {
                let is_number = operation.values.get(of).is_some_and(|source| source.get_ref().uniform.is_some());
                match slot(of) {
                    Some(slot) if is_number || of == "client" => Ok(Source::Sum(slot, *more)),
                    _ => Err(error(format!("{of} is not a value that is uniform"))),
                }
            }
            RawSource { uniform: None, sum: None, text: Some(len) } => u32::try_from(*len)
                .ok()
                .filter(|len| i64::from(*len) <= TEXT_LEN_MAX)
                .map(Source::Text)
                .ok_or_else(|| error(format!("a text is up to {TEXT_LEN_MAX} characters long"))),
            RawSource { .. } => Err(error("a value has one of uniform, sum and text".to_owned())),
        }
    }

    fn step(
        &self,
        raw: &RawStep,
        mode: Mode,
        name: String,
        slot: &impl Fn(&str) -> Option<usize>,
    ) -> Result<Step, ScenarioError> {
        let copy = match (&raw.copy, &raw.lines) {
            (None, None) => None,
            (Some(line), lines) => {
                let lines = match lines {
                    None => 1,
                    Some(lines) => u32::try_from(*lines.get_ref())
                        .ok()
                        .filter(|count| (1..=LINES_MAX).contains(&i64::from(*count)))
                        .ok_or_else(|| self.error(&lines.span(), format!("lines are from 1 to {LINES_MAX}")))?,
                };
                Some(Copied { line: self.template(line, Use::Plain, slot)?, lines })
            }
            (None, Some(lines)) => return Err(self.error(&lines.span(), "lines belong to a copy")),
        };
        let template = self.template(&raw.sql, Use::Sql, slot)?;
        // the extended protocol has nothing to give a COPY
        let mode = if copy.is_some() { Mode::Simple } else { raw.mode.unwrap_or(mode) };
        let form = match mode {
            Mode::Simple => Form::Simple(template),
            Mode::Unprepared => Form::Unprepared(self.statement(&raw.sql, &template)?),
            Mode::Prepared => Form::Prepared(name, self.statement(&raw.sql, &template)?),
        };
        let columns = |columns: &Option<Vec<Spanned<String>>>| {
            let read =
                |columns: &Vec<Spanned<String>>| columns.iter().map(|column| self.column(column, slot)).collect();
            columns.as_ref().map(read).transpose()
        };
        let expected = Expected {
            rows: raw.rows,
            first: columns(&raw.first)?,
            last: columns(&raw.last)?,
            tag: raw.tag.as_ref().map(|tag| self.template(tag, Use::Plain, slot)).transpose()?,
        };
        Ok(Step { form, copy, expected })
    }

    /// Values become parameters, which they can outside of quotes only.
    fn statement(&self, sql: &Spanned<String>, template: &Template) -> Result<Statement, ScenarioError> {
        let mut text = String::new();
        let mut parameters: Vec<usize> = Vec::new();
        for piece in &template.0 {
            match piece {
                Piece::Text(part) => text.push_str(part),
                Piece::Literal(slot) => {
                    let known = parameters.iter().position(|known| known == slot);
                    let index = known.unwrap_or_else(|| {
                        parameters.push(*slot);
                        parameters.len() - 1
                    });
                    text.push_str(&format!("${}", index + 1));
                }
                Piece::Value(_) => {
                    return Err(self.error(&sql.span(), "a value within quotes needs mode = \"simple\" in this step"));
                }
            }
        }
        Ok(Statement { text, parameters })
    }

    fn column(&self, raw: &Spanned<String>, slot: &impl Fn(&str) -> Option<usize>) -> Result<Column, ScenarioError> {
        match raw.get_ref().as_str() {
            "*" => Ok(Column::Any),
            text => match text.strip_prefix('#').map(str::parse) {
                Some(Ok(len)) => Ok(Column::Length(len)),
                Some(Err(_)) => Err(self.error(&raw.span(), "a number of bytes follows the #")),
                None => Ok(Column::Is(self.template(raw, Use::Plain, slot)?)),
            },
        }
    }

    fn template(
        &self,
        text: &Spanned<String>,
        usage: Use,
        slot: impl Fn(&str) -> Option<usize>,
    ) -> Result<Template, ScenarioError> {
        if text.get_ref().contains('\0') {
            return Err(self.error(&text.span(), "a text has no zero bytes"));
        }
        Template::parse(text.get_ref(), usage, slot)
            .map_err(|name| self.error(&text.span(), format!("there is no value of the name {name}")))
    }
}

fn is_name(text: &str) -> bool {
    (1..=40).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generator::template::Value;

    const HEAD: &str = "name = \"x\"\ndescription = \"y\"\n";

    fn error(rest: &str) -> String {
        read("x.toml", &format!("{HEAD}{rest}"), None).unwrap_err().to_string()
    }

    #[test]
    fn all_scenarios_that_come_with_the_program_are_right() {
        for name in names() {
            let scenario = read(name, built_in(name).unwrap(), None).unwrap();
            assert_eq!(scenario.name, name);
            for mode in [Mode::Simple, Mode::Unprepared] {
                read(name, built_in(name).unwrap(), Some(mode)).unwrap();
            }
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_file_and_line() {
        assert_eq!(error(""), "x.toml:1: there is no [[operation]]");
        assert!(error("\n[[operation]]\nname = \"a\"\nwhat = 1\n").starts_with("x.toml:6: unknown field `what`"));
        assert!(error("\n[[operation]]\nname = \"a\"\n").starts_with("x.toml:4: the operation a has no"));
        let step = "[[operation]]\nname = \"a\"\n[[operation.step]]\nsql = \"select :key\"\n";
        assert_eq!(error(step), "x.toml:6: there is no value of the name key");
        let step = "[[operation]]\nname = \"a\"\nweight = 0\n[[operation.step]]\nsql = \"select 1\"\n";
        assert_eq!(error(step), "x.toml:5: a weight is from 1 to 1000000");
        let step = "[[operation]]\nname = \"a\"\n[[operation.step]]\nsql = \"select ':client'\"\n";
        assert_eq!(error(step), "x.toml:6: a value within quotes needs mode = \"simple\" in this step");
        assert!(error("[[operation\n").starts_with("x.toml:3: "));
    }

    #[test]
    fn a_value_that_is_used_twice_is_one_parameter_and_a_sum_follows_its_number() {
        let text = "[[operation]]\nname = \"a\"\nvalues = { key = { uniform = [5, 5] }, a_to = { sum = [\"key\", 9] } }\n\
                    [[operation.step]]\nsql = \"select :key, :a_to, :key\"\nfirst = [\":key\", \"*\", \"#1\"]\n";
        let scenario = read("x.toml", &format!("{HEAD}{text}"), None).unwrap();
        let operation = &scenario.operations[0];
        let values = operation.draw(3, &mut fastrand::Rng::with_seed(1));
        let expected = [3, 0, 14, 5].map(Value::Integer);
        assert_eq!(values, expected);
        let Form::Prepared(_, statement) = &operation.steps[0].form else { panic!("{:?}", operation.steps) };
        assert_eq!(*statement, Statement { text: "select $1, $2, $1".into(), parameters: vec![3, 2] });
    }
}
