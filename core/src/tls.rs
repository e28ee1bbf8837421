//! TLS as it is configured: certificates and keys from files, made into what the runtime encrypts with.
//!
//! Files are read by the control side only: at start-up, and again when they have changed ([`watch`]). Shards are sent the
//! result; connections that are open keep what they began with. No session is ever resumed: nothing of one connection is
//! remembered for another, and shards share no cache.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, anyhow, bail};
use config::{Config, Database, Host, ListenTls, ServerTls, TlsMode};
use runtime::ShardHandle;
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName};
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, ServerConfig};

use crate::shard::{Board, Message};
use der::Certificate;
use trust::{Authorities, ClientJudge, Demand, ServerJudge};

pub(crate) mod binding;
mod der;
pub(crate) mod endpoint;
mod trust;

/// The protocol inside TLS, as PostgreSQL names it.
pub(crate) const ALPN: &[u8] = b"postgresql";
/// How often files are looked at.
const LOOK_PAUSE: Duration = Duration::from_secs(1);

/// What shards encrypt with.
#[derive(Debug)]
pub(crate) struct TlsState {
    /// Towards clients; none with `disable`.
    pub(crate) clients: Option<Clients>,
    /// Towards each host of each configured database, in the configuration's order; none with `disable` and on Unix sockets.
    pub(crate) servers: Vec<Hosts>,
    /// Its files as they were just before they were read.
    stamps: Stamps,
}

/// TLS towards the hosts of one database.
pub(crate) type Hosts = Arc<[Option<Arc<Upstream>>]>;

/// TLS towards clients.
#[derive(Clone, Debug)]
pub(crate) struct Clients {
    pub(crate) config: Arc<ServerConfig>,
    /// What clients may bind their proofs to.
    pub(crate) channel: Option<Arc<[u8]>>,
}

/// TLS towards one host.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) mode: TlsMode,
    pub(crate) config: Arc<ClientConfig>,
    /// Whom we ask for.
    pub(crate) name: ServerName<'static>,
    host: String,
    settings: ServerTls,
}

impl TlsState {
    /// Reads all files.
    ///
    /// # Errors
    /// The first file that cannot be used, and why.
    pub(crate) fn load(config: &Config) -> anyhow::Result<Self> {
        let stamps = stamps(config);
        let clients = load_clients(&config.listen.tls).context("[listen.tls]")?;
        let servers = config.databases.iter().map(|database| {
            let hosts = database.hosts.iter().map(|host| Ok(load_server(database, host)?.map(Arc::new)));
            let hosts = hosts.collect::<anyhow::Result<Vec<_>>>();
            Ok(hosts.with_context(|| format!("database \"{}\"", database.name))?.into())
        });
        Ok(Self { clients, servers: servers.collect::<anyhow::Result<_>>()?, stamps })
    }
}

impl Upstream {
    /// As its files are now.
    ///
    /// # Errors
    /// As [`TlsState::load`].
    pub(crate) fn afresh(&self) -> anyhow::Result<Self> {
        Self::load(&self.settings, &self.host)
    }

    fn load(settings: &ServerTls, host: &str) -> anyhow::Result<Self> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let authorities = || -> anyhow::Result<Authorities> {
            let path = settings.ca.as_ref().ok_or_else(|| anyhow!("there is no tls_ca"))?;
            Authorities::new(certificates(path)?, &provider).with_context(|| path.display().to_string())
        };
        let demand = match settings.mode {
            TlsMode::Disable | TlsMode::Allow | TlsMode::Prefer | TlsMode::Require => Demand::Anybody,
            TlsMode::VerifyCa => Demand::Known(authorities()?),
            TlsMode::VerifyFull => Demand::Named(authorities()?, host.trim_end_matches('.').to_owned()),
        };
        let lists = settings.crl.as_deref().map(revocation_lists).transpose()?.unwrap_or_default();
        let judge = Arc::new(ServerJudge::new(demand, lists, Arc::clone(&provider))?);
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(judge);
        let mut config =
            match &settings.identity {
                None => builder.with_no_client_auth(),
                Some((certificate, key)) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(
                    identity(certificate, key, &provider)?,
                ))),
            };
        config.resumption = Resumption::disabled();
        config.alpn_protocols = vec![ALPN.to_vec()];
        // a host that is no valid name is asked for by nobody's
        let name = ServerName::try_from(host.to_owned())
            .unwrap_or_else(|_| ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into()));
        let (host, settings) = (host.to_owned(), settings.clone());
        Ok(Self { mode: settings.mode, config: Arc::new(config), name, host, settings })
    }
}

fn load_clients(settings: &ListenTls) -> anyhow::Result<Option<Clients>> {
    let (
        TlsMode::Allow | TlsMode::Prefer | TlsMode::Require | TlsMode::VerifyCa | TlsMode::VerifyFull,
        Some(own),
        Some(key),
    ) = (settings.mode, &settings.certificate, &settings.key)
    else {
        return Ok(None);
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let builder = match &settings.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let authorities =
                Authorities::new(certificates(path)?, &provider).with_context(|| path.display().to_string())?;
            let lists = settings.client_crl.as_deref().map(revocation_lists).transpose()?.unwrap_or_default();
            builder.with_client_cert_verifier(Arc::new(ClientJudge::new(authorities, lists, Arc::clone(&provider))?))
        }
    };
    let identity = identity(own, key, &provider)?;
    let channel = identity.cert.first().and_then(|der| binding::end_point(der)).map(Arc::from);
    let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(identity)));
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Some(Clients { config: Arc::new(config), channel }))
}

fn load_server(database: &Database, host: &Host) -> anyhow::Result<Option<Upstream>> {
    if database.tls.mode == TlsMode::Disable || host.name.starts_with('/') {
        return Ok(None);
    }
    Upstream::load(&database.tls, &host.name).map(Some)
}

/// Whom a client's certificate names.
pub(crate) fn certified_name(der: &[u8]) -> Option<Box<str>> {
    Certificate::read(der)?.common_text().map(Box::from)
}

/// A certificate with those that lead to its authority, and its key. Put together here, because rustls' own way takes none of
/// version 1.
fn identity(certificate: &Path, key: &Path, provider: &CryptoProvider) -> anyhow::Result<CertifiedKey> {
    let chain = certificates(certificate)?;
    let own = chain.first().and_then(|der| Certificate::read(der));
    let own = own.ok_or_else(|| anyhow!("{}: the first certificate cannot be read", certificate.display()))?;
    let signer = provider
        .key_provider
        .load_private_key(private_key(key)?)
        .with_context(|| format!("{}: this kind of key cannot be used", key.display()))?;
    if signer.public_key().is_some_and(|public| *public != *own.key.whole) {
        bail!("{} is not the key of {}", key.display(), certificate.display());
    }
    Ok(CertifiedKey::new(chain, signer))
}

fn certificates(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let read = || CertificateDer::pem_file_iter(path)?.collect::<Result<Vec<_>, _>>();
    let found = read().with_context(|| path.display().to_string())?;
    if found.is_empty() {
        bail!("{}: there is no certificate in it", path.display());
    }
    Ok(found)
}

fn revocation_lists(path: &Path) -> anyhow::Result<Vec<CertificateRevocationListDer<'static>>> {
    let read = || CertificateRevocationListDer::pem_file_iter(path)?.collect::<Result<Vec<_>, _>>();
    let found = read().with_context(|| path.display().to_string())?;
    if found.is_empty() {
        bail!("{}: there is no revocation list in it", path.display());
    }
    Ok(found)
}

/// A private key, from a file that others cannot read.
fn private_key(path: &Path) -> anyhow::Result<PrivateKeyDer<'static>> {
    let status = std::fs::metadata(path).with_context(|| path.display().to_string())?;
    let forbidden = if status.uid() == 0 { 0o037 } else { 0o077 };
    if status.mode() & forbidden != 0 {
        bail!("{}: others can read this private key; chmod 0600 (or 0640, if it is root's)", path.display());
    }
    PrivateKeyDer::from_pem_file(path)
        .with_context(|| format!("{}: no private key without a passphrase", path.display()))
}

/// When each file that is named was changed last, and which file it is.
pub(crate) type Stamps = Vec<(PathBuf, Option<(SystemTime, u64)>)>;

fn stamps(config: &Config) -> Stamps {
    let listen = &config.listen.tls;
    let own = [&listen.certificate, &listen.key, &listen.client_ca, &listen.client_crl].into_iter().flatten();
    let servers = config.databases.iter().flat_map(|database| {
        let identity = database.tls.identity.iter().flat_map(|(certificate, key)| [certificate, key]);
        database.tls.ca.iter().chain(&database.tls.crl).chain(identity)
    });
    own.chain(servers).map(|path| (path.clone(), stamp(path))).collect()
}

fn stamp(path: &Path) -> Option<(SystemTime, u64)> {
    let status = std::fs::metadata(path).ok()?;
    Some((status.modified().ok()?, status.ino()))
}

/// Reads the files again whenever they have changed, in a thread of its own, and gives shards what has come of it.
///
/// # Errors
/// When there can be no thread.
pub(crate) fn watch(board: &Arc<Board>, shards: Vec<ShardHandle<Message>>) -> io::Result<()> {
    let mut seen = board.directory.map().tls.stamps.clone();
    if !seen.is_empty() {
        let board = Arc::clone(board);
        let keep_watching = move || loop {
            std::thread::sleep(LOOK_PAUSE);
            board.directory.renew(&mut seen, &shards);
        };
        std::thread::Builder::new().name("certificates".to_owned()).spawn(keep_watching)?;
    }
    Ok(())
}

/// Reads the files if they are not those that were seen.
pub(crate) fn read_again(config: &Config, seen: &mut Stamps) -> Option<anyhow::Result<TlsState>> {
    let now = stamps(config);
    if now == *seen {
        return None;
    }
    *seen = now;
    Some(TlsState::load(config))
}
