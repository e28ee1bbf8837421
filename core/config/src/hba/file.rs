//! A file in the syntax of `pg_hba.conf`.

use std::path::Path;

use super::token::{self, Token};
use super::{Rule, row};
use crate::error::ConfigError;

/// Files within files (`@name`) at most.
const DEPTH_MAX: u32 = 10;
const FILE_LEN_MAX: u64 = 16 * 1024 * 1024;

/// Reads the rows of a file; all that is wrong with it is told.
pub(crate) fn load(path: &Path) -> Result<Vec<Rule>, Vec<ConfigError>> {
    let file = path.display().to_string();
    let text = text_of(path).map_err(|message| vec![ConfigError { file: file.clone(), place: None, message }])?;
    let (mut rows, mut errors) = (Vec::new(), Vec::new());
    for (number, line) in lines(&text) {
        let place = format!("{file}:{number}");
        let read = token::fields(&line).and_then(|fields| expand(fields, path, 0));
        let read = read.and_then(|fields| (!fields.is_empty()).then(|| row::read(place, &fields)).transpose());
        match read {
            Ok(row) => rows.extend(row),
            Err(message) => errors.push(ConfigError { file: file.clone(), place: Some((number, 1)), message }),
        }
    }
    if rows.is_empty() && errors.is_empty() {
        let message = "there is no row in it, so nobody could come in".to_owned();
        errors.push(ConfigError { file, place: None, message });
    }
    if errors.is_empty() { Ok(rows) } else { Err(errors) }
}

pub(crate) fn text_of(path: &Path) -> Result<String, String> {
    let len = std::fs::metadata(path).map_err(|error| error.to_string())?.len();
    if len > FILE_LEN_MAX {
        return Err(format!("is too long: {len} bytes"));
    }
    std::fs::read_to_string(path).map_err(|error| error.to_string())
}

/// Lines with the number of their first part; one that ends with a backslash goes on in the next.
pub(crate) fn lines(text: &str) -> Vec<(u32, String)> {
    let mut out: Vec<(u32, String)> = Vec::new();
    let mut goes_on = false;
    for (number, line) in (1..).zip(text.lines()) {
        let (part, more) = line.strip_suffix('\\').map_or((line, false), |part| (part, true));
        match out.last_mut().filter(|_| goes_on) {
            Some((_, whole)) => whole.push_str(part),
            None => out.push((number, part.to_owned())),
        }
        goes_on = more;
    }
    out
}

/// Puts the items of a file in the place of its name, `@name`, where databases and users stand.
fn expand(fields: Vec<Vec<Token>>, file: &Path, depth: u32) -> Result<Vec<Vec<Token>>, String> {
    let expanded = fields.into_iter().enumerate().map(|(index, field)| match index {
        1 | 2 => expand_items(field, file, depth),
        _ => Ok(field),
    });
    expanded.collect()
}

fn expand_items(items: Vec<Token>, file: &Path, depth: u32) -> Result<Vec<Token>, String> {
    let mut out = Vec::new();
    for token in items {
        let Some(name) = token.behind('@') else {
            out.push(token);
            continue;
        };
        if depth >= DEPTH_MAX {
            return Err(format!("\"@{name}\": more than {DEPTH_MAX} files within files"));
        }
        let inner = file.parent().unwrap_or_else(|| Path::new("")).join(name);
        let text = text_of(&inner).map_err(|error| format!("\"@{name}\": {}: {error}", inner.display()))?;
        for (number, line) in lines(&text) {
            let fields = token::fields(&line).map_err(|error| format!("{}:{number}: {error}", inner.display()))?;
            out.extend(expand_items(fields.into_iter().flatten().collect(), &inner, depth + 1)?);
        }
    }
    Ok(out)
}
