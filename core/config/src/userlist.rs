//! A list of users as PgBouncer keeps it: `"name" "secret"`, one a line.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use zeroize::Zeroizing;

use crate::auth::{Known, Listed};
use crate::error::ConfigError;

const FILE_LEN_MAX: u64 = 64 * 1024 * 1024;

/// Reads the users of a file; all that is wrong with it is told, and nothing of a secret is.
pub(crate) fn load(path: &Path) -> Result<Vec<Listed>, Vec<ConfigError>> {
    let file = path.display().to_string();
    let text = text_of(path).map_err(|message| vec![ConfigError { file: file.clone(), place: None, message }])?;
    let (mut users, mut errors) = (Vec::new(), Vec::new());
    let mut places: HashMap<String, u32> = HashMap::new();
    for (number, line) in (1..).zip(text.lines()) {
        let read = match read(line) {
            Ok(Some(user)) => match places.insert(user.name.clone(), number) {
                Some(first) => Err(format!("user \"{}\" stands in line {first} already", user.name)),
                None => Ok(user),
            },
            Ok(None) => continue,
            Err(message) => Err(message.to_owned()),
        };
        match read {
            Ok(user) => users.push(user),
            Err(message) => errors.push(ConfigError { file: file.clone(), place: Some((number, 1)), message }),
        }
    }
    if errors.is_empty() { Ok(users) } else { Err(errors) }
}

fn text_of(path: &Path) -> Result<Zeroizing<String>, String> {
    let about = std::fs::metadata(path).map_err(|error| error.to_string())?;
    if about.mode() & 0o007 != 0 {
        return Err("holds secrets and may be read by everybody; chmod o= it".to_owned());
    }
    if about.len() > FILE_LEN_MAX {
        return Err(format!("is too long: {} bytes", about.len()));
    }
    std::fs::read_to_string(path).map(Zeroizing::new).map_err(|error| error.to_string())
}

fn read(line: &str) -> Result<Option<Listed>, &'static str> {
    let line = line.trim_start();
    if line.is_empty() || line.starts_with([';', '#']) {
        return Ok(None);
    }
    let (name, rest) = quoted(line).ok_or("must begin with a user's name in double quotes")?;
    let (secret, _) = quoted(rest.trim_start()).ok_or("a secret in double quotes must stand behind the name")?;
    if name.is_empty() {
        return Err("the name is empty");
    }
    if name.contains('\0') || secret.contains('\0') {
        return Err("there is a NUL character in it");
    }
    let scram = secret.starts_with("SCRAM-SHA-256$");
    match Known::read(&secret) {
        Known::Plain(_) if scram => Err("the secret is not a whole SCRAM-SHA-256 verifier"),
        secret @ (Known::Hashed(_) | Known::Plain(_)) => Ok(Some(Listed { name: name.to_string(), secret })),
    }
}

/// What stands in quotes at the beginning, where a quote is written twice, and what is behind.
fn quoted(text: &str) -> Option<(Zeroizing<String>, &str)> {
    let mut rest = text.strip_prefix('"')?;
    // as long as it can get, so that no copy is left behind by growing
    let mut out = Zeroizing::new(String::with_capacity(rest.len()));
    loop {
        let (part, behind) = rest.split_once('"')?;
        out.push_str(part);
        match behind.strip_prefix('"') {
            Some(more) => {
                out.push('"');
                rest = more;
            }
            None => return Some((out, behind)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn load_text(text: &str) -> Result<Vec<Listed>, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("userlist.txt");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        load(&path).map_err(|errors| errors.iter().map(|e| format!("{:?} {}\n", e.place, e.message)).collect())
    }

    #[test]
    fn names_and_secrets_stand_in_quotes() {
        let scram = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:\
                     wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";
        let text = format!(
            "; a comment\n\n\"ann\" \"se\"\"cret\" and more\n  \"b\"\"ob\"\t\"md53175bce1d3201d16594cebf9d7eb3f9d\"\n\
             \"carol\" \"{scram}\"\n\"md5er\" \"md5x\"\n"
        );
        let users = load_text(&text).unwrap();
        let names: Vec<&str> = users.iter().map(|user| user.name.as_str()).collect();
        assert_eq!(names, ["ann", "b\"ob", "carol", "md5er"]);
        let plain = |index: usize| match &users[index].secret {
            Known::Plain(password) => Some(password.as_str()),
            Known::Hashed(_) => None,
        };
        assert_eq!([plain(0), plain(1), plain(2), plain(3)], [Some("se\"cret"), None, None, Some("md5x")]);
    }

    #[test]
    fn errors_name_their_line_and_no_secret() {
        let text = "ann \"hidden\"\n\"ann\" hidden\n\"ann\" \"hidden\n\"\" \"hidden\"\n\"a\" \"hidden\"\n\"a\" \"hidden\"\n\
                    \"b\" \"SCRAM-SHA-256$hidden\"\n";
        let errors = load_text(text).unwrap_err();
        assert_eq!(errors.lines().count(), 6, "{errors}");
        assert!(errors.contains("Some((6, 1)) user \"a\" stands in line 5 already") && !errors.contains("hidden"));
    }

    #[test]
    fn a_list_that_everybody_may_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("userlist.txt");
        std::fs::write(&path, "\"a\" \"b\"\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(load(&path).unwrap_err()[0].message.contains("read by everybody"));
    }
}
