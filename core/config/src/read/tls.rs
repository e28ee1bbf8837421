//! Reading what the file says of TLS.

use toml::de::DeTable;

use super::{Reader, Table};
use crate::tls::{ListenTls, ServerTls, TlsMode};
use crate::{key, value};

/// `[listen.tls]`.
pub(super) fn listen(reader: &mut Reader<'_>, parent: &DeTable<'_>) -> ListenTls {
    let Some(table) = reader.table(parent, &key::LISTEN_TLS) else { return ListenTls::default() };
    let tls = ListenTls {
        mode: reader.read(&table, "mode", value::tls_mode).unwrap_or_default(),
        certificate: reader.read(&table, "certificate", value::file),
        key: reader.read(&table, "key", value::file),
        client_ca: reader.read(&table, "client_ca", value::file),
        client_crl: reader.read(&table, "client_crl", value::file),
    };
    let name = tls.mode.name();
    for wanted in ["certificate", "key"] {
        if tls.mode != TlsMode::Disable && table.find(wanted).is_none() {
            reader.tell(table.place(wanted), format!("mode = \"{name}\" needs the key {wanted}"));
        }
    }
    match (tls.mode.verifies(), table.find("client_ca").is_some()) {
        (true, false) => reader.tell(table.place("client_ca"), format!("mode = \"{name}\" needs the key client_ca")),
        (false, true) => {
            let message =
                format!("client_ca has no meaning with mode = \"{name}\"; mode = \"verify-ca\" judges certificates");
            reader.tell(table.place("client_ca"), message);
        }
        (true, true) | (false, false) => {}
    }
    if tls.client_crl.is_some() && table.find("client_ca").is_none() {
        reader.tell(table.place("client_crl"), "client_crl has no meaning without client_ca".to_owned());
    }
    tls
}

/// `[server]`.
pub(super) fn server(reader: &mut Reader<'_>, root: &DeTable<'_>) -> ServerTls {
    let Some(table) = reader.table(root, &key::SERVER) else { return ServerTls::default() };
    over(reader, &table, &ServerTls::default())
}

/// What comes of the keys of a table when they are put over those of `[server]`.
pub(super) fn over(reader: &mut Reader<'_>, table: &Table<'_>, default: &ServerTls) -> ServerTls {
    let mode = reader.read(table, "tls", value::tls_mode);
    let ca = reader.read(table, "tls_ca", value::file);
    let certificate = reader.read(table, "tls_certificate", value::file);
    let key = reader.read(table, "tls_key", value::file);
    let crl = reader.read(table, "tls_crl", value::file);
    let require_auth = reader.read(table, "require_auth", value::proofs);
    for (one, other) in [("tls_certificate", "tls_key"), ("tls_key", "tls_certificate")] {
        if table.find(one).is_some() && table.find(other).is_none() {
            reader.tell(table.place(one), format!("{one} needs the key {other}"));
        }
    }
    if let (Some(mode), Some(_)) = (mode, &ca)
        && !mode.verifies()
    {
        let message =
            format!("tls_ca has no meaning with tls = \"{}\"; tls = \"verify-full\" judges certificates", mode.name());
        reader.tell(table.place("tls_ca"), message);
    }
    let tls = ServerTls {
        mode: mode.unwrap_or(default.mode),
        ca: ca.or_else(|| default.ca.clone()),
        crl: crl.or_else(|| default.crl.clone()),
        identity: certificate.zip(key).or_else(|| default.identity.clone()),
        require_auth: require_auth.or_else(|| default.require_auth.clone()),
    };
    if table.find("tls_crl").is_some() && tls.ca.is_none() && table.find("tls_ca").is_none() {
        reader.tell(table.place("tls_crl"), "tls_crl has no meaning without tls_ca".to_owned());
    }
    if tls.mode.verifies() && tls.ca.is_none() && table.find("tls_ca").is_none() {
        reader.tell(table.place("tls"), format!("tls = \"{}\" needs the key tls_ca", tls.mode.name()));
    }
    tls
}
