//! What a console is asked: from text to commands. Pure.

use crate::admin::Refusal;

/// A command of the console.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Command {
    /// `SHOW ...`
    Show(Show),
    /// `SET key = value`
    Set { key: String, value: String },
    /// `RELOAD`
    Reload,
    /// `PAUSE [db]`
    Pause(Scope),
    /// `RESUME [db]`
    Resume(Scope),
    /// `DISABLE db`
    Disable(String),
    /// `ENABLE db`
    Enable(String),
    /// `RECONNECT [db]`
    Reconnect(Scope),
    /// `KILL [db]`
    Kill(Scope),
    /// `KILL_CLIENT id`
    KillClient(u32),
    /// `WAIT_CLOSE [db]`
    WaitClose(Scope),
    /// `SUSPEND`
    Suspend,
    /// `SHUTDOWN ...`
    Shutdown(Shutdown),
    /// `BEGIN` and the like, which drivers send by themselves; nothing hangs on them.
    Block(Block),
    /// `DEALLOCATE name` or, without one, `ALL`: drivers send that by themselves too.
    Deallocate(Option<String>),
}

/// Which databases are meant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Scope {
    /// All but the console's.
    All,
    /// This one.
    Database(String),
}

impl Scope {
    /// Whether a database, by the name clients ask for, is meant.
    pub(crate) fn holds(&self, database: &str) -> bool {
        match self {
            Self::All => true,
            Self::Database(name) => name == database,
        }
    }
}

/// How to stop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Shutdown {
    /// At once.
    Now,
    /// When no server connection is in use any more.
    WaitForServers,
    /// When the last client has left.
    WaitForClients,
}

/// The ends of a transaction block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Block {
    /// `BEGIN`
    Begin,
    /// `COMMIT`
    Commit,
    /// `ROLLBACK`
    Rollback,
}

/// What can be shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Show {
    ActiveSockets,
    Clients,
    Config,
    Databases,
    DnsHosts,
    DnsZones,
    Fds,
    Help,
    Listeners,
    Lists,
    Mem,
    PeerPools,
    Peers,
    Pins,
    Pipes,
    Pools,
    Servers,
    Shards,
    Sockets,
    State,
    Statements,
    Stats,
    StatsAverages,
    StatsTotals,
    Totals,
    Users,
    Version,
}

impl Show {
    /// All, in the order they are listed in.
    pub(crate) const ALL: [(Self, &'static str); 27] = [
        (Self::Help, "HELP"),
        (Self::Clients, "CLIENTS"),
        (Self::Servers, "SERVERS"),
        (Self::Pools, "POOLS"),
        (Self::Databases, "DATABASES"),
        (Self::Users, "USERS"),
        (Self::Lists, "LISTS"),
        (Self::Config, "CONFIG"),
        (Self::State, "STATE"),
        (Self::Version, "VERSION"),
        (Self::Stats, "STATS"),
        (Self::StatsTotals, "STATS_TOTALS"),
        (Self::StatsAverages, "STATS_AVERAGES"),
        (Self::Totals, "TOTALS"),
        (Self::Mem, "MEM"),
        (Self::Fds, "FDS"),
        (Self::Sockets, "SOCKETS"),
        (Self::ActiveSockets, "ACTIVE_SOCKETS"),
        (Self::DnsHosts, "DNS_HOSTS"),
        (Self::DnsZones, "DNS_ZONES"),
        (Self::Peers, "PEERS"),
        (Self::PeerPools, "PEER_POOLS"),
        (Self::Shards, "SHARDS"),
        (Self::Pipes, "PIPES"),
        (Self::Pins, "PINS"),
        (Self::Statements, "STATEMENTS"),
        (Self::Listeners, "LISTENERS"),
    ];
}

impl Command {
    /// What CommandComplete says of it.
    pub(crate) const fn tag(&self) -> &'static str {
        match self {
            Self::Show(_) => "SHOW",
            Self::Set { .. } => "SET",
            Self::Reload => "RELOAD",
            Self::Pause(_) => "PAUSE",
            Self::Resume(_) => "RESUME",
            Self::Disable(_) => "DISABLE",
            Self::Enable(_) => "ENABLE",
            Self::Reconnect(_) => "RECONNECT",
            Self::Kill(_) => "KILL",
            Self::KillClient(_) => "KILL_CLIENT",
            Self::WaitClose(_) => "WAIT_CLOSE",
            Self::Suspend => "SUSPEND",
            Self::Shutdown(_) => "SHUTDOWN",
            Self::Block(Block::Begin) => "BEGIN",
            Self::Block(Block::Commit) => "COMMIT",
            Self::Block(Block::Rollback) => "ROLLBACK",
            Self::Deallocate(Some(_)) => "DEALLOCATE",
            Self::Deallocate(None) => "DEALLOCATE ALL",
        }
    }
}

impl Command {
    /// What a command that changes something for everybody is about, for people; none for others. Reloads and the end are told
    /// where they happen.
    pub(crate) fn subject(&self) -> Option<String> {
        match self {
            Self::Set { key, value } => Some(format!("{key} = {value}")),
            Self::Disable(name) | Self::Enable(name) => Some(format!("database {name}")),
            Self::Pause(scope) | Self::Resume(scope) | Self::Reconnect(scope) | Self::Kill(scope) => {
                Some(match scope {
                    Scope::All => "all databases".to_owned(),
                    Scope::Database(name) => format!("database {name}"),
                })
            }
            Self::Suspend => Some("all databases".to_owned()),
            Self::Show(_)
            | Self::Reload
            | Self::KillClient(_)
            | Self::WaitClose(_)
            | Self::Shutdown(_)
            | Self::Block(_)
            | Self::Deallocate(_) => None,
        }
    }
}

/// What `SHOW HELP` says.
pub(crate) fn help() -> String {
    let mut out = String::from("Commands of the console");
    for chunk in Show::ALL.chunks(8) {
        let names: Vec<&str> = chunk.iter().map(|(_, name)| *name).collect();
        out.push_str("\n\tSHOW ");
        out.push_str(&names.join("|"));
    }
    out.push_str(
        "\n\tSET key = value\n\tRELOAD\n\tPAUSE [db]\n\tRESUME [db]\n\tDISABLE db\n\tENABLE db\n\tRECONNECT [db]\n\tKILL [db]\
         \n\tKILL_CLIENT id\n\tWAIT_CLOSE [db]\n\tSUSPEND\n\tSHUTDOWN [WAIT_FOR_SERVERS|WAIT_FOR_CLIENTS]",
    );
    out
}

/// Reads a text of any number of commands, separated by semicolons.
///
/// # Errors
/// What is wrong with the first that is wrong; none is to be carried out then.
pub(crate) fn parse(text: &str) -> Result<Vec<Command>, Refusal> {
    let mut commands = Vec::new();
    let mut words = Vec::new();
    let mut rest = text;
    loop {
        match token(rest)? {
            None => break,
            Some((Token::End, after)) => {
                commands.extend(command(&std::mem::take(&mut words))?);
                rest = after;
            }
            Some((token, after)) => {
                words.push(token);
                rest = after;
            }
        }
    }
    commands.extend(command(&words)?);
    Ok(commands)
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Token<'a> {
    /// A word as it stands.
    Word(&'a str),
    /// What stood between quotes.
    Quoted(String),
    Equals,
    End,
}

impl Token<'_> {
    fn keyword(&self) -> String {
        match self {
            Self::Word(word) => word.to_ascii_uppercase(),
            Self::Quoted(_) | Self::Equals | Self::End => String::new(),
        }
    }

    fn text(&self) -> Option<String> {
        match self {
            Self::Word(word) => Some((*word).to_owned()),
            Self::Quoted(text) => Some(text.clone()),
            Self::Equals | Self::End => None,
        }
    }
}

/// The first token of a text and what follows it.
fn token(text: &str) -> Result<Option<(Token<'_>, &str)>, Refusal> {
    let text = skip_blank(text)?;
    let Some(first) = text.chars().next() else { return Ok(None) };
    let rest = text.get(first.len_utf8()..).unwrap_or_default();
    Ok(Some(match first {
        ';' => (Token::End, rest),
        '=' => (Token::Equals, rest),
        '\'' | '"' => quoted(rest, first)?,
        _ => {
            let end = text.find(|c: char| c.is_whitespace() || matches!(c, ';' | '=' | '\'' | '"'));
            let (word, after) = text.split_at_checked(end.unwrap_or(text.len())).unwrap_or((text, ""));
            (Token::Word(word), after)
        }
    }))
}

fn quoted(text: &str, quote: char) -> Result<(Token<'_>, &str), Refusal> {
    let mut out = String::new();
    let mut rest = text;
    loop {
        let Some((before, after)) = rest.split_once(quote) else {
            return Err(Refusal::syntax(format!("unterminated quoted string: {quote}{text}")));
        };
        out.push_str(before);
        match after.strip_prefix(quote) {
            Some(after) => {
                out.push(quote);
                rest = after;
            }
            None => return Ok((Token::Quoted(out), after)),
        }
    }
}

fn skip_blank(mut text: &str) -> Result<&str, Refusal> {
    loop {
        text = text.trim_start();
        if let Some(comment) = text.strip_prefix("--") {
            text = comment.split_once('\n').map_or("", |(_, rest)| rest);
        } else if let Some(comment) = text.strip_prefix("/*") {
            let end = comment.split_once("*/");
            text = end.map(|(_, rest)| rest).ok_or_else(|| Refusal::syntax("unterminated comment".to_owned()))?;
        } else {
            return Ok(text);
        }
    }
}

/// First words of what a console is asked by those who take it for a database.
const SQL: [&str; 23] = [
    "SELECT", "INSERT", "UPDATE", "DELETE", "WITH", "VALUES", "TABLE", "CREATE", "ALTER", "DROP", "COPY", "DO", "CALL",
    "EXPLAIN", "LISTEN", "UNLISTEN", "NOTIFY", "PREPARE", "EXECUTE", "DISCARD", "RESET", "DECLARE", "FETCH",
];

fn command(words: &[Token<'_>]) -> Result<Option<Command>, Refusal> {
    let Some((first, rest)) = words.split_first() else { return Ok(None) };
    let name = first.keyword();
    let command = match name.as_str() {
        "SHOW" => show(rest)?,
        "SET" => set(rest)?,
        "RELOAD" => nothing_after(rest, Command::Reload)?,
        "PAUSE" => Command::Pause(scope(rest)?),
        "RESUME" => Command::Resume(scope(rest)?),
        "DISABLE" => Command::Disable(database(rest)?),
        "ENABLE" => Command::Enable(database(rest)?),
        "RECONNECT" => Command::Reconnect(scope(rest)?),
        "KILL" => Command::Kill(scope(rest)?),
        "KILL_CLIENT" => Command::KillClient(client(rest)?),
        "WAIT_CLOSE" => Command::WaitClose(scope(rest)?),
        "SUSPEND" => nothing_after(rest, Command::Suspend)?,
        "SHUTDOWN" => shutdown(rest)?,
        "BEGIN" | "START" => Command::Block(Block::Begin),
        "COMMIT" | "END" => Command::Block(Block::Commit),
        "ROLLBACK" | "ABORT" => Command::Block(Block::Rollback),
        "DEALLOCATE" => Command::Deallocate(prepared(rest)?),
        sql if SQL.contains(&sql) => {
            return Err(Refusal::new("0A000", format!("the console does not run SQL ({sql})")));
        }
        _ => return Err(Refusal::syntax(format!("invalid command '{}'", shown(words)))),
    };
    Ok(Some(command))
}

/// The words as they are shown in an error.
fn shown(words: &[Token<'_>]) -> String {
    let texts = words.iter().map(|word| word.text().unwrap_or_else(|| "=".to_owned()));
    let mut text = texts.collect::<Vec<_>>().join(" ");
    text.truncate(text.floor_char_boundary(200));
    text
}

fn nothing_after(rest: &[Token<'_>], command: Command) -> Result<Command, Refusal> {
    match rest {
        [] => Ok(command),
        _ => Err(Refusal::syntax(format!("{} takes no argument, not '{}'", command.tag(), shown(rest)))),
    }
}

fn scope(rest: &[Token<'_>]) -> Result<Scope, Refusal> {
    if rest.is_empty() { Ok(Scope::All) } else { database(rest).map(Scope::Database) }
}

fn database(rest: &[Token<'_>]) -> Result<String, Refusal> {
    let name = match rest {
        [name] => name.text(),
        _ => None,
    };
    name.ok_or_else(|| Refusal::syntax(format!("expected the name of a database, not '{}'", shown(rest))))
}

/// The name of a prepared statement; none for all.
fn prepared(rest: &[Token<'_>]) -> Result<Option<String>, Refusal> {
    let name = match rest {
        [prepare, name] if prepare.keyword() == "PREPARE" => name,
        [name] => name,
        _ => return Err(Refusal::syntax(format!("expected the name of a statement, not '{}'", shown(rest)))),
    };
    Ok(if name.keyword() == "ALL" { None } else { name.text() })
}

fn client(rest: &[Token<'_>]) -> Result<u32, Refusal> {
    let id = match rest {
        [id] => id.text().and_then(|text| text.parse().ok()),
        _ => None,
    };
    id.ok_or_else(|| Refusal::syntax(format!("expected the id of a client as in SHOW CLIENTS, not '{}'", shown(rest))))
}

fn show(rest: &[Token<'_>]) -> Result<Command, Refusal> {
    let what = match rest {
        [what] => what.keyword(),
        _ => String::new(),
    };
    let found = Show::ALL.iter().find(|(_, name)| *name == what);
    found
        .map(|(show, _)| Command::Show(*show))
        .ok_or_else(|| Refusal::syntax(format!("invalid command 'SHOW {}'", shown(rest))))
}

fn set(rest: &[Token<'_>]) -> Result<Command, Refusal> {
    let (key, value) = match rest {
        [key, Token::Equals, value] => (key.text(), value.text()),
        [key, to, value] if to.keyword() == "TO" => (key.text(), value.text()),
        _ => (None, None),
    };
    match (key, value) {
        (Some(key), Some(value)) => Ok(Command::Set { key, value }),
        _ => Err(Refusal::syntax(format!("expected SET key = value, not 'SET {}'", shown(rest)))),
    }
}

fn shutdown(rest: &[Token<'_>]) -> Result<Command, Refusal> {
    let how = match rest {
        [] => Shutdown::Now,
        [how] if how.keyword() == "WAIT_FOR_SERVERS" => Shutdown::WaitForServers,
        [how] if how.keyword() == "WAIT_FOR_CLIENTS" => Shutdown::WaitForClients,
        _ => return Err(Refusal::syntax(format!("invalid command 'SHUTDOWN {}'", shown(rest)))),
    };
    Ok(Command::Shutdown(how))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Command {
        let mut commands = parse(text).unwrap();
        assert_eq!(commands.len(), 1, "{text}");
        commands.remove(0)
    }

    #[test]
    fn every_command_is_read_whatever_its_case_and_blanks() {
        for (show, name) in Show::ALL {
            assert_eq!(one(&format!(" show\n{} ; ", name.to_lowercase())), Command::Show(show));
        }
        let app = || Scope::Database("app".to_owned());
        for (text, command) in [
            ("PAUSE", Command::Pause(Scope::All)),
            ("pause app", Command::Pause(app())),
            ("resume \"app\"", Command::Resume(app())),
            ("DISABLE 'app'", Command::Disable("app".to_owned())),
            ("enable app", Command::Enable("app".to_owned())),
            ("reconnect", Command::Reconnect(Scope::All)),
            ("kill app", Command::Kill(app())),
            ("kill_client 17", Command::KillClient(17)),
            ("wait_close app", Command::WaitClose(app())),
            ("/* now */ suspend -- please", Command::Suspend),
            ("shutdown", Command::Shutdown(Shutdown::Now)),
            ("shutdown wait_for_servers", Command::Shutdown(Shutdown::WaitForServers)),
            ("Shutdown Wait_For_Clients", Command::Shutdown(Shutdown::WaitForClients)),
            ("reload", Command::Reload),
            ("deallocate prepare \"a\"", Command::Deallocate(Some("a".to_owned()))),
            ("DEALLOCATE ALL", Command::Deallocate(None)),
            ("begin isolation level serializable", Command::Block(Block::Begin)),
        ] {
            assert_eq!(one(text), command, "{text}");
        }
    }

    #[test]
    fn a_setting_may_stand_in_quotes_or_not() {
        for text in ["set pool.size=5", "SET pool.size = '5'", "set \"pool.size\" to 5"] {
            assert_eq!(one(text), Command::Set { key: "pool.size".to_owned(), value: "5".to_owned() }, "{text}");
        }
        assert_eq!(one("set a = 'it''s; so'"), Command::Set { key: "a".to_owned(), value: "it's; so".to_owned() });
    }

    #[test]
    fn several_commands_are_carried_out_in_order_and_none_if_one_is_wrong() {
        let both = [Command::Show(Show::Version), Command::Reload];
        assert_eq!(parse("show version;; reload;").unwrap(), both);
        assert_eq!(parse(" ; -- nothing").unwrap(), []);
        assert!(parse("reload; show nothing").is_err());
    }

    #[test]
    fn what_is_no_command_is_refused_with_a_hint() {
        for (text, sqlstate) in [
            ("select 1", "0A000"),
            ("SELECT c.oid FROM pg_catalog.pg_class c WHERE c.relname = 'x;y'", "0A000"),
            ("vacuum", "42601"),
            ("show", "42601"),
            ("show tables", "42601"),
            ("show version 2", "42601"),
            ("pause a b", "42601"),
            ("disable", "42601"),
            ("kill_client x", "42601"),
            ("kill_client -1", "42601"),
            ("set x", "42601"),
            ("shutdown soon", "42601"),
            ("reload now", "42601"),
            ("'pause'", "42601"),
            ("pause 'a", "42601"),
            ("/* no end", "42601"),
            ("=", "42601"),
        ] {
            let refusal = parse(text).unwrap_err();
            assert_eq!((refusal.sqlstate, refusal.hint), (sqlstate, Some("Use SHOW HELP.")), "{text}");
        }
    }

    #[test]
    fn nothing_a_client_sends_is_too_odd() {
        let odd = ["\u{0}", "ß", "-", "--", "/*/", "'", "''''", "\"\"", "=;=", "show\u{a0}pools", "é;é"];
        for a in odd {
            for b in odd {
                // whatever comes of it, it comes
                let _read: Result<Vec<Command>, Refusal> = parse(&format!("{a}{b}"));
            }
        }
    }

    #[test]
    fn help_names_everything() {
        for (_, name) in Show::ALL {
            assert!(help().contains(name));
        }
    }
}
