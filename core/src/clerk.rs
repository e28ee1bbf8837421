//! What must be found out about somebody who wants to come in, and takes time: threads beside the data path.
//!
//! A shard asks by [`Ask`] and goes on; the answer comes back as a message. One thread does what only takes a core (hashing)
//! or the operating system (names of its users); `roles` has one more per database whose users are looked up there.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use config::{AuthQuery, Config, Known, Password, SessionAttrs};
use crossbeam::channel::{Receiver, Sender, unbounded};
use dbproto::auth::Credentials;
use dbproto::auth::server::{Method, SCRAM_ITERATIONS, Secret, build_scram_verifier, check_password, salt_of};
use nix::unistd::{Uid, User};
use runtime::{ShardHandle, ShardId, Token};
use zeroize::Zeroizing;

use crate::pool::Target;
use crate::pool::open::{proofs_of, written};
use crate::shard::{Board, Message};

mod cache;
mod roles;

/// What a shard wants done.
pub(crate) enum Ask {
    /// Who is this?
    Find(Question),
    /// Is this the password?
    Check(Box<Check>),
    /// What is known of a user of this configured database is out of date.
    Forget { database: usize, user: String },
}

/// Who waits for an answer: a shard, and its session's token.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Asker {
    pub(crate) shard: ShardId,
    pub(crate) session: Token,
}

/// Asks for a user.
pub(crate) struct Question {
    /// The configuration it is asked under.
    pub(crate) config: Arc<Config>,
    pub(crate) asker: Asker,
    pub(crate) user: String,
    /// The configured database it wants to go to.
    pub(crate) database: usize,
    /// Its number on this machine, where its name there matters.
    pub(crate) uid: Option<u32>,
}

/// Asks whether a password in clear text is right.
pub(crate) struct Check {
    pub(crate) asker: Asker,
    pub(crate) secret: Secret,
    pub(crate) user: String,
    pub(crate) password: Zeroizing<Vec<u8>>,
}

/// What was found out.
pub(crate) struct Answer {
    pub(crate) session: Token,
    pub(crate) found: Found,
}

pub(crate) enum Found {
    /// A user, and what it is called on this machine.
    Person(Account, Option<String>),
    /// The password was right; here it is again.
    Right(Zeroizing<Vec<u8>>),
    /// It was not.
    Wrong,
}

/// What is known of a user.
pub(crate) enum Account {
    Known(Role),
    /// There is none of that name; the method by which others there prove who they are.
    Nobody(Option<Method>),
    /// It cannot be found out now. Why has been logged.
    Unknowable,
}

/// A user.
#[derive(Clone)]
pub(crate) struct Role {
    /// What it must prove to know; a SCRAM verifier where the password itself is known.
    pub(crate) secret: Option<Secret>,
    pub(crate) plain: Option<Password>,
    pub(crate) login: Login,
    /// When its password ends.
    pub(crate) ends: Option<Instant>,
}

/// Whether a role may log in at all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Login {
    Allowed,
    Denied,
}

impl Role {
    /// A user of whom only the secret is known.
    pub(crate) fn of(secret: Option<Secret>) -> Self {
        Self { secret, plain: None, login: Login::Allowed, ends: None }
    }

    /// What stands in a list or a catalog. A password is made into a verifier, which takes about a millisecond.
    fn read(known: &Known, user: &str, mock_key: &[u8; 32]) -> Self {
        match known {
            Known::Hashed(secret) => Self::of(Secret::parse(secret.as_str()).ok()),
            Known::Plain(password) => {
                let salt = salt_of(mock_key, user.as_bytes());
                let verifier = build_scram_verifier(password.as_str(), &salt, SCRAM_ITERATIONS);
                Self { plain: Some(password.clone()), ..Self::of(Secret::parse(&verifier).ok()) }
            }
        }
    }
}

/// Serves questions until every shard has gone.
pub(crate) fn run(asks: &Receiver<Ask>, shards: &[ShardHandle<Message>], board: &Arc<Board>) {
    let mut clerk = Clerk { shards, board, config: None, listed: HashMap::new(), roles: HashMap::new() };
    for ask in asks {
        match ask {
            Ask::Find(question) => clerk.find(question),
            Ask::Check(check) => {
                let right = check_password(&check.secret, check.user.as_bytes(), &check.password);
                let found = if right { Found::Right(check.password) } else { Found::Wrong };
                answer(shards, check.asker, found);
            }
            Ask::Forget { database, user } => {
                if let Some(roles) = clerk.roles.get(&database) {
                    // a thread that has ended knows nothing to forget
                    let _sent: Result<(), _> = roles.send(roles::Task::Forget(user));
                }
            }
        }
    }
}

fn answer(shards: &[ShardHandle<Message>], asker: Asker, found: Found) {
    if let Some(shard) = shards.get(usize::from(asker.shard.0)) {
        shard.post(Message::Found(Box::new(Answer { session: asker.session, found })));
    }
}

struct Clerk<'c> {
    shards: &'c [ShardHandle<Message>],
    board: &'c Arc<Board>,
    /// The configuration that what follows was made of.
    config: Option<Arc<Config>>,
    /// Users of the list whose passwords have been made into verifiers.
    listed: HashMap<String, Role>,
    /// Those who look users up, by database.
    roles: HashMap<usize, Sender<roles::Task>>,
}

impl Clerk<'_> {
    fn find(&mut self, question: Question) {
        let config = Arc::clone(&question.config);
        if self.config.as_ref().is_none_or(|own| !Arc::ptr_eq(own, &config)) {
            // other users, other ways to them; threads end when nobody can ask them any more
            self.listed.clear();
            self.roles.clear();
            self.config = Some(Arc::clone(&config));
        }
        let system_user = question.uid.and_then(name_of);
        if let Some(role) = self.in_list(&config, &question.user) {
            let found = Found::Person(Account::Known(role), system_user);
            return answer(self.shards, question.asker, found);
        }
        let asked = match &config.auth.query {
            Some(query) => self.ask_database(query, question, system_user),
            None => Err((question, system_user)),
        };
        if let Err((question, system_user)) = asked {
            let known = config.user(&question.user).is_some();
            let account = if known { Account::Known(Role::of(None)) } else { Account::Nobody(None) };
            answer(self.shards, question.asker, Found::Person(account, system_user));
        }
    }

    fn in_list(&mut self, config: &Config, user: &str) -> Option<Role> {
        if let Some(role) = self.listed.get(user) {
            return Some(role.clone());
        }
        let role = Role::read(config.auth.listed.find(user)?, user, &self.board.mock_key);
        self.listed.insert(user.to_owned(), role.clone());
        Some(role)
    }

    /// Hands a question on to whoever knows the users of its database; gives it back if there is nobody.
    fn ask_database(
        &mut self,
        query: &AuthQuery,
        question: Question,
        system_user: Option<String>,
    ) -> Result<(), (Question, Option<String>)> {
        let database = question.database;
        if !self.roles.contains_key(&database) {
            match self.begin(query, &question) {
                Some(sender) => {
                    self.roles.insert(database, sender);
                }
                None => return Err((question, system_user)),
            }
        }
        let Some(roles) = self.roles.get(&database) else { return Err((question, system_user)) };
        match roles.send(roles::Task::Find(question, system_user)) {
            Ok(()) => Ok(()),
            Err(unsent) => match unsent.0 {
                roles::Task::Find(question, system_user) => Err((question, system_user)),
                roles::Task::Forget(_) => Ok(()),
            },
        }
    }

    /// Starts the thread that looks up the users of a database.
    fn begin(&self, query: &AuthQuery, question: &Question) -> Option<Sender<roles::Task>> {
        let number = question.database;
        let database = question.config.databases.get(number)?;
        let own = database.dbname.clone().or_else(|| Some(database.name.clone()).filter(|name| name != "*"));
        let target = Target {
            host: written(database),
            places: self.board.directory.places(number),
            // whoever it is knows the users
            attrs: SessionAttrs::Any,
            database: query.dbname.clone().or(own).unwrap_or_else(|| "postgres".to_owned()),
            user: query.user.clone(),
            credentials: Credentials::of_password(query.password.as_ref().map(|password| password.as_str().as_bytes())),
            // its files are read again for every connection
            tls: self.board.directory.tls(number),
            proofs: proofs_of(database),
            connect_query: None,
            settings: Arc::default(),
        };
        let (sender, tasks) = unbounded();
        let (shards, board, query) = (self.shards.to_vec(), Arc::clone(self.board), query.clone());
        let spawned = std::thread::Builder::new()
            .name("users".to_owned())
            .spawn(move || roles::Roles::new((number, target), query, shards, board).run(&tasks));
        match spawned {
            Ok(_) => Some(sender),
            Err(error) => {
                tracing::error!(%error, "users cannot be looked up: no thread");
                None
            }
        }
    }
}

/// What a user of this machine is called.
fn name_of(uid: u32) -> Option<String> {
    User::from_uid(Uid::from_raw(uid)).ok().flatten().map(|user| user.name)
}
