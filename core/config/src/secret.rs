//! Where passwords come from: the file itself, the environment, a file of their own, systemd's credentials.
//!
//! What is wrong with one is told without a word of what it holds.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::auth::Password;

const FILE_LEN_MAX: u64 = 64 * 1024;

/// What stands in a key: `env:NAME`, `credential:NAME`, or the password itself.
pub(crate) fn from_text(text: &str) -> Result<Password, String> {
    if let Some(name) = text.strip_prefix("env:") {
        let value = std::env::var(name).map_err(|_| format!("there is no variable {name} in the environment"))?;
        return sound(Zeroizing::new(value)).map_err(|error| format!("the variable {name} {error}"));
    }
    if let Some(name) = text.strip_prefix("credential:") {
        if name.is_empty() || name.contains('/') || name.starts_with('.') {
            return Err("the name of a credential is missing or has a slash or dot".to_owned());
        }
        let dir = std::env::var_os("CREDENTIALS_DIRECTORY")
            .ok_or("there are no credentials: $CREDENTIALS_DIRECTORY is not set (LoadCredential= in the unit)")?;
        // systemd sees to who may read it
        return from_path(&PathBuf::from(dir).join(name));
    }
    sound(Zeroizing::new(text.to_owned()))
}

/// A file that holds nothing else; nobody but its owner may read it.
pub(crate) fn from_file(path: &Path) -> Result<Password, String> {
    let about = std::fs::metadata(path).map_err(|error| format!("{}: {error}", path.display()))?;
    if about.mode() & 0o077 != 0 {
        return Err(format!("{} may be read by others than its owner; chmod 600 it", path.display()));
    }
    from_path(path)
}

fn from_path(path: &Path) -> Result<Password, String> {
    let place = path.display();
    let about = std::fs::metadata(path).map_err(|error| format!("{place}: {error}"))?;
    if !about.is_file() || about.len() > FILE_LEN_MAX {
        return Err(format!("{place} is no file of at most {FILE_LEN_MAX} bytes"));
    }
    let text = std::fs::read_to_string(path).map(Zeroizing::new).map_err(|error| format!("{place}: {error}"))?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    let line = line.strip_suffix('\r').unwrap_or(line);
    sound(Zeroizing::new(line.to_owned())).map_err(|error| format!("{place} {error}"))
}

fn sound(text: Zeroizing<String>) -> Result<Password, String> {
    match text.as_str() {
        "" => Err("is empty".to_owned()),
        text if text.contains('\0') => Err("has a NUL character in it".to_owned()),
        text => Ok(Password::new(text)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn written(text: &str, mode: u32) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        (dir, path)
    }

    #[test]
    fn a_file_holds_one_password_and_is_its_owners() {
        let (_dir, path) = written("hidden word\n", 0o600);
        assert_eq!(from_file(&path).unwrap().as_str(), "hidden word");
        for mode in [0o640, 0o604, 0o660] {
            let (_dir, path) = written("hidden", mode);
            let error = from_file(&path).unwrap_err();
            assert!(error.contains("chmod 600") && !error.contains("hidden"), "{error}");
        }
        for text in ["", "\n", "a\0b"] {
            let (_dir, path) = written(text, 0o600);
            assert!(from_file(&path).is_err());
        }
        assert!(from_file(Path::new("/nowhere/at/all")).is_err());
    }

    #[test]
    fn the_environment_is_asked_by_name() {
        // this one is there whenever cargo runs tests
        assert_eq!(from_text("env:CARGO_PKG_NAME").unwrap().as_str(), "optimacore-config");
        assert!(from_text("env:NO_SUCH_VARIABLE_HERE").unwrap_err().contains("NO_SUCH_VARIABLE_HERE"));
        assert!(from_text("credential:../x").is_err());
        assert_eq!(from_text("plain").unwrap().as_str(), "plain");
    }
}
