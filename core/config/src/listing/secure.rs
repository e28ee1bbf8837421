//! Keys of encryption and of who may come in. None of them changes before a restart.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::PathBuf;

use super::{Entry, HIDDEN, duration, entry, list, optional, secret};
use crate::{Auth, Http, Known, ListenTls, Password, ProofList, ServerTls};

fn file(out: &mut Vec<Entry>, key: &str, path: Option<&PathBuf>) {
    optional(out, key, path.map(|path| path.display()));
}

/// What is too long to be shown, or secret, is compared by a digest.
fn digest(key: &str, value: String, parts: impl Iterator<Item = String>) -> Entry {
    let mut hasher = DefaultHasher::new();
    parts.for_each(|part| part.hash(&mut hasher));
    Entry { key: key.to_owned(), value, exact: format!("{:x}", hasher.finish()) }
}

pub(super) fn listen(out: &mut Vec<Entry>, tls: &ListenTls) {
    let key = |name: &str| format!("listen.tls.{name}");
    out.push(entry(&key("mode"), tls.mode.name()));
    file(out, &key("certificate"), tls.certificate.as_ref());
    file(out, &key("key"), tls.key.as_ref());
    file(out, &key("client_ca"), tls.client_ca.as_ref());
    file(out, &key("client_crl"), tls.client_crl.as_ref());
}

pub(super) fn server(out: &mut Vec<Entry>, of: &str, tls: &ServerTls) {
    let key = |name: &str| format!("{of}.{name}");
    out.push(entry(&key("tls"), tls.mode.name()));
    file(out, &key("tls_ca"), tls.ca.as_ref());
    file(out, &key("tls_crl"), tls.crl.as_ref());
    file(out, &key("tls_certificate"), tls.identity.as_ref().map(|(certificate, _)| certificate));
    file(out, &key("tls_key"), tls.identity.as_ref().map(|(_, key)| key));
    optional(out, &key("require_auth"), tls.require_auth.as_ref().map(ProofList::as_str));
    out.push(entry(&key("protocol"), tls.protocol.name()));
}

pub(super) fn http(out: &mut Vec<Entry>, http: &Http) {
    optional(out, "http.listen", http.listen);
    secret(out, "http.token_file", http.token.as_ref().map(Password::as_str));
    file(out, "http.tls_cert", http.identity.as_ref().map(|(certificate, _)| certificate));
    file(out, "http.tls_key", http.identity.as_ref().map(|(_, key)| key));
    file(out, "http.tls_client_ca", http.client_ca.as_ref());
    for (key, names) in [("http.allowed_hosts", &http.allowed_hosts), ("http.allowed_origins", &http.allowed_origins)] {
        optional(out, key, (!names.is_empty()).then(|| list(names)));
    }
}

pub(super) fn auth(out: &mut Vec<Entry>, auth: &Auth) {
    if let Some(query) = &auth.query {
        out.push(entry("auth.auth_user", &query.user));
        secret(out, "auth.auth_password", query.password.as_ref().map(Password::as_str));
        optional(out, "auth.auth_dbname", query.dbname.as_ref());
        out.push(entry("auth.auth_query", &query.query));
        out.push(entry("auth.auth_cache_time", duration(query.cache_time)));
        out.push(entry("auth.auth_negative_cache_time", duration(query.negative_cache_time)));
    }
    let users = || auth.listed.users();
    if users().next().is_some() {
        let parts = users().flat_map(|(name, known)| {
            let secret = match known {
                Known::Hashed(secret) => secret.as_str(),
                Known::Plain(password) => password.as_str(),
            };
            [name.to_owned(), secret.to_owned()]
        });
        out.push(digest("auth.auth_file", HIDDEN.to_owned(), parts));
    }
    out.push(entry("auth.auth_delay_max", duration(auth.delay_max)));
    if !auth.ignored_parameters.is_empty() {
        out.push(entry("auth.ignore_startup_parameters", list(&auth.ignored_parameters)));
    }
    if let Some(rules) = &auth.rules {
        // where a row stands is no part of what it says, but telling of a moved row does no harm
        out.push(digest("hba", "(rules)".to_owned(), std::iter::once(format!("{rules:?}"))));
    }
}

#[cfg(test)]
mod tests {
    use crate::{Config, Effect};

    const LEAST: &str = "[[database]]\nname = \"app\"\nhost = \"::1\"\n";

    #[test]
    fn changes_of_encryption_and_of_rules_wait_for_a_restart_and_secrets_are_not_told() {
        let old = Config::parse(LEAST, "old").unwrap();
        let text = format!(
            "[auth]\nauth_user = \"looker\"\nauth_password = \"sesame\"\n[server]\ntls = \"require\"\n\
             [[hba]]\ntype = \"local\"\nmethod = \"peer\"\n{LEAST}"
        );
        let new = Config::parse(&text, "new").unwrap();
        let diff = old.diff(&new);
        assert!(diff.live.is_empty(), "{:?}", diff.live);
        for key in ["server.tls", "database.app.tls", "auth.auth_user", "auth.auth_password", "hba"] {
            assert!(diff.restart.iter().any(|difference| difference.key == key), "{key}");
            assert_eq!(Config::effect_of(key), Effect::Restart);
        }
        assert!(!diff.restart.iter().any(|difference| difference.to_string().contains("sesame")));
        assert!(diff.adopted.auth.query.is_none());
    }
}
