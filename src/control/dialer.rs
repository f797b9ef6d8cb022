//! How the control thread gets to a node.

use std::fmt;
use std::io;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::cluster::Addr;
use crate::control::{Connection, ControlError, Fault, Reply, stream::NodeStream};
use crate::tls::NodeTls;

/// What a node wants to hear before it answers. Without a password no AUTH is sent; without a name the password is the
/// default user's.
#[derive(Clone, Default)]
pub struct Credentials {
    pub username: Option<String>,
    pub password: Option<String>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let password = self.password.as_ref().map(|_| "hidden");
        f.debug_struct("Credentials").field("username", &self.username).field("password", &password).finish()
    }
}

/// Makes connections, all with the same credentials and limits.
#[derive(Clone, Debug)]
pub struct Dialer {
    pub credentials: Credentials,
    /// For name resolution, connecting, a TLS handshake and AUTH together.
    pub dial_timeout: Duration,
    /// The longest wait for each reply on the connections made.
    pub reply_timeout: Duration,
    /// `None`: nodes are spoken to in plain text.
    pub tls: Option<NodeTls>,
}

impl Dialer {
    /// A connection that the node has accepted the credentials on.
    pub async fn dial(&self, addr: &Addr) -> Result<Connection, ControlError> {
        let limit = self.dial_timeout;
        let failed = |fault| ControlError { addr: addr.clone(), fault };
        timeout(limit, self.connect(addr)).await.unwrap_or_else(|_| Err(failed(Fault::DialTimeout(limit))))
    }

    async fn connect(&self, addr: &Addr) -> Result<Connection, ControlError> {
        let failed = |error: io::Error| ControlError { addr: addr.clone(), fault: Fault::Dial(error) };
        let stream = TcpStream::connect((addr.host(), addr.port())).await.map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        let stream = match &self.tls {
            None => NodeStream::Plain(stream),
            Some(tls) => {
                let failed = |failure| ControlError { addr: addr.clone(), fault: Fault::Tls(failure) };
                NodeStream::secure(stream, tls, addr.host()).await.map_err(failed)?
            }
        };
        let mut connection = Connection::new(addr.clone(), stream, self.reply_timeout);
        self.authenticate(&mut connection).await?;
        Ok(connection)
    }

    async fn authenticate(&self, connection: &mut Connection) -> Result<(), ControlError> {
        let Credentials { username, password } = &self.credentials;
        let Some(password) = password else { return Ok(()) };
        let words = ["AUTH"].into_iter().chain(username.as_deref()).chain([password.as_str()]);
        match connection.call(words).await? {
            Reply::Error(text) => Err(connection.error(Fault::Auth(text.to_string()))),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_stay_out_of_logs() {
        let credentials = Credentials { username: Some("app".into()), password: Some("secret".into()) };
        assert_eq!(format!("{credentials:?}"), r#"Credentials { username: Some("app"), password: Some("hidden") }"#);
    }
}
