//! Whether a peer's certificate is believed. As libpq and PostgreSQL judge it, which is not quite as rustls does.
//!
//! rustls accepts a chain as the web does: version 3, no authority at its end, host names in the alternative names only.
//! PostgreSQL's documentation tells people to make others: a certificate of version 1 (`openssl x509 -req` without
//! extensions), a self-signed one that is its own authority, a host name in the common name. Those are judged here; every
//! other chain is left to rustls. Source: "Secure TCP/IP Connections with SSL" and libpq's `sslmode` in the documentation.

use std::net::IpAddr;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{
    AlgorithmIdentifier, CertificateDer, CertificateRevocationListDer, ServerName, SubjectPublicKeyInfoDer, UnixTime,
};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme};

use crate::tls::der::{Certificate, PublicKey, RevocationList, Signed};

/// `id-kp-serverAuth` and `id-kp-clientAuth`.
const SERVER_USAGE: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 1];
const CLIENT_USAGE: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 2];

/// Who is trusted to sign certificates.
#[derive(Debug)]
pub(crate) struct Authorities {
    certificates: Vec<CertificateDer<'static>>,
    store: Arc<RootCertStore>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Authorities {
    /// # Errors
    /// When one of them is no certificate, or there are none.
    pub(crate) fn new(certificates: Vec<CertificateDer<'static>>, provider: &CryptoProvider) -> Result<Self, Error> {
        let mut store = RootCertStore::empty();
        for certificate in &certificates {
            Certificate::read(certificate).ok_or(CertificateError::BadEncoding)?;
            store.add(certificate.clone())?;
        }
        if store.is_empty() {
            return Err(Error::General("the file has no certificate in it".to_owned()));
        }
        Ok(Self { certificates, store: Arc::new(store), algorithms: provider.signature_verification_algorithms })
    }

    /// The authority that has signed this, if it is one of ours.
    fn issuer_of<'a>(&'a self, name: &[u8], signed: &Signed<'_>) -> Option<Certificate<'a>> {
        self.certificates.iter().filter_map(|der| Certificate::read(der)).find(|authority| {
            authority.subject == name
                && self.verifies(&authority.key, signed.algorithm, signed.message, signed.signature)
        })
    }

    fn verifies(&self, key: &PublicKey<'_>, algorithm: &[u8], message: &[u8], signature: &[u8]) -> bool {
        self.algorithms.all.iter().any(|candidate| {
            is(candidate.signature_alg_id(), algorithm)
                && is(candidate.public_key_alg_id(), key.algorithm)
                && candidate.verify_signature(key.key, message, signature).is_ok()
        })
    }

    /// Judges a certificate that one of our authorities has signed itself, or that is one of them.
    fn judge_directly(&self, der: &CertificateDer<'_>, now: UnixTime, usage: &[u8]) -> Result<(), Error> {
        let leaf = Certificate::read(der).ok_or(CertificateError::BadEncoding)?;
        let issuer = self.issuer_of(leaf.issuer, &leaf.signed).ok_or(CertificateError::UnknownIssuer)?;
        // the one that signed a version 1 certificate may be of version 1 too; a later one must say that it signs
        if issuer.version > 1 && !issuer.is_authority() && issuer.signed.message != leaf.signed.message {
            return Err(CertificateError::UnknownIssuer.into());
        }
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        for certificate in [&leaf, &issuer] {
            if certificate.not_before > now {
                return Err(CertificateError::NotValidYet.into());
            }
            if certificate.not_after < now {
                return Err(CertificateError::Expired.into());
            }
        }
        if !leaf.allows(usage) {
            return Err(CertificateError::InvalidPurpose.into());
        }
        Ok(())
    }

    /// Whether one of the lists, which must be its issuer's and fresh, has this certificate on it.
    fn judge_revocation(
        &self,
        der: &CertificateDer<'_>,
        lists: &[CertificateRevocationListDer<'static>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let leaf = Certificate::read(der).ok_or(CertificateError::BadEncoding)?;
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let own = lists
            .iter()
            .filter_map(|list| RevocationList::read(list))
            .find(|list| list.issuer == leaf.issuer && self.issuer_of(list.issuer, &list.signed).is_some());
        match own {
            None => Err(CertificateError::UnknownRevocationStatus.into()),
            Some(list) if list.next_update.is_none_or(|at| at < now) => {
                Err(CertificateError::UnknownRevocationStatus.into())
            }
            Some(list) if list.names(leaf.serial) => Err(CertificateError::Revoked.into()),
            Some(_) => Ok(()),
        }
    }
}

fn is(known: AlgorithmIdentifier, other: &[u8]) -> bool {
    *known == *other
}

/// Whether rustls' own judgement does not do it justice.
fn is_odd(der: &CertificateDer<'_>) -> bool {
    Certificate::read(der).is_some_and(|leaf| leaf.version < 2 || leaf.is_authority())
}

/// Whether a peer has the key of its certificate; of any version.
fn verify_signature(
    algorithms: &WebPkiSupportedAlgorithms,
    message: &[u8],
    der: &CertificateDer<'_>,
    dss: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    let key = Certificate::read(der).ok_or(CertificateError::BadEncoding)?.key;
    let candidates = algorithms.mapping.iter().filter(|(scheme, _)| *scheme == dss.scheme);
    candidates
        .flat_map(|(_, candidates)| candidates.iter())
        .find(|candidate| {
            is(candidate.public_key_alg_id(), key.algorithm)
                && candidate.verify_signature(key.key, message, dss.signature()).is_ok()
        })
        .map(|_| HandshakeSignatureValid::assertion())
        .ok_or_else(|| CertificateError::BadSignature.into())
}

fn verify_signature_of_tls13(
    algorithms: &WebPkiSupportedAlgorithms,
    message: &[u8],
    der: &CertificateDer<'_>,
    dss: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    let key = Certificate::read(der).ok_or(CertificateError::BadEncoding)?.key;
    verify_tls13_signature_with_raw_key(message, &SubjectPublicKeyInfoDer::from(key.whole), dss, algorithms)
}

/// What PostgreSQL's certificate must prove.
#[derive(Debug)]
pub(crate) enum Demand {
    /// That it has a key.
    Anybody,
    /// That an authority knows it.
    Known(Authorities),
    /// That an authority knows it by this name or address.
    Named(Authorities, String),
}

/// Judges PostgreSQL's certificate.
#[derive(Debug)]
pub(crate) struct ServerJudge {
    demand: Demand,
    algorithms: WebPkiSupportedAlgorithms,
    /// What has been revoked, and who judges by it; none where nothing has.
    revoked: Option<(Vec<CertificateRevocationListDer<'static>>, Arc<WebPkiServerVerifier>)>,
}

impl ServerJudge {
    /// # Errors
    /// When a list is none.
    pub(crate) fn new(
        demand: Demand,
        lists: Vec<CertificateRevocationListDer<'static>>,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, Error> {
        let algorithms = provider.signature_verification_algorithms;
        let revoked = match &demand {
            Demand::Known(authorities) | Demand::Named(authorities, _) if !lists.is_empty() => {
                check_lists(&lists)?;
                let usual = WebPkiServerVerifier::builder_with_provider(Arc::clone(&authorities.store), provider)
                    .with_crls(lists.iter().cloned())
                    .enforce_revocation_expiration()
                    .build()
                    .map_err(|error| Error::General(error.to_string()))?;
                Some((lists, usual))
            }
            Demand::Anybody | Demand::Known(_) | Demand::Named(..) => None,
        };
        Ok(Self { demand, algorithms, revoked })
    }
}

fn check_lists(lists: &[CertificateRevocationListDer<'static>]) -> Result<(), Error> {
    if lists.iter().any(|list| RevocationList::read(list).is_none()) {
        return Err(Error::General("a revocation list cannot be read".to_owned()));
    }
    Ok(())
}

impl ServerCertVerifier for ServerJudge {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let (authorities, name) = match &self.demand {
            Demand::Anybody => return Ok(ServerCertVerified::assertion()),
            Demand::Known(authorities) => (authorities, None),
            Demand::Named(authorities, name) => (authorities, Some(name)),
        };
        if is_odd(end_entity) {
            authorities.judge_directly(end_entity, now, SERVER_USAGE)?;
            if let Some((lists, _)) = &self.revoked {
                authorities.judge_revocation(end_entity, lists, now)?;
            }
        } else if let Some((_, usual)) = &self.revoked {
            let judged = usual.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
            // the name is judged last, and by us
            judged.or_else(
                |error| if is_about_names(&error) { Ok(ServerCertVerified::assertion()) } else { Err(error) },
            )?;
        } else {
            rustls::client::verify_server_cert_signed_by_trust_anchor(
                &ParsedCertificate::try_from(end_entity)?,
                &authorities.store,
                intermediates,
                now,
                self.algorithms.all,
            )?;
        }
        if let Some(name) = name {
            judge_name(end_entity, name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_signature(&self.algorithms, message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_signature_of_tls13(&self.algorithms, message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Whether everything but the name is as it should be.
fn is_about_names(error: &Error) -> bool {
    matches!(
        error,
        Error::InvalidCertificate(CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. })
    )
}

/// Whether a certificate stands for a host, in libpq's way: alternative names of the host's own kind make the common name
/// void, others do not.
fn judge_name(der: &CertificateDer<'_>, host: &str) -> Result<(), Error> {
    let leaf = Certificate::read(der).ok_or(CertificateError::BadEncoding)?;
    let (void, found) = match host.parse::<IpAddr>() {
        Ok(address) => {
            let void = leaf.addresses().next().is_some();
            let by_name = leaf.dns_names().any(|name| matches(name, host));
            (void, by_name || leaf.addresses().any(|other| other == Some(address)))
        }
        Err(_) => (leaf.dns_names().next().is_some(), leaf.dns_names().any(|name| matches(name, host))),
    };
    if found || !void && leaf.common_name().is_some_and(|name| matches(name, host)) {
        return Ok(());
    }
    let text = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
    let mut presented: Vec<String> = leaf.dns_names().map(text).collect();
    presented.extend(leaf.addresses().flatten().map(|address| address.to_string()));
    presented.extend(leaf.common_name().filter(|name| !void && !name.is_empty()).map(text));
    let presented = if presented.is_empty() { "no name".to_owned() } else { presented.join(", ") };
    // of rustls' own kinds none has the words for a common name
    let mismatch = NameMismatch { host: host.to_owned(), presented };
    Err(CertificateError::Other(rustls::OtherError(Arc::new(mismatch))).into())
}

#[derive(Debug)]
struct NameMismatch {
    host: String,
    presented: String,
}

impl std::fmt::Display for NameMismatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "it is for {}, not for \"{}\"", self.presented, self.host)
    }
}

impl std::error::Error for NameMismatch {}

/// A name of a certificate against a host: letter case apart equal, or `*.` before all of the host but its first label.
fn matches(name: &[u8], host: &str) -> bool {
    let host = host.as_bytes();
    if name.contains(&0) {
        return false;
    }
    if name.eq_ignore_ascii_case(host) {
        return true;
    }
    let Some(suffix) = name.strip_prefix(b"*").filter(|suffix| suffix.len() >= 2 && suffix.starts_with(b".")) else {
        return false;
    };
    host.iter()
        .position(|byte| *byte == b'.')
        .is_some_and(|dot| dot > 0 && host.get(dot..).is_some_and(|rest| rest.eq_ignore_ascii_case(suffix)))
}

/// Judges clients' certificates.
#[derive(Debug)]
pub(crate) struct ClientJudge {
    authorities: Authorities,
    lists: Vec<CertificateRevocationListDer<'static>>,
    usual: Arc<dyn ClientCertVerifier>,
}

impl ClientJudge {
    /// # Errors
    /// When a list is none.
    pub(crate) fn new(
        authorities: Authorities,
        lists: Vec<CertificateRevocationListDer<'static>>,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, Error> {
        check_lists(&lists)?;
        let usual = WebPkiClientVerifier::builder_with_provider(Arc::clone(&authorities.store), provider)
            .with_crls(lists.iter().cloned())
            .enforce_revocation_expiration()
            .build()
            .map_err(|error| Error::General(error.to_string()))?;
        Ok(Self { authorities, lists, usual })
    }
}

impl ClientCertVerifier for ClientJudge {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.usual.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if !is_odd(end_entity) {
            return self.usual.verify_client_cert(end_entity, intermediates, now);
        }
        self.authorities.judge_directly(end_entity, now, CLIENT_USAGE)?;
        if !self.lists.is_empty() {
            self.authorities.judge_revocation(end_entity, &self.lists, now)?;
        }
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_signature(&self.authorities.algorithms, message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_signature_of_tls13(&self.authorities.algorithms, message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.authorities.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests;
