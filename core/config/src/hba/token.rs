//! Words of a `pg_hba.conf`: fields separated by blanks, items of a field by commas, quotes around either.

use std::iter::Peekable;
use std::str::Chars;

/// One item of a field.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Token {
    pub(crate) text: String,
    pub(crate) spelling: Spelling,
}

/// Whether an item begins with a quote. Words with a meaning have it only without.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Spelling {
    Bare,
    Quoted,
}

impl Token {
    /// Whether it is this word, with the word's meaning.
    pub(crate) fn is(&self, word: &str) -> bool {
        self.spelling == Spelling::Bare && self.text == word
    }

    /// What stands behind a mark such as `+` or `@` that is not quoted.
    pub(crate) fn behind(&self, mark: char) -> Option<&str> {
        self.text.strip_prefix(mark).filter(|rest| self.spelling == Spelling::Bare && !rest.is_empty())
    }
}

/// The fields of a line, each with its items.
pub(crate) fn fields(line: &str) -> Result<Vec<Vec<Token>>, String> {
    let mut rest = line.chars().peekable();
    let mut out = Vec::new();
    loop {
        while rest.next_if(|c| is_blank(*c) || *c == ',').is_some() {}
        let mut field = Vec::new();
        while let Some((token, end)) = item(&mut rest)? {
            field.push(token);
            if end == End::Blank {
                break;
            }
            while rest.next_if(|c| is_blank(*c) || *c == ',').is_some() {}
        }
        if field.is_empty() {
            return Ok(out);
        }
        out.push(field);
    }
}

/// What stands behind an item.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    Comma,
    Blank,
}

fn item(rest: &mut Peekable<Chars<'_>>) -> Result<Option<(Token, End)>, String> {
    let mut text = String::new();
    let begins_quoted = rest.peek() == Some(&'"');
    let (mut inside, mut end) = (false, End::Blank);
    while let Some(c) = rest.next() {
        match c {
            // a quote twice inside quotes stands for itself
            '"' if inside && rest.next_if_eq(&'"').is_some() => text.push('"'),
            '"' => inside = !inside,
            '#' if !inside => {
                rest.by_ref().for_each(drop);
            }
            ',' if !inside => {
                end = End::Comma;
                break;
            }
            c if !inside && is_blank(c) => break,
            c => text.push(c),
        }
    }
    if inside {
        return Err("a quote is not closed".to_owned());
    }
    let spelling = if begins_quoted { Spelling::Quoted } else { Spelling::Bare };
    Ok((begins_quoted || !text.is_empty()).then_some((Token { text, spelling }, end)))
}

fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spelt(line: &str) -> String {
        let one = |token: &Token| match token.spelling {
            Spelling::Bare => token.text.clone(),
            Spelling::Quoted => format!("<{}>", token.text),
        };
        let all = fields(line).unwrap();
        all.iter().map(|field| field.iter().map(one).collect::<Vec<_>>().join("+")).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn fields_are_separated_by_blanks_and_items_by_commas() {
        assert_eq!(spelt("host  all\tann,bob, eve  10.0.0.0/8 md5 # why"), "host all ann+bob+eve 10.0.0.0/8 md5");
        assert_eq!(spelt("a ,b"), "a b");
        assert_eq!(spelt("a,\"b c\",\"d,e\" f"), "a+<b c>+<d,e> f");
        assert_eq!(spelt("\"all\" x\"y z\" \"a\"\"b\" \"\""), "<all> xy z <a\"b> <>");
        assert_eq!(spelt("  # nothing"), "");
        assert_eq!(spelt("a#b"), "a");
        assert!(fields("local \"all").is_err());
    }
}
