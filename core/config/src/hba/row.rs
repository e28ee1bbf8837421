//! From fields to a [`Rule`]; what makes no sense is refused in words.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use regex_lite::Regex;

use super::token::Token;
use super::{DatabaseName, From, Method, Network, Rule, Transport, UserName};

const TRANSPORTS: [(&str, Transport); 6] = [
    ("local", Transport::Local),
    ("host", Transport::Host),
    ("hostssl", Transport::HostTls),
    ("hostnossl", Transport::HostPlain),
    ("hostgssenc", Transport::HostGss),
    // nobody encrypts by GSS here
    ("hostnogssenc", Transport::Host),
];
const METHODS: [Method; 7] =
    [Method::Trust, Method::Reject, Method::Scram, Method::Md5, Method::Password, Method::Peer, Method::Cert];
/// PostgreSQL's other methods: known, and not to be had here.
const METHODS_REFUSED: [&str; 8] = ["gss", "sspi", "ident", "ldap", "radius", "pam", "bsd", "oauth"];
/// PostgreSQL's options of the methods there are here: known, and not to be had.
const OPTIONS_REFUSED: [&str; 2] = ["clientcert", "clientname"];

/// Makes a row of its fields; `place` is where it stands.
pub(crate) fn read(place: String, fields: &[Vec<Token>]) -> Result<Rule, String> {
    let mut fields = fields.iter();
    let word = one(fields.next(), "a connection type")?;
    let transport = TRANSPORTS.iter().find(|(name, _)| *name == word.text).map(|(_, transport)| *transport);
    let transport = transport.ok_or_else(|| {
        let names: Vec<&str> = TRANSPORTS.iter().map(|(name, _)| *name).collect();
        format!("\"{}\" is no connection type; there are {}", word.text, names.join(", "))
    })?;
    let databases = fields.next().ok_or("the row ends before its databases")?;
    let databases = databases.iter().map(database).collect::<Result<_, _>>()?;
    let users = fields.next().ok_or("the row ends before its users")?;
    let users = users.iter().map(user).collect::<Result<_, _>>()?;
    let from = match transport {
        Transport::Local => From::All,
        Transport::Host | Transport::HostTls | Transport::HostPlain | Transport::HostGss => {
            let address = one(fields.next(), "an address")?;
            match from(address)? {
                Address::Whole(from) => from,
                Address::Maskless(ip) => masked(ip, one(fields.next(), "a mask behind the address")?)?,
            }
        }
    };
    let method = method(transport, one(fields.next(), "a method")?)?;
    let mut map = None;
    for option in fields {
        let text = &one(Some(option), "an option")?.text;
        match text.split_once('=') {
            Some(("map", name)) if matches!(method, Method::Peer | Method::Cert) => map = Some(name.to_owned()),
            Some(("map", _)) => return Err(format!("map is for peer and cert; {} has none", method.name())),
            _ => return Err(refuse_option(text)),
        }
    }
    Ok(Rule { place, method, transport, databases, users, from, map })
}

fn one<'f>(field: Option<&'f Vec<Token>>, what: &str) -> Result<&'f Token, String> {
    match field.map(Vec::as_slice) {
        Some([token]) => Ok(token),
        Some(_) => Err(format!("more than one value where there must be {what}")),
        None => Err(format!("the row ends where there must be {what}")),
    }
}

fn database(token: &Token) -> Result<DatabaseName, String> {
    if token.is("all") {
        return Ok(DatabaseName::All);
    }
    if token.is("sameuser") {
        return Ok(DatabaseName::SameUser);
    }
    if token.is("replication") {
        return Ok(DatabaseName::Replication);
    }
    if token.is("samerole") || token.is("samegroup") || token.behind('+').is_some() {
        return Err(group(&token.text));
    }
    match pattern(token)? {
        Some(pattern) => Ok(DatabaseName::Fits(pattern)),
        None => Ok(DatabaseName::Is(token.text.clone())),
    }
}

fn user(token: &Token) -> Result<UserName, String> {
    if token.is("all") {
        return Ok(UserName::All);
    }
    if token.behind('+').is_some() {
        return Err(group(&token.text));
    }
    match pattern(token)? {
        Some(pattern) => Ok(UserName::Fits(pattern)),
        None => Ok(UserName::Is(token.text.clone())),
    }
}

fn group(text: &str) -> String {
    format!("\"{text}\" asks who is a member of a role, which is not known here; name the users, or use /regex")
}

/// What a name beginning with `/` must fit.
fn pattern(token: &Token) -> Result<Option<Regex>, String> {
    let Some(text) = token.text.strip_prefix('/') else { return Ok(None) };
    Regex::new(text).map(Some).map_err(|error| format!("\"/{text}\" is no regular expression: {error}"))
}

enum Address {
    Whole(From),
    /// The mask is the next field.
    Maskless(IpAddr),
}

fn from(token: &Token) -> Result<Address, String> {
    for (word, from) in [("all", From::All), ("samehost", From::SameHost), ("samenet", From::SameNet)] {
        if token.is(word) {
            return Ok(Address::Whole(from));
        }
    }
    let (address, bits) = token.text.split_once('/').map_or((token.text.as_str(), None), |(a, b)| (a, Some(b)));
    let ip: IpAddr = address.parse().map_err(|_| {
        format!("\"{}\" is no IP address, all, samehost or samenet (host names are not looked up)", token.text)
    })?;
    let Some(bits) = bits else { return Ok(Address::Maskless(ip)) };
    let most = if ip.is_ipv4() { 32_u32 } else { 128 };
    let digits = !bits.is_empty() && bits.bytes().all(|byte| byte.is_ascii_digit());
    let bits = bits.parse::<u32>().ok().filter(|bits| digits && *bits <= most);
    let bits = bits.ok_or_else(|| format!("\"{}\" has no valid CIDR mask", token.text))?;
    let mask = match ip {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::from_bits(u32::MAX.checked_shl(32 - bits).unwrap_or(0))),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from_bits(u128::MAX.checked_shl(128 - bits).unwrap_or(0))),
    };
    Ok(Address::Whole(From::Network(Network { address: ip, mask })))
}

fn masked(address: IpAddr, token: &Token) -> Result<From, String> {
    let mask: IpAddr = token.text.parse().map_err(|_| {
        format!("\"{}\" is no mask; the address has none either (10.0.0.0/8, or 10.0.0.0 255.0.0.0)", token.text)
    })?;
    if mask.is_ipv4() != address.is_ipv4() {
        return Err(format!("address {address} and mask {mask} are of different kinds"));
    }
    Ok(From::Network(Network { address, mask }))
}

fn method(transport: Transport, token: &Token) -> Result<Method, String> {
    let method = METHODS.into_iter().find(|method| method.name() == token.text);
    match (method, transport) {
        // as PostgreSQL reads it
        (None, Transport::Local) if token.text == "ident" => Ok(Method::Peer),
        (None, _) if METHODS_REFUSED.contains(&token.text.as_str()) => {
            Err(format!("the method \"{}\" is not supported", token.text))
        }
        (None, _) => {
            let names: Vec<&str> = METHODS.into_iter().map(Method::name).collect();
            Err(format!("\"{}\" is no method; there are {}", token.text, names.join(", ")))
        }
        (Some(Method::Peer), Transport::Local) => Ok(Method::Peer),
        (Some(Method::Peer), _) => Err("peer is possible in rows of type local only".to_owned()),
        (Some(Method::Cert), Transport::HostTls) => Ok(Method::Cert),
        (Some(Method::Cert), _) => Err("cert is possible in rows of type hostssl only".to_owned()),
        (Some(method), _) => Ok(method),
    }
}

fn refuse_option(text: &str) -> String {
    match text.split_once('=') {
        Some((name, _)) if OPTIONS_REFUSED.contains(&name) => format!("the option \"{name}\" is not supported"),
        Some((name, _)) => format!("unknown option \"{name}\""),
        None => format!("\"{text}\" is no option of the form name=value"),
    }
}
