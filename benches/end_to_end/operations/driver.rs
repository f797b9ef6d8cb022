//! Plays an operation with connections of this process: redis-benchmark knows requests with one reply on the same connection only.

use std::time::{Duration, Instant};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::{JoinSet, LocalSet},
};

use super::{Operation, blpop::Pair, exec::Transactor, publish::Publisher};
use crate::Outcome;

/// One who repeats an operation.
pub trait Player: 'static {
    /// Repeats it until this time, and ends the one that is under way then. How long each took.
    async fn play(&mut self, until: Instant) -> Outcome<Vec<Duration>>;
}

/// What happened between two looks at what the processes have used.
pub struct Played<U> {
    pub before: U,
    pub after: U,
    pub seconds: f64,
    /// One each, from the shortest on; never empty.
    pub latencies: Vec<Duration>,
}

/// An operation is given up after this time: a reply is missing, or the machine hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// The unmeasured part before, as a share of the measured one.
const WARM_UP: f64 = 0.2;

/// Connects all clients of an operation, each to the port that serves its key, lets them warm up, and then play for `seconds`.
/// `look` is called before and after that, while all of them are connected and none has a request under way.
pub fn drive<U>(operation: Operation, port_of: impl Fn(&str) -> u16, seconds: f64, look: impl Fn() -> U) -> Outcome<Played<U>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let played = async {
        match operation {
            Operation::Exec10 => measure(Transactor::connect(&port_of).await?, seconds, look).await,
            Operation::Blpop => measure(Pair::connect(&port_of).await?, seconds, look).await,
            Operation::Publish => measure(vec![Publisher::connect(&port_of).await?], seconds, look).await,
        }
    };
    let limited = async { tokio::time::timeout(PATIENCE + Duration::from_secs_f64(seconds), played).await };
    LocalSet::new().block_on(&runtime, limited).map_err(|_| format!("{} came to no end", operation.name()))?
}

async fn measure<P: Player, U>(players: Vec<P>, seconds: f64, look: impl Fn() -> U) -> Outcome<Played<U>> {
    let (players, _) = play_all(players, Duration::from_secs_f64(seconds * WARM_UP)).await?;
    let (before, begun) = (look(), Instant::now());
    let (players, mut latencies) = play_all(players, Duration::from_secs_f64(seconds)).await?;
    let (seconds, after) = (begun.elapsed().as_secs_f64(), look());
    drop(players);
    latencies.sort_unstable();
    if latencies.is_empty() { Err("no operation was begun".into()) } else { Ok(Played { before, after, seconds, latencies }) }
}

/// All at once, each in a task of its own.
async fn play_all<P: Player>(players: Vec<P>, length: Duration) -> Outcome<(Vec<P>, Vec<Duration>)> {
    let until = Instant::now() + length;
    let mut tasks: JoinSet<Outcome<(P, Vec<Duration>)>> = JoinSet::new();
    for mut player in players {
        tasks.spawn_local(async move {
            let latencies = player.play(until).await?;
            Ok((player, latencies))
        });
    }
    let (mut players, mut all) = (Vec::with_capacity(tasks.len()), Vec::new());
    while let Some(ended) = tasks.join_next().await {
        let (player, latencies) = ended??;
        players.push(player);
        all.extend(latencies);
    }
    Ok((players, all))
}

/// One client. It knows every byte that it is to receive, so that replies are checked and cost it little.
pub struct Connection {
    stream: TcpStream,
    arrived: Vec<u8>,
}

impl Connection {
    pub async fn open(port: u16) -> Outcome<Connection> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        Ok(Connection { stream, arrived: Vec::new() })
    }

    pub async fn send(&mut self, request: &[u8]) -> Outcome<()> {
        Ok(self.stream.write_all(request).await?)
    }

    /// Waits for exactly this; what else comes is an error that shows it.
    pub async fn expect(&mut self, reply: &[u8]) -> Outcome<()> {
        while self.arrived.len() < reply.len() && reply.starts_with(&self.arrived) {
            if self.stream.read_buf(&mut self.arrived).await? == 0 {
                return Err("a connection was closed while a reply was missing".into());
            }
        }
        if !self.arrived.starts_with(reply) {
            let shown = |bytes: &[u8]| bytes[..bytes.len().min(300)].escape_ascii().to_string();
            return Err(format!("expected {:?}, found {:?}", shown(reply), shown(&self.arrived)).into());
        }
        self.arrived.drain(..reply.len());
        Ok(())
    }
}
