//! Values of single keys: from TOML to the types of [`crate::Config`]. Each either gives a value or says what it should be.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use toml::de::DeValue;

use crate::{
    Host, LogConnections, LogFormat, LogLevel, PoolMode, ProofList, Range, Secret, SequenceState, ServerClean,
    ServerProtocol, SessionAttrs, Share, Timeout, TlsMode,
};

/// Longest path a Unix socket can have: `sun_path` without its NUL.
const SOCKET_PATH_LEN_MAX: usize = 107;
/// `/.s.PGSQL.65535`.
const SOCKET_NAME_LEN_MAX: usize = 15;
const CORE_MAX: u16 = 4095;
/// More often would only keep the resolver busy.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// Less would not hold the buffers of a few clients.
const MEMORY_MIN: u64 = 1024 * 1024;
/// Longest duration that makes sense; sums of several stay far from overflow.
const DURATION_MAX: Duration = Duration::from_secs(366 * 24 * 3600);

pub(crate) type Parsed<T> = Result<T, String>;

fn string<'v>(value: &'v DeValue<'_>, what: &str) -> Parsed<&'v str> {
    value.as_str().ok_or_else(|| format!("must be {what} in quotes, not {}", kind(value)))
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "text",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

fn number(value: &DeValue<'_>, least: u32) -> Parsed<u32> {
    let integer = value.as_integer().ok_or_else(|| format!("must be a whole number, not {}", kind(value)))?;
    let number = i64::from_str_radix(integer.as_str(), integer.radix()).ok();
    match number.and_then(|number| u32::try_from(number).ok()) {
        Some(number) if number >= least => Ok(number),
        None if number.is_none_or(|number| number > 0) => Err(format!("must be at most {}", u32::MAX)),
        _ => Err(format!("must be at least {least}")),
    }
}

pub(crate) fn count(value: &DeValue<'_>) -> Parsed<u32> {
    number(value, 0)
}

pub(crate) fn positive(value: &DeValue<'_>) -> Parsed<u32> {
    number(value, 1)
}

pub(crate) fn statements(value: &DeValue<'_>) -> Parsed<u32> {
    let most = 10_000;
    number(value, 0).and_then(|count| if count <= most { Ok(count) } else { Err(format!("must be at most {most}")) })
}

pub(crate) fn port(value: &DeValue<'_>) -> Parsed<u16> {
    number(value, 1).and_then(|port| u16::try_from(port).map_err(|_| "must be at most 65535".to_owned()))
}

pub(crate) fn text(value: &DeValue<'_>) -> Parsed<String> {
    let text = string(value, "text")?;
    match text {
        "" => Err("must not be empty".to_owned()),
        text if text.contains('\0') => Err("must not contain a NUL character".to_owned()),
        text => Ok(text.to_owned()),
    }
}

pub(crate) fn duration(value: &DeValue<'_>) -> Parsed<Duration> {
    let text = string(value, "a duration such as 500ms, 30s, 10min or 1h")?;
    parse_duration(text).ok_or_else(|| format!("\"{text}\" is no duration such as 500ms, 30s, 10min or 1h"))
}

/// A duration that may be off.
pub(crate) fn timeout(value: &DeValue<'_>) -> Parsed<Timeout> {
    let text = string(value, "a duration such as 500ms, 30s, 10min or 1h, or off,")?;
    if text == "off" {
        return Ok(Timeout::OFF);
    }
    match parse_duration(text) {
        Some(Duration::ZERO) => Err("must be longer than nothing; \"off\" means no bound".to_owned()),
        Some(duration) => Ok(Timeout::after(duration)),
        None => Err(format!("\"{text}\" is no duration such as 500ms, 30s, 10min or 1h, nor \"off\"")),
    }
}

/// Bytes for buffers.
pub(crate) fn memory(value: &DeValue<'_>) -> Parsed<u64> {
    let text = string(value, "a size such as 512MiB or 2GiB")?;
    let bytes = parse_size(text).ok_or_else(|| format!("\"{text}\" is no size such as 512MiB or 2GiB"))?;
    if bytes < MEMORY_MIN { Err("must be at least 1MiB".to_owned()) } else { Ok(bytes) }
}

fn parse_size(text: &str) -> Option<u64> {
    let (number, unit) = text.split_at_checked(text.find(|c: char| !c.is_ascii_digit())?)?;
    let unit_len = match unit.trim_start() {
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit_len)
}

pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at_checked(text.find(|c: char| !c.is_ascii_digit())?)?;
    let unit_ms = match unit.trim_start() {
        "ms" => 1,
        "s" => 1000,
        "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    let duration = Duration::from_millis(number.parse::<u64>().ok()?.checked_mul(unit_ms)?);
    (duration <= DURATION_MAX).then_some(duration)
}

pub(crate) fn cores(value: &DeValue<'_>) -> Parsed<Option<Vec<u16>>> {
    let text = string(value, "\"auto\" or a list of cores such as 0-3,8")?;
    if text == "auto" {
        return Ok(None);
    }
    parse_cores(text).map(Some).ok_or_else(|| format!("\"{text}\" is no list of cores such as 0-3,8"))
}

fn parse_cores(text: &str) -> Option<Vec<u16>> {
    let mut out = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.trim().split_once('-').unwrap_or_else(|| (part.trim(), part.trim()));
        let (first, last): (u16, u16) = (first.parse().ok()?, last.parse().ok()?);
        if first > last || last > CORE_MAX {
            return None;
        }
        out.extend(first..=last);
    }
    out.sort_unstable();
    out.dedup();
    Some(out)
}

pub(crate) fn address(value: &DeValue<'_>) -> Parsed<SocketAddr> {
    let text = string(value, "an address such as 127.0.0.1:6432")?;
    text.parse().map_err(|_| format!("\"{text}\" is no IP address and port such as 127.0.0.1:6432 or [::1]:6432"))
}

pub(crate) fn socket_dir(value: &DeValue<'_>) -> Parsed<PathBuf> {
    socket_path(&text(value)?)
}

fn socket_path(text: &str) -> Parsed<PathBuf> {
    if !text.starts_with('/') {
        return Err("must be an absolute path".to_owned());
    }
    let len_max = SOCKET_PATH_LEN_MAX - SOCKET_NAME_LEN_MAX;
    if text.len() > len_max {
        return Err(format!("is too long for a Unix socket: {} bytes, at most {len_max}", text.len()));
    }
    Ok(PathBuf::from(text))
}

pub(crate) fn socket(value: &DeValue<'_>) -> Parsed<PathBuf> {
    let text = text(value)?;
    if text.len() > SOCKET_PATH_LEN_MAX {
        return Err(format!("is too long for a Unix socket: {} bytes, at most {SOCKET_PATH_LEN_MAX}", text.len()));
    }
    Ok(PathBuf::from(text))
}

/// Hosts in a list or with commas between.
pub(crate) fn hosts(value: &DeValue<'_>) -> Parsed<Vec<Host>> {
    let mut out = Vec::new();
    let items = value.as_array().map(|items| items.iter().map(|item| item.get_ref()).collect());
    for item in items.unwrap_or_else(|| vec![value]) {
        let text = text(item)?;
        for part in text.split(',').map(str::trim) {
            let (name, port) = split_port(part);
            let port = port.map(|digits| match digits.parse::<u16>() {
                Ok(port) if port > 0 => Ok(port),
                _ => Err(format!("\"{digits}\" in \"{part}\" is no port")),
            });
            out.push(Host { name: host(name)?, port: port.transpose()? });
        }
    }
    if out.is_empty() { Err("must not be empty".to_owned()) } else { Ok(out) }
}

/// `[::1]:5432` and `db:5432` have a port, `::1` has none.
fn split_port(text: &str) -> (&str, Option<&str>) {
    if let Some((address, rest)) = text.strip_prefix('[').and_then(|text| text.split_once(']')) {
        return match rest.strip_prefix(':') {
            Some(port) => (address, Some(port)),
            None if rest.is_empty() => (address, None),
            None => (text, None),
        };
    }
    match text.split_once(':') {
        Some((name, port)) if !port.contains(':') && !text.starts_with('/') => (name, Some(port)),
        Some(_) | None => (text, None),
    }
}

/// What a server must be like.
pub(crate) fn session_attrs(value: &DeValue<'_>) -> Parsed<SessionAttrs> {
    choice(value, &SessionAttrs::ALL.map(|attrs| (attrs.name(), attrs)))
}

/// A duration that something is done once in.
pub(crate) fn pause(value: &DeValue<'_>) -> Parsed<Duration> {
    let pause = duration(value)?;
    if pause < PAUSE_MIN { Err("must be at least 100ms".to_owned()) } else { Ok(pause) }
}

/// An IP address, a host name, or the directory of a Unix socket.
fn host(host: &str) -> Parsed<String> {
    if host.starts_with('/') {
        return socket_path(host).map(|_| host.to_owned());
    }
    let label = |label: &str| {
        let sound = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
        sound && !label.is_empty() && label.len() <= 63 && !label.starts_with('-') && !label.ends_with('-')
    };
    let numeric = host.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let named = !numeric && host.len() <= 253 && host.trim_end_matches('.').split('.').all(label);
    if named || host.parse::<IpAddr>().is_ok() {
        return Ok(host.to_owned());
    }
    Err(format!("\"{host}\" is no IP address, host name or absolute path"))
}

fn choice<T: Copy>(value: &DeValue<'_>, choices: &[(&str, T)]) -> Parsed<T> {
    let found = value.as_str().and_then(|text| choices.iter().find(|(name, _)| *name == text));
    found.map(|(_, choice)| *choice).ok_or_else(|| {
        let names: Vec<String> = choices.iter().map(|(name, _)| format!("\"{name}\"")).collect();
        let given = value.as_str().map_or_else(|| kind(value).to_owned(), |text| format!("\"{text}\""));
        format!("must be one of {}, not {given}", names.join(", "))
    })
}

pub(crate) fn mode(value: &DeValue<'_>) -> Parsed<PoolMode> {
    choice(
        value,
        &[("transaction", PoolMode::Transaction), ("session", PoolMode::Session), ("statement", PoolMode::Statement)],
    )
}

pub(crate) fn share(value: &DeValue<'_>) -> Parsed<Share> {
    match value.as_bool() {
        Some(true) => Ok(Share::On),
        Some(false) => Ok(Share::Off),
        None => choice(value, &[("on", Share::On), ("off", Share::Off)]),
    }
}

pub(crate) fn clean(value: &DeValue<'_>) -> Parsed<ServerClean> {
    choice(value, &ServerClean::ALL.map(|clean| (clean.name(), clean)))
}

pub(crate) fn sequence_state(value: &DeValue<'_>) -> Parsed<SequenceState> {
    choice(value, &SequenceState::ALL.map(|state| (state.name(), state)))
}

/// Settings with their values, in the order of their names.
pub(crate) fn settings(value: &DeValue<'_>) -> Parsed<Vec<(String, String)>> {
    let what = "a table of texts such as { TimeZone = \"UTC\" }";
    let table = value.as_table().ok_or_else(|| format!("must be {what}, not {}", kind(value)))?;
    let mut out = Vec::new();
    for (name, value) in table {
        let name = name.get_ref();
        let is_part = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '$');
        if name.is_empty() || !name.chars().all(is_part) || RESERVED_SETTINGS.contains(&&*name.to_ascii_lowercase()) {
            return Err(format!("\"{}\" is no setting", name.escape_debug()));
        }
        out.push((name.to_string(), text(value.get_ref()).map_err(|error| format!("{name}: {error}"))?));
    }
    out.sort();
    Ok(out)
}

/// Start-up parameters that are no settings.
const RESERVED_SETTINGS: [&str; 4] = ["user", "database", "options", "replication"];

pub(crate) fn tls_mode(value: &DeValue<'_>) -> Parsed<TlsMode> {
    use TlsMode::{Allow, Disable, Prefer, Require, VerifyCa, VerifyFull};
    choice(value, &[Disable, Allow, Prefer, Require, VerifyCa, VerifyFull].map(|mode| (mode.name(), mode)))
}

pub(crate) fn server_protocol(value: &DeValue<'_>) -> Parsed<ServerProtocol> {
    choice(value, &[ServerProtocol::V3_0, ServerProtocol::V3_2].map(|version| (version.name(), version)))
}

/// Ways to prove who we are.
pub(crate) fn proofs(value: &DeValue<'_>) -> Parsed<ProofList> {
    ProofList::parse(string(value, "methods such as scram-sha-256 or !password,!md5")?)
}

/// A file of which only the name is known yet.
pub(crate) fn file(value: &DeValue<'_>) -> Parsed<PathBuf> {
    text(value).map(PathBuf::from)
}

const LEVELS: [(&str, LogLevel); 5] = [
    ("error", LogLevel::Error),
    ("warn", LogLevel::Warn),
    ("info", LogLevel::Info),
    ("debug", LogLevel::Debug),
    ("trace", LogLevel::Trace),
];

pub(crate) fn level(value: &DeValue<'_>) -> Parsed<LogLevel> {
    choice(value, &LEVELS)
}

/// A level by its name.
pub(crate) fn level_named(text: &str) -> Parsed<LogLevel> {
    let found = LEVELS.iter().find(|(name, _)| *name == text);
    found.map(|(_, level)| *level).ok_or_else(|| format!("\"{text}\" is no level such as info or debug"))
}

pub(crate) fn log_format(value: &DeValue<'_>) -> Parsed<LogFormat> {
    choice(value, &LogFormat::ALL.map(|format| (format.name(), format)))
}

/// A form of the log by its name.
pub(crate) fn log_format_named(text: &str) -> Parsed<LogFormat> {
    let found = LogFormat::ALL.into_iter().find(|format| format.name() == text);
    found.ok_or_else(|| format!("\"{text}\" is no form of the log; there are text and json"))
}

pub(crate) fn log_connections(value: &DeValue<'_>) -> Parsed<LogConnections> {
    match value.as_bool() {
        Some(true) => Ok(LogConnections::On),
        Some(false) => Ok(LogConnections::Off),
        None => choice(value, &LogConnections::ALL.map(|choice| (choice.name(), choice))),
    }
}

/// The same as it is set while running; a pgbouncer.ini writes 1 and 0.
pub(crate) fn log_connections_named(text: &str) -> Parsed<LogConnections> {
    match text {
        "on" | "1" => Ok(LogConnections::On),
        "off" | "0" => Ok(LogConnections::Off),
        _ => Err(format!("\"{text}\" is neither on nor off")),
    }
}

/// An address range, or `None` for `local`.
pub(crate) fn trust(value: &DeValue<'_>) -> Parsed<Option<Range>> {
    let text = string(value, "an address range such as 10.0.0.0/8")?;
    if text == "local" {
        return Ok(None);
    }
    Range::parse(text)
        .map(Some)
        .ok_or_else(|| format!("\"{text}\" is no address range such as 10.0.0.0/8, nor \"local\""))
}

/// A verifier or hash as `rolpassword` holds it. The text is never repeated: it may be a password.
pub(crate) fn verifier(text: &str) -> Parsed<Secret> {
    if text.starts_with("SCRAM-SHA-256$") {
        return match is_scram_verifier(text) {
            true => Ok(Secret::new(text)),
            false => Err("is not a whole SCRAM-SHA-256 verifier; make one with ctl password-verifier".to_owned()),
        };
    }
    let digits = text.strip_prefix("md5").unwrap_or_default();
    if digits.len() == 32 && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        return Ok(Secret::new(text));
    }
    Err("must be a SCRAM-SHA-256 verifier or an MD5 hash, not the password itself; make a verifier with \
         ctl password-verifier"
        .to_owned())
}

fn is_scram_verifier(text: &str) -> bool {
    let base64 = |text: &str| {
        let digits = text.trim_end_matches('=');
        let padding = text.len() - digits.len();
        let known = digits.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/'));
        known && !digits.is_empty() && text.len().is_multiple_of(4) && padding <= 2
    };
    // 32 bytes
    let key = |text: &str| text.len() == 44 && text.ends_with('=') && !text.ends_with("==") && base64(text);
    let mut parts = text.split('$').skip(1);
    let (Some(cost), Some(keys), None) = (parts.next(), parts.next(), parts.next()) else { return false };
    let cost_sound = cost
        .split_once(':')
        .is_some_and(|(iterations, salt)| iterations.parse::<i32>().is_ok_and(|count| count > 0) && base64(salt));
    cost_sound && keys.split_once(':').is_some_and(|(stored, server)| key(stored) && key(server))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Upstream;

    #[test]
    fn durations_have_a_number_and_a_unit() {
        assert_eq!(parse_duration("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(parse_duration("10 min"), Some(Duration::from_secs(600)));
        for bad in ["", "5", "s", "5 days", "-1s", "1.5s", "99999999999999999999s", "9999999999999h", "1000d"] {
            assert_eq!(parse_duration(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_timeout_may_be_off_but_not_nothing() {
        let read = |text: &str| timeout(&DeValue::String(text.to_owned().into()));
        assert_eq!(read("off"), Ok(Timeout::OFF));
        assert_eq!(read("20ms"), Ok(Timeout::after(Duration::from_millis(20))));
        for bad in ["0s", "", "never", "5"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_have_a_number_and_a_unit() {
        let read = |text: &str| memory(&DeValue::String(text.to_owned().into()));
        assert_eq!(read("2 GiB"), Ok(2 << 30));
        assert_eq!(read("1024KiB"), Ok(1 << 20));
        for bad in ["", "5", "MiB", "1023KiB", "5MB", "99999999999999999GiB", "-1MiB"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn core_lists_are_sorted_and_bounded() {
        assert_eq!(parse_cores("8,0-2,1"), Some(vec![0, 1, 2, 8]));
        for bad in ["", "3-1", "a", "1,", "0-70000", "0-4096", "-1"] {
            assert_eq!(parse_cores(bad), None, "{bad}");
        }
    }

    #[test]
    fn hosts_are_addresses_names_or_directories() {
        for good in ["127.0.0.1", "::1", "db", "db-1.example.org", "db.example.", "/run/postgresql", "a_b"] {
            let host = Host { name: good.to_owned(), port: None };
            assert_eq!(hosts(&DeValue::String(good.into())), Ok(vec![host]), "{good}");
        }
        for bad in [
            "",
            "db:",
            "db:0",
            "db:65536",
            "1.2.3",
            "256.1.1.1",
            "-a",
            "a..b",
            "a b",
            "run/x",
            "[::1",
            "[::1]x",
            "a,",
            &"a".repeat(64),
        ] {
            assert!(hosts(&DeValue::String(bad.into())).is_err(), "{bad}");
        }
    }

    #[test]
    fn hosts_may_be_several_each_with_a_port_of_its_own() {
        let text = "db:5433, 10.0.0.1,[::1]:5434,[::2],::3,/run/postgresql";
        let found = hosts(&DeValue::String(text.into())).unwrap();
        let shown: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["db:5433", "10.0.0.1", "[::1]:5434", "::2", "::3", "/run/postgresql"]);
        let at = |index: usize| found[index].upstream(5432);
        assert_eq!(at(0), Upstream::Named("db".to_owned(), 5433));
        assert_eq!(at(1), Upstream::Tcp("10.0.0.1:5432".parse().unwrap()));
        assert_eq!(at(2), Upstream::Tcp("[::1]:5434".parse().unwrap()));
        assert_eq!(at(5), Upstream::Unix("/run/postgresql/.s.PGSQL.5432".into()));
    }

    #[test]
    fn verifiers_must_be_whole() {
        let good = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:\
                    wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";
        assert!(is_scram_verifier(good));
        for end in 0..good.len() {
            assert!(!is_scram_verifier(good.get(..end).unwrap()), "{end}");
        }
        assert!(!is_scram_verifier(&format!("{good}$")));
        assert!(!is_scram_verifier(&good.replace("4096", "0")));
    }
}
