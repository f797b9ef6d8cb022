//! A way to a server that can be cut: a network that fails for those only who go that way.

use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Passes on what comes to its port until it is cut; then whoever is connected is thrown out, and nobody gets in.
pub struct Relay {
    pub port: u16,
    way: Arc<Way>,
}

#[derive(Default)]
struct Way {
    cut: AtomicBool,
    over: AtomicBool,
    streams: Mutex<Vec<TcpStream>>,
}

impl Relay {
    pub fn to(server: u16) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("a bound socket has an address").port();
        let way = Arc::new(Way::default());
        let kept = way.clone();
        std::thread::spawn(move || {
            for client in listener.incoming() {
                if way.over.load(Ordering::Relaxed) {
                    return;
                }
                // Who is refused sees a closed connection.
                let _ = client.and_then(|client| way.pass(client, server));
            }
        });
        Relay { port, way: kept }
    }

    pub fn cut(&self) {
        self.way.cut.store(true, Ordering::Relaxed);
        self.way.end_all();
    }

    pub fn mend(&self) {
        self.way.cut.store(false, Ordering::Relaxed);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.way.over.store(true, Ordering::Relaxed);
        self.way.end_all();
        // The thread looks up at the next connection.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

impl Way {
    fn streams(&self) -> std::sync::MutexGuard<'_, Vec<TcpStream>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end_all(&self) {
        for stream in self.streams().drain(..) {
            // It may have ended by itself.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn pass(&self, client: TcpStream, server: u16) -> io::Result<()> {
        if self.cut.load(Ordering::Relaxed) {
            return Ok(());
        }
        let server = TcpStream::connect(("127.0.0.1", server))?;
        for stream in [&client, &server] {
            stream.set_nodelay(true)?;
            self.streams().push(stream.try_clone()?);
        }
        for (mut from, mut to) in [(client.try_clone()?, server.try_clone()?), (server, client)] {
            std::thread::spawn(move || {
                let _ = io::copy(&mut from, &mut to);
                for stream in [from, to] {
                    let _ = stream.shutdown(Shutdown::Both);
                }
            });
        }
        Ok(())
    }
}
