use super::*;

/// Tokens as text: words as they are, names in quotes, strings as `'`, numbers as `0`, unclear text as `!`.
fn read(text: &str, backslash: Backslash) -> String {
    let mut lexer = Lexer::new(text.as_bytes(), backslash);
    let mut out = Vec::new();
    loop {
        let bytes = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match lexer.poll_token() {
            Ok(None) => return out.join(" "),
            Err(_) => {
                out.push("!".into());
                return out.join(" ");
            }
            Ok(Some(Token::Word(word) | Token::Operator(word))) => out.push(bytes(word)),
            Ok(Some(Token::Quoted(name))) => out.push(format!("\"{}\"", bytes(name))),
            Ok(Some(Token::String)) => out.push("'".into()),
            Ok(Some(Token::Number)) => out.push("0".into()),
            Ok(Some(Token::Parameter(number))) => out.push(format!("${number}")),
            Ok(Some(Token::Cast)) => out.push("::".into()),
            Ok(Some(Token::Punctuation(byte))) => out.push(char::from(byte).to_string()),
        }
    }
}

fn usual(text: &str) -> String {
    read(text, Backslash::Literal)
}

#[test]
fn statements_fall_into_tokens() {
    assert_eq!(usual("SELECT a.b, 1.5e-3 FROM \"T x\" t;"), "SELECT a . b , 0 FROM \"T x\" t ;");
    assert_eq!(usual("select $1::int, $23"), "select $1 :: int , $23");
    assert_eq!(usual("x[1:2] := y..z"), "x [ 0 : 0 ] : = y . . z");
    assert_eq!(usual(".5 1. 1..2 1e5 1e"), "0 0 0 . 0 0 !");
    assert_eq!(usual("größe _a$1"), "größe _a$1");
}

#[test]
fn comments_are_blank_and_nest() {
    assert_eq!(usual("a -- b; c\nd"), "a d");
    assert_eq!(usual("a -- b; c\rd"), "a d");
    assert_eq!(usual("a /* b /* c */ ; */ d"), "a d");
    assert_eq!(usual("a /* b /* c */ d"), "a !");
    assert_eq!(usual("1-- x"), "0");
}

#[test]
fn strings_end_where_postgres_ends_them() {
    assert_eq!(usual("'a;''b' c"), "' c");
    assert_eq!(usual(r"'a\' c"), "' c");
    assert_eq!(usual(r"E'a\' c' d"), "' d");
    assert_eq!(usual(r"e'a\\' d"), "' d");
    assert_eq!(usual("'a"), "!");
    assert_eq!(usual("B'01' x'ff' N'a' c"), "' ' ' c");
    assert_eq!(usual("be'a' c"), "be ' c", "letters before it make it a word");
    assert_eq!(usual("U&'a' c"), "!");
    assert_eq!(usual("u &'a' c"), "u & ' c");
}

#[test]
fn a_string_goes_on_in_the_next_line_in_its_own_mode() {
    assert_eq!(usual("E'a'\n'\\' ; ' b"), "' b");
    assert_eq!(usual("E'a' -- c\n '\\' ; ' b"), "' b");
    assert_eq!(usual("E'a' '\\' ; b"), "' ' ; b", "on one line they are two strings");
    assert_eq!(usual("'a'\n'b' c"), "' c");
}

#[test]
fn a_backslash_is_unclear_where_the_setting_is() {
    assert_eq!(read(r"'a\' c", Backslash::Unusual), "!");
    assert_eq!(read(r"E'a\'' c", Backslash::Unusual), "' c");
    assert_eq!(read(r"'a' c", Backslash::Unusual), "' c");
}

#[test]
fn dollar_quotes_need_their_own_tag_to_end() {
    assert_eq!(usual("$$a;'$$ b"), "' b");
    assert_eq!(usual("$x$ $$ $y$ $x$ b"), "' b");
    assert_eq!(usual("$x$ a"), "!");
    assert_eq!(usual("a$x$ b"), "a$x$ b", "a dollar inside a name quotes nothing");
    assert_eq!(usual("$1x"), "!");
    assert_eq!(usual("$ 1"), "!");
}

#[test]
fn operators_take_what_belongs_to_them() {
    assert_eq!(usual("a*-1"), "a * - 0");
    assert_eq!(usual("a@-1"), "a @- 0");
    assert_eq!(usual("a<=-b"), "a <= - b");
    assert_eq!(usual("a+/* c */b"), "a + b");
    assert_eq!(usual("a<--c\nb"), "a < b");
    assert_eq!(usual("a||'b'"), "a || '");
    assert_eq!(usual("f(a => 1)"), "f ( a => 0 )");
}

#[test]
fn what_differs_between_versions_is_unclear() {
    for text in ["1x", "0x1f", "1_000", "a \u{b} b", "\\", "a\0b"] {
        assert!(usual(text).ends_with('!'), "{text:?}");
    }
}

#[test]
fn names_fold_as_postgres_folds_them() {
    assert_eq!(fold(Token::Word(b"AbC")), Some(b"abc".to_vec()));
    assert_eq!(fold(Token::Quoted(b"A\"\"b")), Some(b"A\"b".to_vec()));
    assert_eq!(fold(Token::Number), None);
}

#[test]
fn encodings_in_which_a_quote_may_be_half_a_letter_are_not_safe() {
    for name in ["UTF8", "utf8", "SQL_ASCII", "LATIN1", "EUC_JP"] {
        assert!(is_ascii_safe(name.as_bytes()), "{name}");
    }
    for name in ["SJIS", "sjis", "BIG5", "GB18030", "KOI8R_unknown", ""] {
        assert!(!is_ascii_safe(name.as_bytes()), "{name}");
    }
}

#[test]
fn any_bytes_give_an_answer() {
    let mut rng = 0x2545_f491_4f6c_dd1d_u64;
    let alphabet = b"'\"$\\;-/*eEuU&x1.:= \n()a\xc3";
    for _ in 0..20_000 {
        let mut text = Vec::new();
        for _ in 0..12 {
            rng ^= rng << 13;
            rng ^= rng >> 7;
            rng ^= rng << 17;
            text.push(alphabet[usize::try_from(rng % alphabet.len() as u64).unwrap()]);
        }
        let mut lexer = Lexer::new(&text, Backslash::Literal);
        let mut count = 0;
        while let Ok(Some(_)) = lexer.poll_token() {
            count += 1;
            assert!(count <= text.len(), "every token takes at least a byte");
        }
    }
}
