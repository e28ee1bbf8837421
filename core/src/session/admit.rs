//! Who may come in: what the rules ask of a client, what is known of its user, and whether its proof holds.
//!
//! What takes time is asked of [`crate::clerk`]; the client waits for the answer and its shard does not.

use std::sync::Arc;
use std::time::Instant;

use bytes::{Buf as _, BytesMut};
use config::hba::{self, Origin, Purpose, Visitor};
use config::{Kinds, Known};
use dbproto::auth::Credentials;
use dbproto::auth::server::{self, Challenge, Method, Secret, ServerAuth, Step, build_md5};
use dbproto::frame;
use zeroize::Zeroizing;

use crate::cancel;
use crate::clerk::{Account, Answer, Ask, Asker, Check, Found, Login, Question, Role};
use crate::error::{Admission, Failure};
use crate::pool::{Lending, PoolId};
use crate::replication::Kind;
use crate::session::secure::Transport;
use crate::session::{Authenticating, Gate, Machine, Phase, Session, SessionId, Start, Way};
use crate::shard::{Shard, World};
use crate::slab::{Key, TokenKind};
use crate::throttle::Turn;

/// Longest password message.
const PASSWORD_LEN_MAX: usize = 64 * 1024;

/// By which method a user that is not known is asked for its proof: as those are that are known.
fn mock_method(way: Way, known: Kinds) -> Method {
    let Kinds { scram, md5, plain } = known;
    let (scram, md5) = if way == Way::Md5 { (scram, md5 + plain) } else { (scram + plain, md5) };
    if scram == 0 && md5 > 0 { Method::Md5 } else { Method::Scram }
}

/// Who a client says it is, and from where it comes.
fn visitor<'s>(session: Option<&Session>, start: &'s Start) -> Visitor<'s> {
    let origin = match (session.and_then(|session| session.peer), session.map(|session| session.transport)) {
        (None, _) => Origin::Local,
        (Some(peer), Some(Transport::Secured)) => Origin::Tls(peer),
        (Some(peer), Some(Transport::Clear(_) | Transport::Handshaking(_)) | None) => Origin::Plain(peer),
    };
    let purpose = match start.replication.kind() {
        Some(Kind::Physical) => Purpose::Replication,
        Some(Kind::Logical) | None => Purpose::Database,
    };
    Visitor { user: &start.user, database: &start.database, purpose, origin }
}

impl Shard {
    /// A client has said who it is: it is asked to prove it, or must wait until it is known how.
    pub(super) fn authenticate(&mut self, io: &mut World<'_>, id: SessionId, start: Start) -> bool {
        let way = match self.way(id, &start) {
            Ok(way) => way,
            Err(failure) => {
                self.end_session(io, id, Some(&Failure::Admission(failure)));
                return false;
            }
        };
        let at_once = self.account_at_once(way, &start.user);
        let Some(session) = self.sessions.get_mut(id) else { return false };
        let question = Question {
            config: Arc::clone(&self.config),
            asker: Asker { shard: io.shard(), session: id.token(TokenKind::Session) },
            user: start.user.clone(),
            // who names a database that is not there must not learn that before it has proved who it is
            database: self.config.database_number(&start.database).unwrap_or(0),
            uid: session.uid.filter(|_| way == Way::Peer),
        };
        let login = Authenticating { machine: Machine::Looking(way), start, role: None, gate: Gate::Closed };
        session.phase = Phase::Authenticating(Box::new(login));
        if let Some(account) = at_once {
            return self.on_account(io, id, account, None);
        }
        if self.board.clerk.send(Ask::Find(question)).is_err() {
            self.end_session(io, id, Some(&Failure::Admission(Admission::LookupFailed)));
        }
        false
    }

    /// What a client must do: as the rules say, or where there are none, as its user says.
    fn way(&self, id: SessionId, start: &Start) -> Result<Way, Admission> {
        let session = self.sessions.get(id);
        let peer = session.and_then(|session| session.peer);
        let Some(rules) = &self.config.auth.rules else {
            let trusted = match peer {
                Some(peer) => self.config.trusts(&start.user, peer),
                None => self.config.trusts_local(&start.user),
            };
            return Ok(if trusted { Way::Trust } else { Way::Own });
        };
        let visitor = visitor(session, start);
        let row = rules.judge(&visitor).ok_or_else(|| Admission::NoRule { visitor: visitor.to_string() })?;
        match row.method {
            hba::Method::Trust => Ok(Way::Trust),
            hba::Method::Scram => Ok(Way::Scram),
            hba::Method::Md5 => Ok(Way::Md5),
            hba::Method::Password => Ok(Way::Cleartext),
            hba::Method::Peer => Ok(Way::Peer),
            hba::Method::Reject => {
                tracing::debug!(row = row.place, "a client is turned away by a rule");
                Err(Admission::Rejected { visitor: visitor.to_string() })
            }
            // it has been judged in the handshake, so it is its authority's word for who the client is
            hba::Method::Cert => {
                let certified = session.and_then(|session| session.certified.as_deref());
                let allowed = certified.is_some_and(|name| rules.allow(row, name, &start.user));
                let failed = || Admission::CertificateFailed { user: start.user.clone() };
                if allowed { Ok(Way::Trust) } else { Err(failed()) }
            }
        }
    }

    /// Whether the rules let somebody in as the user that it asked to be, whom the operating system names so.
    fn is_mapped(&self, id: SessionId, system_user: &str) -> bool {
        let (Some(session), Some(rules)) = (self.sessions.get(id), &self.config.auth.rules) else { return false };
        let Phase::Authenticating(login) = &session.phase else { return false };
        let row = rules.judge(&visitor(Some(session), &login.start));
        row.is_some_and(|row| rules.allow(row, system_user, &login.start.user))
    }

    /// What is known of a user without asking anybody.
    fn account_at_once(&self, way: Way, name: &str) -> Option<Account> {
        let user = self.config.user(name);
        if way == Way::Peer {
            return None;
        }
        if let Some(secret) = user.and_then(|user| user.password.as_ref()) {
            return Some(Account::Known(Role::of(Secret::parse(secret.as_str()).ok())));
        }
        match self.config.auth.listed.find(name) {
            Some(Known::Hashed(secret)) => return Some(Account::Known(Role::of(Secret::parse(secret.as_str()).ok()))),
            // it takes a while to make a verifier of it
            Some(Known::Plain(_)) => return None,
            None => {}
        }
        let ruled = self.config.auth.rules.is_some();
        match (user, &self.config.auth.query) {
            (Some(_), _) if way == Way::Trust && !ruled => Some(Account::Known(Role::of(None))),
            (_, Some(_)) => None,
            // those whose passwords are known are asked about too
            (None, None) if self.config.auth.kinds.plain > 0 => None,
            (Some(_), None) => Some(Account::Known(Role::of(None))),
            (None, None) => Some(Account::Nobody(None)),
        }
    }

    /// It is known who the user is; gives whether there may be more to do.
    fn on_account(&mut self, io: &mut World<'_>, id: SessionId, account: Account, system_user: Option<String>) -> bool {
        let (known, key) = (self.config.auth.kinds, self.board.mock_key);
        let mapped = system_user.is_some_and(|name| self.is_mapped(id, &name));
        let Some(session) = self.sessions.get_mut(id) else { return false };
        let Phase::Authenticating(login) = &mut session.phase else { return false };
        let Machine::Looking(way) = login.machine else { return false };
        let user = login.start.user.clone();
        let (role, method) = match account {
            Account::Known(role) => (Some(role), None),
            Account::Nobody(method) => (None, method),
            Account::Unknowable => {
                self.end_session(io, id, Some(&Failure::Admission(Admission::LookupFailed)));
                return false;
            }
        };
        let refusal = match way {
            Way::Peer if !mapped => Some(Admission::PeerFailed { user: user.clone() }),
            Way::Peer | Way::Trust if role.is_none() => Some(Admission::UnknownRole { user: user.clone() }),
            Way::Peer | Way::Trust | Way::Own | Way::Scram | Way::Md5 | Way::Cleartext => None,
        };
        if let Some(refusal) = refusal {
            self.end_session(io, id, Some(&Failure::Admission(refusal)));
            return false;
        }
        let method = method.unwrap_or_else(|| mock_method(way, known));
        let mock = |method| Secret::mock(method, &key, user.as_bytes());
        let secret = match way {
            Way::Peer | Way::Trust => Secret::Trust,
            Way::Own | Way::Scram | Way::Md5 | Way::Cleartext => choose_secret(way, role.as_ref(), &user, io.now())
                .unwrap_or_else(|wanted| mock(wanted.unwrap_or(method))),
        };
        login.role = role;
        let (channel, out) = (session.channel.take(), io.output(session.socket));
        if way == Way::Cleartext {
            server::write_cleartext_request(out);
            login.machine = Machine::Cleartext(secret);
            return true;
        }
        let mut challenge = Challenge { salt: [0; 4], nonce: [0; 18] };
        cancel::fill_random(&mut challenge.salt);
        cancel::fill_random(&mut challenge.nonce);
        let (machine, step) = ServerAuth::start_bound(&secret, user.as_bytes(), challenge, channel.as_deref(), out);
        login.machine = Machine::Exchange(machine);
        self.on_auth_step(io, id, step)
    }

    /// Takes a password message, if it is there and its time has come.
    pub(super) fn on_password_bytes(&mut self, io: &mut World<'_>, id: SessionId) -> bool {
        let Some(session) = self.sessions.get_mut(id) else { return false };
        let Phase::Authenticating(login) = &mut session.phase else { return false };
        let is_proof = match &login.machine {
            Machine::Looking(_) | Machine::Checking => return false,
            Machine::Exchange(machine) => machine.awaits_proof(),
            Machine::Cleartext(_) => true,
        };
        let input = std::mem::take(&mut session.input);
        match frame::split(&input) {
            Ok(None) if input.len() <= PASSWORD_LEN_MAX => {
                session.input = input;
                return false;
            }
            Ok(Some((message, _))) if message.tag == b'p' => {}
            Ok(_) | Err(_) => {
                let what = "expected a password message".to_owned();
                self.end_session(io, id, Some(&Failure::Protocol { what }));
                return false;
            }
        }
        if is_proof && !self.open_gate(io, id) {
            if let Some(session) = self.sessions.get_mut(id) {
                session.input = input;
            }
            return false;
        }
        self.take_password(io, id, input)
    }

    fn take_password(&mut self, io: &mut World<'_>, id: SessionId, mut input: BytesMut) -> bool {
        let Some(session) = self.sessions.get_mut(id) else { return false };
        let Phase::Authenticating(login) = &mut session.phase else { return false };
        let Ok(Some((message, _))) = frame::split(&input) else { return false };
        let used = message.bytes.len();
        let step = match std::mem::replace(&mut login.machine, Machine::Checking) {
            Machine::Exchange(mut machine) => {
                let step = machine.handle_password(message.body, io.output(session.socket));
                login.machine = Machine::Exchange(machine);
                Some(step)
            }
            Machine::Cleartext(secret) => {
                let password = message.body.strip_suffix(b"\0").unwrap_or(message.body);
                let check = Check {
                    asker: Asker { shard: io.shard(), session: id.token(TokenKind::Session) },
                    secret,
                    user: login.start.user.clone(),
                    password: Zeroizing::new(password.to_vec()),
                };
                // if nobody is there to look at it, the login runs into its timeout
                let _sent: Result<(), _> = self.board.clerk.send(Ask::Check(Box::new(check)));
                None
            }
            Machine::Looking(_) | Machine::Checking => None,
        };
        if let Some(bytes) = input.get_mut(..used) {
            zeroize::Zeroize::zeroize(bytes);
        }
        input.advance(used);
        session.input = input;
        step.is_some_and(|step| self.on_auth_step(io, id, step))
    }

    /// Whether a proof may be looked at now. If not, it will be later, or the client has been turned away.
    fn open_gate(&mut self, io: &mut World<'_>, id: SessionId) -> bool {
        let now = io.now();
        let Some(session) = self.sessions.get_mut(id) else { return false };
        let Phase::Authenticating(login) = &mut session.phase else { return false };
        if let Gate::OpensAt(at) = login.gate {
            return at <= now;
        }
        let suspect = self.board.throttle.suspect(session.peer, session.uid, &login.start.user);
        match self.board.throttle.turn(suspect, now) {
            Turn::Now => true,
            Turn::At(at) => {
                login.gate = Gate::OpensAt(at);
                self.held.push((at, id));
                self.hurry(io);
                false
            }
            Turn::Refused => {
                let user = login.start.user.clone();
                self.end_session(io, id, Some(&Failure::Admission(Admission::TooManyFailures { user })));
                false
            }
        }
    }

    /// Proofs whose time has come.
    pub(crate) fn on_held_tick(&mut self, io: &mut World<'_>) {
        let now = io.now();
        let due: Vec<SessionId> = self.held.extract_if(.., |(at, _)| *at <= now).map(|(_, id)| id).collect();
        self.ready.extend(due);
    }

    fn on_auth_step(&mut self, io: &mut World<'_>, id: SessionId, step: Step) -> bool {
        let now = io.now();
        let Some(session) = self.sessions.get_mut(id) else { return false };
        let Phase::Authenticating(login) = &mut session.phase else { return false };
        let suspect = self.board.throttle.suspect(session.peer, session.uid, &login.start.user);
        match step {
            Step::Continue => true,
            Step::Failed => {
                self.board.throttle.note_failure(suspect, now);
                if self.config.auth.query.is_some()
                    && let Some(database) = self.config.database_number(&login.start.database)
                {
                    let user = login.start.user.clone();
                    let _sent: Result<(), _> = self.board.clerk.send(Ask::Forget { database, user });
                }
                // the exchange has told the client so
                self.stats.count_error(b"28P01");
                self.note_farewell(id, || "28P01 password authentication failed".to_owned());
                self.end_session(io, id, None);
                false
            }
            Step::Done => {
                let shown = match &mut login.machine {
                    Machine::Exchange(machine) => machine.take_credentials(),
                    Machine::Looking(_) | Machine::Cleartext(_) | Machine::Checking => Credentials::None,
                };
                self.on_proven(io, id, shown);
                true
            }
        }
    }

    /// The client is who it says.
    fn on_proven(&mut self, io: &mut World<'_>, id: SessionId, shown: Credentials) {
        let now = io.now();
        let Some(session) = self.sessions.get_mut(id) else { return };
        let Phase::Authenticating(login) = std::mem::replace(&mut session.phase, Phase::Welcoming) else { return };
        let Authenticating { mut start, role, .. } = *login;
        let suspect = self.board.throttle.suspect(session.peer, session.uid, &start.user);
        if shown != Credentials::None {
            self.board.throttle.clear(suspect, now);
        }
        if role.as_ref().is_some_and(|role| role.login == Login::Denied) {
            let refusal = Admission::NoLogin { user: start.user };
            self.end_session(io, id, Some(&Failure::Admission(refusal)));
            return;
        }
        let plain = role.and_then(|role| role.plain);
        start.shown = plain.map_or(shown, |plain| Credentials::of_password(Some(plain.as_str().as_bytes())));
        self.settle_in(io, id, start);
    }

    /// An answer of the clerk's. The client may be gone.
    pub(crate) fn on_found(&mut self, io: &mut World<'_>, answer: Answer) {
        let id: SessionId = Key::from_token(answer.session).1;
        let Some(session) = self.sessions.get(id) else { return };
        let socket = session.socket;
        match answer.found {
            Found::Person(account, system_user) => {
                self.on_account(io, id, account, system_user);
            }
            Found::Right(password) => self.on_proven(io, id, Credentials::Password(password)),
            Found::Wrong => {
                if let Phase::Authenticating(login) = &session.phase {
                    server::write_refusal(io.output(socket), login.start.user.as_bytes());
                }
                self.on_auth_step(io, id, Step::Failed);
            }
        }
        self.process(io, id);
    }

    /// PostgreSQL does not accept what a pool's clients have logged in with: it is looked up anew for the next.
    pub(crate) fn forget_secret_of(&self, pool: PoolId) {
        let Some(pool) = self.pool(pool) else { return };
        if self.config.auth.query.is_some() && pool.lending == Lending::Clients {
            let ask = Ask::Forget { database: pool.database.0, user: pool.target.user.clone() };
            let _sent: Result<(), _> = self.board.clerk.send(ask);
        }
    }
}

/// What a user must prove to know; otherwise the method by which it is asked in vain, where that is certain.
fn choose_secret(way: Way, role: Option<&Role>, user: &str, now: Instant) -> Result<Secret, Option<Method>> {
    let wanted = |method| if way == Way::Scram { Method::Scram } else { method };
    let Some(role) = role else { return Err((way == Way::Scram).then_some(Method::Scram)) };
    let secret = match (&role.plain, way) {
        (Some(plain), Way::Md5) => Secret::parse(&build_md5(plain.as_str(), user)).ok(),
        (Some(_) | None, _) => role.secret.clone(),
    };
    let method = match &secret {
        Some(Secret::Scram(_)) => Method::Scram,
        Some(Secret::Md5(_)) => Method::Md5,
        Some(Secret::Trust) | None => return Err((way == Way::Scram).then_some(Method::Scram)),
    };
    let ended = role.ends.is_some_and(|ends| ends <= now);
    match secret {
        Some(secret) if method == wanted(method) && !ended => Ok(secret),
        Some(_) | None => Err(Some(wanted(method))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn method_of(secret: &Result<Secret, Option<Method>>) -> (Option<Method>, bool) {
        match secret {
            Ok(Secret::Md5(_)) => (Some(Method::Md5), true),
            Ok(Secret::Scram(_)) => (Some(Method::Scram), true),
            Ok(Secret::Trust) => (None, true),
            Err(method) => (*method, false),
        }
    }

    #[test]
    fn the_secret_must_fit_the_way_and_must_not_have_ended() {
        let now = Instant::now();
        let md5 = Role::of(Secret::parse(&build_md5("a", "ann")).ok());
        let scram = Role::of(Secret::parse(&server::build_scram_verifier("a", b"salt", 1)).ok());
        let plain = Role { plain: Some(config::Password::new("a")), ..scram.clone() };
        let ended = Role { ends: Some(now), ..md5.clone() };
        let chosen = |way, role| method_of(&choose_secret(way, Some(role), "ann", now));
        assert_eq!(chosen(Way::Own, &md5), (Some(Method::Md5), true));
        assert_eq!(chosen(Way::Own, &plain), (Some(Method::Scram), true));
        assert_eq!(chosen(Way::Md5, &plain), (Some(Method::Md5), true));
        assert_eq!(chosen(Way::Md5, &scram), (Some(Method::Scram), true));
        assert_eq!(chosen(Way::Scram, &md5), (Some(Method::Scram), false));
        assert_eq!(chosen(Way::Own, &ended), (Some(Method::Md5), false));
        assert_eq!(chosen(Way::Own, &Role::of(None)), (None, false));
        assert_eq!(method_of(&choose_secret(Way::Scram, None, "ann", now)), (Some(Method::Scram), false));
    }

    #[test]
    fn who_is_not_known_is_asked_as_others_are() {
        let asked = |scram, md5, plain| [Way::Own, Way::Md5].map(|way| mock_method(way, Kinds { scram, md5, plain }));
        assert_eq!(asked(0, 0, 0), [Method::Scram, Method::Scram]);
        assert_eq!(asked(0, 3, 0), [Method::Md5, Method::Md5]);
        assert_eq!(asked(0, 0, 3), [Method::Scram, Method::Md5]);
        assert_eq!(asked(1, 3, 3), [Method::Scram, Method::Scram]);
    }
}
