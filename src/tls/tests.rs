//! Sessions against rustls's own buffered connections, cut at every kind of place; files that are wrong; names in certificates.

use std::fs;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};
use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::{ClientConnection, ServerConnection};

use super::live::Files;
use super::session::{Connection, PLAIN_MAX, ROOM, Session, Step};
use super::*;

/// A folder with an authority, a certificate for `localhost` and its key; gone when dropped.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        let path = std::env::temp_dir().join(format!("keyway-tls-{}-{:08x}", std::process::id(), fastrand::u32(..)));
        fs::create_dir_all(&path).expect("the system's temporary folder is writable");
        let folder = Folder(path);
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.distinguished_name.push(DnType::CommonName, folder.0.display().to_string());
        let authority = CertifiedIssuer::self_signed(authority, key()).expect("the parameters are complete");
        folder.write("ca.pem", &authority.pem());
        for name in ["one", "two"] {
            let mut params = CertificateParams::new(["localhost".to_owned(), "other.example".to_owned()]).expect("names");
            params.distinguished_name.push(DnType::CommonName, format!("common {name}"));
            params.subject_alt_names.push(SanType::URI("spiffe://example/app".try_into().expect("ASCII")));
            params.subject_alt_names.push(SanType::Rfc822Name("app@example".try_into().expect("ASCII")));
            let own = key();
            let certificate = params.signed_by(&own, &authority).expect("the parameters are complete");
            folder.write(&format!("{name}.crt"), &certificate.pem());
            folder.write(&format!("{name}.key"), &own.serialize_pem());
        }
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).expect("the folder is ours");
    }

    fn identity(&self, name: &str) -> Identity {
        Identity { certificate: self.path(&format!("{name}.crt")), key: self.path(&format!("{name}.key")) }
    }

    fn server(&self, oldest: Version) -> ServerFiles {
        let authorities = Some(self.path("ca.pem"));
        ServerFiles { identity: self.identity("one"), authorities, client_certificates: ClientCertificates::Required, oldest }
    }

    fn node(&self) -> NodeFiles {
        let identity = Some(self.identity("two"));
        NodeFiles { authorities: self.path("ca.pem"), identity, verify: Verify::Full, oldest: Version::Tls12 }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left in the temporary folder harms nobody.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn key() -> KeyPair {
    KeyPair::generate().expect("there is randomness")
}

fn localhost() -> ServerName<'static> {
    ServerName::try_from("localhost").expect("a name")
}

/// A session and rustls's buffered connection on the other side.
struct Pair {
    session: Session,
    other: rustls::Connection,
    to_session: Vec<u8>,
    to_other: Vec<u8>,
    room: Vec<u8>,
}

impl Pair {
    /// With bytes handed over in pieces of at most `piece`.
    fn open(session: Session, other: rustls::Connection, piece: usize) -> Pair {
        let mut pair = Pair { session, other, to_session: Vec::new(), to_other: Vec::new(), room: vec![0; ROOM] };
        let mut arrived = Vec::new();
        let mut open = false;
        while !open || pair.other.is_handshaking() {
            if !open {
                open = pair.session.shake_hands(&mut arrived, &mut pair.to_other).expect("a handshake") == Step::Open;
            }
            pair.move_to_other();
            if !open {
                let count = pair.to_session.len().min(piece);
                arrived.extend(pair.to_session.drain(..count));
            }
        }
        pair
    }

    fn move_to_other(&mut self) {
        let mut bytes = &self.to_other[..];
        while !bytes.is_empty() {
            self.other.read_tls(&mut bytes).expect("a slice can be read");
            self.other.process_new_packets().expect("what a session writes is right");
        }
        self.to_other.clear();
        while self.other.wants_write() {
            self.other.write_tls(&mut self.to_session).expect("a vector can be written");
        }
    }

    /// What arrives at the session, handed over in pieces.
    fn receive(&mut self, piece: usize) -> Vec<u8> {
        let mut received = self.session.take_early();
        while !self.to_session.is_empty() {
            let count = self.to_session.len().min(piece);
            let mut arrived = self.session.partial().to_vec();
            arrived.extend(self.to_session.drain(..count));
            let take = |plain: &[u8]| {
                received.extend_from_slice(plain);
                true
            };
            self.session.open(&mut arrived, &mut self.to_other, take).expect("what rustls writes is right");
        }
        received
    }

    fn send(&mut self, plain: &[u8]) {
        for part in plain.chunks(PLAIN_MAX) {
            let count = self.session.seal(part, &mut self.room).expect("an open session");
            self.to_other.extend_from_slice(&self.room[..count]);
        }
    }
}

#[test]
fn a_session_carries_what_the_other_side_does() {
    let folder = Folder::new();
    for oldest in [Version::Tls12, Version::Tls13] {
        let server = Arc::new(folder.server(oldest).load().expect("the files are right"));
        let mut client = folder.node().load().expect("the files are right");
        // Several handshakes: later ones are resumed.
        client.resumption = rustls::client::Resumption::in_memory_sessions(4);
        let client = Arc::new(client);
        for (number, piece) in [usize::MAX, 1, 7, 1000, usize::MAX].into_iter().enumerate() {
            let (session, other) = match number % 2 {
                0 => (
                    Connection::Server(UnbufferedServerConnection::new(server.clone()).expect("a configuration")),
                    rustls::Connection::Client(ClientConnection::new(client.clone(), localhost()).expect("a configuration")),
                ),
                _ => (
                    Connection::Client(UnbufferedClientConnection::new(client.clone(), localhost()).expect("a configuration")),
                    rustls::Connection::Server(ServerConnection::new(server.clone()).expect("a configuration")),
                ),
            };
            let mut pair = Pair::open(Session::new(session), other, piece);
            assert!(pair.session.peer_certificate().is_some());
            for len in [1, 100, 16 * 1024, 16 * 1024 + 1, 200_000] {
                let text: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..)).take(len).collect();
                let mut sent = 0;
                let mut received = Vec::new();
                while sent < text.len() {
                    sent += pair.other.writer().write(&text[sent..]).expect("a buffer");
                    pair.move_to_other();
                    received.extend(pair.receive(piece));
                }
                assert!(received == text, "{len} bytes in pieces of {piece}");
                assert!(pair.session.partial().is_empty());

                let mut echoed = Vec::new();
                for part in text.chunks(10_000) {
                    pair.send(part);
                    pair.move_to_other();
                    let mut buffer = vec![0; part.len()];
                    pair.other.reader().read_exact(&mut buffer).expect("all of it");
                    echoed.extend(buffer);
                }
                assert!(echoed == text);
            }
            pair.other.refresh_traffic_keys().ok();
            pair.other.send_close_notify();
            pair.move_to_other();
            pair.receive(piece);
            assert!(pair.session.has_ended());
            let count = pair.session.close(&mut pair.room).expect("it may be closed");
            assert!(count > 0);
        }
    }
}

#[test]
fn an_alert_says_why() {
    let folder = Folder::new();
    let stranger = Folder::new();
    let server = Arc::new(folder.server(Version::Tls12).load().expect("the files are right"));
    let client = Arc::new(stranger.node().load().expect("the files are right"));
    let mut client =
        Session::new(Connection::Client(UnbufferedClientConnection::new(client, localhost()).expect("a configuration")));
    let mut server = Session::new(Connection::Server(UnbufferedServerConnection::new(server).expect("a configuration")));
    let (mut to_client, mut to_server) = (Vec::new(), Vec::new());
    assert_eq!(client.shake_hands(&mut to_client, &mut to_server), Ok(Step::Input));
    assert_eq!(server.shake_hands(&mut to_server, &mut to_client), Ok(Step::Input));
    let error = client.shake_hands(&mut to_client, &mut to_server).expect_err("another authority");
    assert_eq!(error.to_string(), "invalid peer certificate: UnknownIssuer");
    let error = server.shake_hands(&mut to_server, &mut to_client).expect_err("an alert");
    assert!(error.to_string().starts_with("received fatal alert"), "{error}");
}

#[test]
fn files_that_are_wrong() {
    let folder = Folder::new();
    let check = |files: &ServerFiles, which: Which, expected: &str| {
        let error = files.load().expect_err(expected);
        assert_eq!((error.which, error.to_string().replace(&folder.0.display().to_string(), "DIR").as_str()), (which, expected));
    };
    let right = folder.server(Version::Tls12);
    let with_key = |name: &str| {
        let identity = Identity { key: folder.path(name), ..right.identity.clone() };
        ServerFiles { identity, ..right.clone() }
    };
    let absent = "No such file or directory (os error 2)";
    check(&with_key("none"), Which::Key, &format!("expected a private key (PEM) in DIR/none, found {absent}"));
    check(&with_key("ca.pem"), Which::Key, "expected a private key (PEM) in DIR/ca.pem, found none");
    check(
        &with_key("two.key"),
        Which::Key,
        "expected the private key of the certificate in DIR/two.key, found the key of another one than that in DIR/one.crt",
    );
    folder.write("secret.key", "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n");
    let error = with_key("secret.key").load().expect_err("an encrypted key");
    assert!(error.found.starts_with("one that is encrypted, which is not supported: decrypt it (openssl pkey"), "{error}");
    let certificate = Identity { certificate: folder.path("one.key"), ..right.identity.clone() };
    check(
        &ServerFiles { identity: certificate, ..right.clone() },
        Which::Certificate,
        "expected certificates (PEM) in DIR/one.key, found none",
    );
    check(
        &ServerFiles { authorities: Some(folder.path("two.key")), ..right.clone() },
        Which::Authorities,
        "expected certificates (PEM) in DIR/two.key, found none",
    );
}

#[test]
fn names_of_a_certificate() {
    let folder = Folder::new();
    let certificate = super::files::load_certificates(Which::Certificate, &folder.path("one.crt")).expect("a certificate");
    let check = |kind, expected: &[&str]| assert_eq!(names(&certificate[0], kind), expected);
    check(CertificateName::Common, &["common one"]);
    check(CertificateName::Dns, &["localhost", "other.example"]);
    check(CertificateName::Uri, &["spiffe://example/app"]);
    check(CertificateName::Email, &["app@example"]);
    assert_eq!(names(&vec![1, 2, 3].into(), CertificateName::Common), Vec::<String>::new());
    assert!(expires_at(&certificate[0]).is_some_and(|at| at > 1_700_000_000));
}
