//! TLS of the HTTP endpoint: the same judges and the same care with keys as towards Postgres clients.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use config::Http;
use rustls::ServerConfig;
use rustls::server::NoServerSessionStorage;
use rustls::sign::SingleCertAndKey;

use super::trust::{Authorities, ClientJudge};
use super::{Stamps, certificates, identity, stamp};

/// Who we are to those who ask by HTTP.
#[derive(Debug)]
pub(crate) struct Identity {
    files: (PathBuf, PathBuf),
    client_ca: Option<PathBuf>,
    config: Arc<ServerConfig>,
    /// Its files as they were just before they were read.
    stamps: Stamps,
}

impl Identity {
    /// Reads the files; none where nothing is encrypted.
    ///
    /// # Errors
    /// The file that cannot be used, and why.
    pub(crate) fn load(settings: &Http) -> anyhow::Result<Option<Self>> {
        let Some(files) = settings.identity.clone() else { return Ok(None) };
        let client_ca = settings.client_ca.clone();
        let stamps = stamps(&files, client_ca.as_ref());
        let config = Arc::new(load(&files, client_ca.as_ref()).context("[http]")?);
        Ok(Some(Self { files, client_ca, config, stamps }))
    }

    /// What the next connection is encrypted with.
    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config)
    }

    /// Reads the files again if they have changed; when one cannot be used, what was read before goes on being used.
    pub(crate) fn renew(&mut self) {
        let now = stamps(&self.files, self.client_ca.as_ref());
        if now == self.stamps {
            return;
        }
        self.stamps = now;
        match load(&self.files, self.client_ca.as_ref()) {
            Ok(config) => {
                self.config = Arc::new(config);
                tracing::info!("the HTTP endpoint uses new certificates");
            }
            Err(error) => tracing::error!("the HTTP endpoint keeps its old certificates: {error:#}"),
        }
    }
}

fn stamps(files: &(PathBuf, PathBuf), client_ca: Option<&PathBuf>) -> Stamps {
    [&files.0, &files.1].into_iter().chain(client_ca).map(|path| (path.clone(), stamp(path))).collect()
}

fn load((certificate, key): &(PathBuf, PathBuf), client_ca: Option<&PathBuf>) -> anyhow::Result<ServerConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let authorities =
                Authorities::new(certificates(path)?, &provider).with_context(|| path.display().to_string())?;
            builder.with_client_cert_verifier(Arc::new(ClientJudge::new(
                authorities,
                Vec::new(),
                Arc::clone(&provider),
            )?))
        }
    };
    let identity = identity(certificate, key, &provider)?;
    let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(identity)));
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
