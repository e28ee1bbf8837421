//! Who may come in beyond `[[user]]`: rules, a list of users, a query for users.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use zeroize::Zeroizing;

use crate::Secret;
use crate::hba::Rules;

/// `[auth]` and the rows of `[[hba]]`.
#[derive(Clone, Debug)]
pub struct Auth {
    /// Rows that are looked at in their order. Default: none, and then users' `trust` and passwords decide.
    pub rules: Option<Rules>,
    /// Users of `auth_file`.
    pub listed: UserList,
    /// What is known of users' passwords, `[[user]]` included.
    pub kinds: Kinds,
    /// How users are looked up in PostgreSQL. Default: they are not.
    pub query: Option<AuthQuery>,
    /// Longest pause after failed logins of one user from one address. Default 5s; zero: none.
    pub delay_max: Duration,
    /// Start-up parameters that are passed over.
    pub ignored_parameters: Vec<String>,
}

impl Default for Auth {
    fn default() -> Self {
        Self {
            rules: None,
            listed: UserList::default(),
            kinds: Kinds::default(),
            query: None,
            delay_max: Duration::from_secs(5),
            ignored_parameters: Vec::new(),
        }
    }
}

/// How users are looked up in PostgreSQL.
#[derive(Clone, Debug)]
pub struct AuthQuery {
    /// The user we log in as there for it.
    pub user: String,
    /// Its password.
    pub password: Option<Password>,
    /// The database it is done in. Default: the one that is asked for, `postgres` for `*`.
    pub dbname: Option<String>,
    /// The query; `$1` is the user's name. Default: [`AuthQuery::QUERY`].
    pub query: String,
    /// How long a user that was found is not looked up again. Default 30s.
    pub cache_time: Duration,
    /// How long one that was not found is not. Default 5s.
    pub negative_cache_time: Duration,
}

impl AuthQuery {
    /// Name, secret, whether the role may log in, and the seconds until its password ends.
    pub const QUERY: &str = "SELECT rolname, rolpassword, rolcanlogin, CASE WHEN isfinite(rolvaliduntil) \
                             THEN extract(epoch FROM rolvaliduntil - now()) WHEN rolvaliduntil < now() THEN -1 END \
                             FROM pg_catalog.pg_authid WHERE rolname = $1";
}

/// How many users there are of whom something is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Kinds {
    /// A SCRAM-SHA-256 verifier.
    pub scram: usize,
    /// An MD5 hash.
    pub md5: usize,
    /// The password itself.
    pub plain: usize,
}

impl Kinds {
    pub(crate) fn count(&mut self, secret: &Secret) {
        if secret.as_str().starts_with("md5") { self.md5 += 1 } else { self.scram += 1 }
    }
}

/// Users of `auth_file`, found by name.
#[derive(Clone, Debug, Default)]
pub struct UserList {
    users: Vec<Listed>,
    by_name: HashMap<String, usize>,
}

impl UserList {
    pub(crate) fn new(users: Vec<Listed>) -> Self {
        let by_name = users.iter().enumerate().map(|(index, user)| (user.name.clone(), index)).collect();
        Self { users, by_name }
    }

    /// A user by name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&Known> {
        self.users.get(*self.by_name.get(name)?).map(|user| &user.secret)
    }

    /// Names, and what is known of them.
    pub(crate) fn users(&self) -> impl Iterator<Item = (&str, &Known)> {
        self.users.iter().map(|user| (user.name.as_str(), &user.secret))
    }

    pub(crate) fn secrets(&self) -> impl Iterator<Item = &Known> {
        self.users.iter().map(|user| &user.secret)
    }
}

/// A user of `auth_file`.
#[derive(Clone, Debug)]
pub(crate) struct Listed {
    pub(crate) name: String,
    pub(crate) secret: Known,
}

/// What is known of a user's password.
#[derive(Clone, Debug)]
pub enum Known {
    /// A verifier or hash.
    Hashed(Secret),
    /// The password itself.
    Plain(Password),
}

impl Known {
    /// Reads what may stand in a userlist or in `rolpassword`; anything that is no verifier and no hash is a password.
    #[must_use]
    pub fn read(text: &str) -> Self {
        match Secret::read(text) {
            Some(secret) => Self::Hashed(secret),
            None => Self::Plain(Password::new(text)),
        }
    }
}

/// A password in clear text. Its memory is overwritten when it is dropped, and nothing prints it.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(Zeroizing<String>);

impl Password {
    /// Takes a copy.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(Zeroizing::new(text.to_owned()))
    }

    /// The password.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}
