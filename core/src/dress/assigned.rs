//! What value a `SET` gives, where its words tell.

use dbproto::sql::{Backslash, Lexer, Token};

/// The value that a carried `SET` gives to a parameter, as `set_config` takes it: one constant, or for `search_path` a list of
/// names. None where more than that stands there.
pub(super) fn assigned(name: &str, text: &str) -> Option<String> {
    let value = text.get(value_at(text)?..)?.trim();
    if name == "search_path" {
        return names(value);
    }
    if let Some((inner, after)) = quoted(value, '\'') {
        return after.is_empty().then_some(inner);
    }
    let word = value.to_ascii_lowercase();
    let plain = |character: char| character.is_ascii_alphanumeric() || matches!(character, '_' | '.' | '-');
    let known = !word.is_empty() && word.chars().all(plain) && !matches!(&*word, "default" | "local");
    // a word is folded, which changes nothing of a number but its exponent
    known.then_some(word)
}

/// Where the value begins: behind `=`, `TO` or `TIME ZONE`.
fn value_at(text: &str) -> Option<usize> {
    let mut lexer = Lexer::new(text.as_bytes(), Backslash::Literal);
    let mut time = false;
    while let Some(token) = lexer.poll_token().ok()? {
        let is = |word: &str| matches!(token, Token::Word(text) if text.eq_ignore_ascii_case(word.as_bytes()));
        if token == Token::Operator(b"=") || is("to") || (time && is("zone")) {
            return Some(lexer.at());
        }
        time = is("time");
    }
    None
}

/// A list of names, each in quotes.
fn names(mut rest: &str) -> Option<String> {
    let mut out = String::new();
    loop {
        rest = rest.trim_start();
        let (name, after) = match rest.chars().next()? {
            quote @ ('"' | '\'') => quoted(rest, quote)?,
            _ => {
                let word = |character: char| character.is_ascii_alphanumeric() || character == '_';
                let (name, after) = rest.split_at(rest.find(|character| !word(character)).unwrap_or(rest.len()));
                if name.is_empty() || name.eq_ignore_ascii_case("default") {
                    return None;
                }
                (name.to_ascii_lowercase(), after)
            }
        };
        out.push('"');
        out.push_str(&name.replace('"', "\"\""));
        out.push('"');
        rest = after.trim_start();
        if rest.is_empty() {
            return Some(out);
        }
        rest = rest.strip_prefix(',')?;
        out.push_str(", ");
    }
}

/// What is between quotes at the front of a text, doubled ones made single, and what comes behind.
fn quoted(text: &str, quote: char) -> Option<(String, &str)> {
    let mut inner = String::new();
    let mut rest = text.strip_prefix(quote)?;
    loop {
        let (before, after) = rest.split_once(quote)?;
        inner.push_str(before);
        match after.strip_prefix(quote) {
            Some(more) => {
                inner.push(quote);
                rest = more;
            }
            None => return Some((inner, after)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_constant_is_the_value() {
        for (name, text, value) in [
            ("work_mem", "SET work_mem = '1 MB'", Some("1 MB")),
            ("application_name", "set session application_name to 'it''s'", Some("it's")),
            ("jit", "SET jit TO Off", Some("off")),
            ("extra_float_digits", "set extra_float_digits = -3", Some("-3")),
            ("timezone", "SET TIME ZONE 'Asia/Tokyo'", Some("Asia/Tokyo")),
            ("timezone", "SET time zone LOCAL", None),
            ("timezone", "SET TIME ZONE INTERVAL '-08:00' HOUR TO MINUTE", None),
            ("application_name", "set application_name = E'a'", None),
            ("application_name", "set application_name = 'a' 'b'", None),
            ("application_name", "set application_name = a, b", None),
            ("application_name", "set application_name = a -- b", None),
        ] {
            assert_eq!(assigned(name, text).as_deref(), value, "{text}");
        }
    }

    #[test]
    fn a_path_is_a_list_of_names() {
        for (text, value) in [
            ("SET search_path = a, \"B c\" ,'D'", Some("\"a\", \"B c\", \"D\"")),
            ("SET search_path TO 'a, b'", Some("\"a, b\"")),
            ("SET search_path TO ''", Some("\"\"")),
            ("SET search_path = \"$user\", Public", Some("\"$user\", \"public\"")),
            ("SET search_path = a b", None),
            ("SET search_path = \"a", None),
            ("SET search_path = a,", None),
        ] {
            assert_eq!(assigned("search_path", text).as_deref(), value, "{text}");
        }
    }
}
