//! TLS as the configuration wants it: what listeners and dialers are made of, what is wrong with it, and what INFO tells of it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::{
    admin::{Facts, Secure},
    config::{AuthClients, CertificateUser, Config, Mistake, Resolved, ServerTls, TlsVerify, TlsVersion},
    net::{Entry, HandshakeTally, Handshakes, NodesTls},
    tls::{
        self, CertificateName, ClientCertificates, ClientConfig, FileError, Files, Identity, Live, NodeFiles, NodeTls, Reloads,
        ServerConfig, ServerFiles, ServerName, Verify, Version, Which,
    },
};

use super::AppError;

/// What of the proxy speaks TLS.
pub struct Secured {
    pub clients: Option<Entry>,
    pub operators: Option<Secure>,
    pub nodes: Option<NodesTls>,
    /// Where anything comes before requests.
    pub handshakes: Option<Handshakes>,
    reloads: Arc<Reloads>,
}

impl Secured {
    /// Loads what is configured, and has it follow its files for as long as the runtime lives.
    pub fn load(config: &Config) -> Result<Secured, AppError> {
        let reloads = Arc::<Reloads>::default();
        let mut secured = Secured { clients: None, operators: None, nodes: None, handshakes: None, reloads: reloads.clone() };
        let (for_clients, for_nodes) = (client_files(config), node_files(config));
        if let Some(files) = server_files(&config.admin.tls, !config.admin.tls.listen.is_empty()) {
            let live = follow(files, "admin.tls", ADMIN_KEYS, &reloads)?;
            secured.operators = Some(Secure { config: live, limit: config.timeouts.handshake });
        }
        if for_clients.is_none() && for_nodes.is_none() && config.proxy.proxy_protocol_from.is_empty() {
            return Ok(secured);
        }
        let handshakes = Handshakes::start(config.timeouts.handshake, config.limits.handshakes).map_err(AppError::Handshakes)?;
        secured.handshakes = Some(handshakes.clone());
        if let Some(files) = for_clients {
            let live = follow(files, "proxy.tls", PROXY_KEYS, &reloads)?;
            let named_by = match config.auth.certificate_user {
                CertificateUser::Off => None,
                CertificateUser::CommonName => Some(CertificateName::Common),
                CertificateUser::Dns => Some(CertificateName::Dns),
                CertificateUser::Uri => Some(CertificateName::Uri),
                CertificateUser::Email => Some(CertificateName::Email),
            };
            secured.clients = Some(Entry { config: live, named_by });
        }
        if let Some(files) = for_nodes {
            let live: Live<ClientConfig> = follow(files, "cluster.tls", CLUSTER_KEYS, &reloads)?;
            // `mistakes` has said before what is wrong with the name, if anything is.
            let name = config.cluster.tls.server_name.clone().and_then(|name| ServerName::try_from(name).ok());
            secured.nodes = Some(NodesTls { tls: NodeTls::new(live, name), handshakes });
        }
        Ok(secured)
    }

    /// For connections of the control thread to nodes.
    pub fn for_control(&self) -> Option<NodeTls> {
        self.nodes.as_ref().map(|nodes| nodes.tls.clone())
    }

    pub fn report(&self) -> Report {
        let is_used = self.clients.is_some() || self.nodes.is_some();
        Report {
            tally: self.handshakes.as_ref().filter(|_| is_used).map(Handshakes::tally),
            reloads: self.reloads.clone(),
            clients: self.clients.as_ref().map(|entry| entry.config.clone()),
            operators: self.operators.as_ref().map(|secure| secure.config.clone()),
        }
    }
}

/// What INFO of the admin port tells of TLS, if there is any.
pub struct Report {
    tally: Option<Arc<HandshakeTally>>,
    reloads: Arc<Reloads>,
    clients: Option<Live<ServerConfig>>,
    operators: Option<Live<ServerConfig>>,
}

impl Report {
    pub fn facts(&self) -> Facts {
        if self.tally.is_none() && self.operators.is_none() {
            return Facts::new();
        }
        let mut lines = Vec::new();
        let mut line = |name: &str, value: String| lines.push((name.to_owned(), value));
        if let Some(tally) = &self.tally {
            for (name, count) in [
                ("tls_client_handshakes", &tally.clients),
                ("tls_client_handshakes_failed", &tally.clients_failed),
                ("tls_node_handshakes", &tally.nodes),
                ("tls_node_connections_failed", &tally.nodes_failed),
            ] {
                line(name, count.load(Relaxed).to_string());
            }
        }
        line("tls_reloads", self.reloads.done.load(Relaxed).to_string());
        line("tls_reloads_failed", self.reloads.failed.load(Relaxed).to_string());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64);
        for (name, live) in [("tls_client_certificate_days", &self.clients), ("tls_admin_certificate_days", &self.operators)] {
            if let Some(at) = live.as_ref().and_then(Live::expires_at) {
                line(name, ((at - now) / 86_400).to_string());
            }
        }
        vec![("Tls".into(), lines)]
    }
}

/// The keys that name certificate, key and authorities.
type FileKeys = [&'static str; 3];

const PROXY_KEYS: FileKeys = ["proxy.tls.cert_file", "proxy.tls.key_file", "proxy.tls.ca_file"];
const ADMIN_KEYS: FileKeys = ["admin.tls.cert_file", "admin.tls.key_file", "admin.tls.ca_file"];
const CLUSTER_KEYS: FileKeys = ["cluster.tls.cert_file", "cluster.tls.key_file", "cluster.tls.ca_file"];

fn key_of(keys: FileKeys, which: Which) -> &'static str {
    match which {
        Which::Certificate => keys[0],
        Which::Key => keys[1],
        Which::Authorities => keys[2],
    }
}

fn follow<F: Files>(
    files: F,
    whose: &'static str,
    keys: FileKeys,
    reloads: &Arc<Reloads>,
) -> Result<Live<F::Configuration>, AppError> {
    let failed = |error: FileError| AppError::Tls { key: key_of(keys, error.which), error };
    let (live, keeping_up) = tls::follow(files, whose, reloads.clone()).map_err(failed)?;
    tokio::spawn(keeping_up);
    Ok(live)
}

/// What is wrong with the files, and with what only TLS can tell.
pub fn mistakes(resolved: &Resolved) -> Vec<Mistake> {
    let config = &resolved.config;
    let errors = [
        (PROXY_KEYS, client_files(config).and_then(|files| files.load().err())),
        (ADMIN_KEYS, server_files(&config.admin.tls, !config.admin.tls.listen.is_empty()).and_then(|files| files.load().err())),
        (CLUSTER_KEYS, node_files(config).and_then(|files| files.load().err())),
    ];
    let of_files = errors.into_iter().filter_map(|(keys, error)| {
        let error = error?;
        Some(resolved.mistake(key_of(keys, error.which), error.to_string()))
    });
    let name = config.cluster.tls.server_name.as_ref().filter(|name| ServerName::try_from(name.as_str()).is_err());
    let of_name = name.map(|name| {
        resolved.mistake("cluster.tls.server_name", format!("expected a host name or an IP address, found {name:?}"))
    });
    of_files.chain(of_name).collect()
}

fn client_files(config: &Config) -> Option<ServerFiles> {
    let proxy = &config.proxy;
    server_files(&proxy.tls, !proxy.tls.listen.is_empty() || !proxy.tls_cluster_listen.is_empty())
}

fn server_files(tls: &ServerTls, listens: bool) -> Option<ServerFiles> {
    Some(ServerFiles {
        identity: identity(&tls.cert_file, &tls.key_file).filter(|_| listens)?,
        authorities: tls.ca_file.as_ref().map(PathBuf::from),
        client_certificates: match tls.auth_clients {
            AuthClients::No => ClientCertificates::NotAskedFor,
            AuthClients::Optional => ClientCertificates::Optional,
            AuthClients::Yes => ClientCertificates::Required,
        },
        oldest: oldest(tls.min_version),
    })
}

fn node_files(config: &Config) -> Option<NodeFiles> {
    let tls = &config.cluster.tls;
    Some(NodeFiles {
        authorities: tls.ca_file.as_ref().filter(|_| tls.enabled)?.into(),
        identity: identity(&tls.cert_file, &tls.key_file),
        verify: match tls.verify {
            TlsVerify::Full => Verify::Full,
            TlsVerify::Ca => Verify::Authority,
        },
        oldest: oldest(tls.min_version),
    })
}

fn identity(certificate: &Option<String>, key: &Option<String>) -> Option<Identity> {
    Some(Identity { certificate: certificate.as_ref()?.into(), key: key.as_ref()?.into() })
}

fn oldest(version: TlsVersion) -> Version {
    match version {
        TlsVersion::Tls12 => Version::Tls12,
        TlsVersion::Tls13 => Version::Tls13,
    }
}
