//! How nodes are spoken to.

use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use super::handshake::Failure;
use super::live::Live;

/// TLS towards the nodes of the cluster.
#[derive(Clone, Debug)]
pub struct NodeTls {
    config: Live<ClientConfig>,
    server_name: Option<ServerName<'static>>,
}

impl NodeTls {
    /// With `server_name` every node is expected to have a certificate for it; else one for the name or IP address it was dialled at.
    pub fn new(config: Live<ClientConfig>, server_name: Option<ServerName<'static>>) -> Self {
        NodeTls { config, server_name }
    }

    /// As this, for nodes that a name stands for, which is resolved before they are dialled: their certificates may hold it.
    pub fn named(&self, host: &str) -> NodeTls {
        let name = ServerName::try_from(host.to_owned()).ok();
        NodeTls { config: self.config.clone(), server_name: self.server_name.clone().or(name) }
    }

    /// What a handshake with the node that was dialled at this host is made with.
    pub fn for_host(&self, host: &str) -> Result<(Arc<ClientConfig>, ServerName<'static>), Failure> {
        let name = match &self.server_name {
            Some(name) => name.clone(),
            None => ServerName::try_from(host.to_owned()).map_err(|_| Failure::NoName(host.to_owned()))?,
        };
        Ok((self.config.now(), name))
    }
}
