//! A proxy in the test's own process, so that what drives a migration and what serves the clients share what they know.

use std::sync::mpsc;
use std::thread::JoinHandle;

use keyway::admin;
use keyway::app::{self, App};
use keyway::config::{Inputs, resolve};
use tokio::sync::oneshot;

use crate::harness::process::free_port;
use crate::harness::{Client, Cluster, wait_until};

pub struct Inside {
    pub port: u16,
    pub cluster: admin::Cluster,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Inside {
    pub fn start(cluster: &Cluster) -> Inside {
        let (port, admin_port) = (free_port(), free_port());
        let set = vec![
            format!("proxy.listen=127.0.0.1:{port}"),
            "proxy.workers=2".to_owned(),
            format!("cluster.seeds={}", cluster.seeds()),
            format!("admin.listen=127.0.0.1:{admin_port}"),
        ];
        let inputs = Inputs { set, ..Inputs::default() };
        let (told, way) = mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let config = resolve(&inputs).expect("the settings are right").config;
            let ended = app::block_on(async move {
                let app = App::build(config).await?;
                told.send(app.cluster()).expect("the test waits for it");
                app.serve_until(async { drop(stopped.await) }).await;
                Ok(())
            });
            ended.expect("the proxy starts");
        });
        let way = way.recv().expect("the proxy starts");
        wait_until("the proxy to serve", || {
            let reply = Client::try_connect(port).ok_or("no listener yet")?.try_call(&["EXISTS", "is-anyone-there"]);
            reply.filter(|reply| !reply.is_error()).map(drop).ok_or_else(|| "no answer".to_owned())
        });
        Inside { port, cluster: way, stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        drop(self.stop.take());
        // A panic of the proxy shows in the clients' answers.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
