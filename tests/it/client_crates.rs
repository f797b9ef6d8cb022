//! Rust's clients beyond plain commands, each run against a standalone server first: what it asks for there, it gets here.

use std::collections::HashMap;
use std::time::Duration;

use fred::prelude::{
    Builder, Client, ClientLike, Config, Error, EventInterface, HashesInterface, KeysInterface, ListInterface, PubsubInterface,
    ReconnectPolicy, TransactionInterface, Value,
};
use fred::types::RespVersion;
use futures::StreamExt;
use redis::{AsyncCommands, AsyncConnectionConfig, Commands, RedisResult};

use crate::harness::{Cluster, PATIENCE, Proxy, Server, Standalone};

/// All keys lie in one slot, as an application behind a cluster has to arrange for its transactions.
fn key(name: &str) -> String {
    format!("{{app}}{name}")
}

/// Runs `scenario` with both, in both protocol versions.
fn against_both(server: Server, scenario: impl Fn(u16, u8)) {
    let cluster = Cluster::of_masters(server);
    let (standalone, mut proxy) = (Standalone::start(server), Proxy::start(&cluster));
    for resp in [2, 3] {
        scenario(standalone.port(), resp);
        println!("RESP{resp}: the standalone server passed");
        scenario(proxy.port, resp);
    }
    proxy.assert_alive();
}

fn within_patience<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be made");
    runtime.block_on(async { tokio::time::timeout(PATIENCE, future).await.expect("it ends in time") })
}

fn redis_rs(server: Server) {
    against_both(server, |port, resp| {
        let client = redis::Client::open(format!("redis://127.0.0.1:{port}/?protocol=resp{resp}")).expect("a valid address");
        let () =
            client.get_connection().and_then(|mut connection| redis::cmd("FLUSHALL").query(&mut connection)).expect("FLUSHALL");
        let explain = |error: redis::RedisError| -> () { panic!("port {port}, RESP{resp}: {error}") };
        transactions(&client).unwrap_or_else(explain);
        messages(&client).unwrap_or_else(explain);
        blocking(&client).unwrap_or_else(explain);
        within_patience(asynchronous(&client)).unwrap_or_else(explain);
    });
}

fn transactions(client: &redis::Client) -> RedisResult<()> {
    let mut connection = client.get_connection()?;
    let mut pipe = redis::pipe();
    pipe.atomic().set(key("a"), 1).ignore().incr(key("a"), 1).rpush(key("l"), "x");
    assert_eq!(pipe.query::<(i64, i64)>(&mut connection)?, (2, 1));
    assert_eq!(redis::pipe().atomic().query::<Vec<i64>>(&mut connection)?, Vec::<i64>::new());
    let failed = redis::pipe().atomic().lpush(key("a"), 1).get(key("a")).query::<()>(&mut connection).expect_err("a string");
    assert!(failed.to_string().contains("WRONGTYPE"), "{failed}");
    let aborted = redis::pipe().atomic().cmd("NOSUCH").query::<()>(&mut connection).expect_err("no such command");
    assert!(aborted.to_string().to_lowercase().contains("unknown command"), "{aborted}");

    let mut tries = 0;
    let (added,): (i64,) = redis::transaction(&mut connection, &[key("a")], |connection, pipe| {
        let seen: i64 = connection.get(key("a"))?;
        tries += 1;
        if tries == 1 {
            let () = client.get_connection()?.incr(key("a"), 100)?;
        }
        pipe.set(key("a"), seen + 1).ignore().incr(key("a"), 1).query(connection)
    })?;
    assert_eq!((added, tries), (104, 2), "the first try's key had changed");

    let script = redis::Script::new("return redis.call('INCRBY', KEYS[1], ARGV[1])");
    let () = redis::cmd("SCRIPT").arg("FLUSH").query(&mut connection)?;
    assert_eq!(script.key(key("n")).arg(5).invoke::<i64>(&mut connection)?, 5);
    Ok(())
}

fn messages(client: &redis::Client) -> RedisResult<()> {
    let (mut listening, mut connection) = (client.get_connection()?, client.get_connection()?);
    let mut pubsub = listening.as_pubsub();
    pubsub.set_read_timeout(Some(PATIENCE))?;
    // One by one: the crate waits for one confirmation a call, however many channels it names.
    pubsub.subscribe(key("one"))?;
    pubsub.subscribe(key("two"))?;
    pubsub.psubscribe(key("o*"))?;
    assert_eq!(connection.publish::<_, _, i64>(key("one"), "hello")?, 2);
    let heard = [pubsub.get_message()?, pubsub.get_message()?];
    let (mut plain, mut by_pattern) = (0, 0);
    for message in &heard {
        assert_eq!((message.get_channel_name(), message.get_payload::<String>()?), (key("one").as_str(), "hello".into()));
        if message.from_pattern() { by_pattern += 1 } else { plain += 1 }
    }
    assert_eq!((plain, by_pattern), (1, 1));
    for n in 0..100 {
        assert_eq!(connection.publish::<_, _, i64>(key("two"), n)?, 1);
    }
    for n in 0..100 {
        assert_eq!(pubsub.get_message()?.get_payload::<i64>()?, n);
    }
    // Which unsubscribes from all there is.
    drop(pubsub);
    assert_eq!(listening.get::<_, Option<String>>(key("none"))?, None, "the connection serves commands again");
    Ok(())
}

fn blocking(client: &redis::Client) -> RedisResult<()> {
    let (mut waiting, mut connection) = (client.get_connection()?, client.get_connection()?);
    assert_eq!(waiting.blpop::<_, Option<(String, String)>>(&[key("q1"), key("q2")], 0.2)?, None);
    let popped = std::thread::scope(|threads| {
        let popped = threads.spawn(|| waiting.blpop::<_, (String, String)>(&[key("q1"), key("q2")], 30.0));
        std::thread::sleep(Duration::from_millis(100));
        let pushed: RedisResult<()> = connection.rpush(key("q2"), "late");
        popped.join().expect("it does not panic").and_then(|popped| pushed.map(|()| popped))
    })?;
    assert_eq!(popped, (key("q2"), "late".into()));

    let () = connection.xgroup_create_mkstream(key("x"), "group", "$")?;
    let () = connection.xadd(key("x"), "1-1", &[("f", "v")])?;
    let options = redis::streams::StreamReadOptions::default().group("group", "me").block(1000);
    let read: redis::streams::StreamReadReply = connection.xread_options(&[key("x")], &[">"], &options)?;
    assert_eq!(read.keys[0].ids[0].get::<String>("f"), Some("v".into()));
    assert_eq!(connection.xack::<_, _, _, i64>(key("x"), "group", &["1-1"])?, 1);
    Ok(())
}

async fn asynchronous(client: &redis::Client) -> RedisResult<()> {
    let mut connection = client.get_connection_manager().await?;
    let calls: Vec<_> = (0..50)
        .map(|n| {
            let mut connection = connection.clone();
            tokio::spawn(async move { connection.incr::<_, _, i64>(format!("async:{n}"), 1).await })
        })
        .collect();
    for call in calls {
        assert_eq!(call.await.expect("it does not panic")?, 1);
    }
    let both: (i64, String) = redis::pipe().atomic().incr(key("m"), 7).get(key("m")).query_async(&mut connection).await?;
    assert_eq!(both, (7, "7".into()));

    let (mut sink, mut messages) = client.get_async_pubsub().await?.split();
    sink.psubscribe(key("events.*")).await?;
    assert_eq!(connection.publish::<_, _, i64>(key("events.1"), "made").await?, 1);
    let message = messages.next().await.expect("the connection stays");
    assert_eq!((message.get_channel_name(), message.get_payload::<String>()?), (key("events.1").as_str(), "made".into()));

    // As the crate advises, a connection of its own for what waits.
    let mut waiting =
        client.get_multiplexed_async_connection_with_config(&AsyncConnectionConfig::new().set_response_timeout(None)).await?;
    let popped = tokio::spawn(async move { waiting.blpop::<_, (String, String)>(key("q3"), 30.0).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    let () = connection.rpush(key("q3"), "late").await?;
    assert_eq!(popped.await.expect("it does not panic")?, (key("q3"), "late".into()));

    let ident: i64 = redis::cmd("CLIENT").arg("ID").query_async(&mut connection).await?;
    let mut other = client.get_multiplexed_async_connection().await?;
    assert_eq!(redis::cmd("CLIENT").arg("KILL").arg("ID").arg(ident).query_async::<i64>(&mut other).await?, 1);
    // The manager connects again by itself; the call that noticed may fail.
    let mut answer = connection.get::<_, Option<i64>>(key("m")).await;
    for _ in 0..20 {
        if answer.is_ok() {
            break;
        }
        answer = connection.get(key("m")).await;
    }
    assert_eq!(answer?, Some(7));
    Ok(())
}

fn fred(server: Server) {
    against_both(server, |port, resp| {
        let used = within_patience(use_fred(port, resp));
        used.unwrap_or_else(|error| panic!("port {port}, RESP{resp}: {error}"));
    });
}

async fn use_fred(port: u16, resp: u8) -> Result<(), Error> {
    let mut config = Config::from_url_centralized(&format!("redis://127.0.0.1:{port}"))?;
    config.version = if resp == 2 { RespVersion::RESP2 } else { RespVersion::RESP3 };
    let mut builder = Builder::from_config(config);
    builder.set_policy(ReconnectPolicy::new_constant(0, 50));
    builder.with_performance_config(|config| config.broadcast_channel_capacity = 200);
    let client = builder.build()?;
    client.init().await?;
    client.flushall::<()>(false).await?;

    let pairs: HashMap<String, String> = (0..100).map(|n| (format!("key:{n}"), n.to_string())).collect();
    client.mset(pairs.clone()).await?;
    let keys: Vec<String> = pairs.keys().cloned().collect();
    assert_eq!(client.mget::<Vec<String>, _>(keys.clone()).await?, pairs.values().cloned().collect::<Vec<_>>());
    assert_eq!(client.del::<i64, _>(keys).await?, 100);
    let pipeline = client.pipeline();
    for n in 0..100 {
        pipeline.incr::<(), _>(format!("n:{n}")).await?;
        pipeline.hset::<(), _, _>(key("h"), (n, n)).await?;
    }
    assert_eq!(pipeline.all::<Vec<i64>>().await?, vec![1; 200]);
    assert_eq!(client.hgetall::<HashMap<i64, i64>, _>(key("h")).await?, (0..100).map(|n| (n, n)).collect());

    let transaction = client.multi();
    transaction.set::<(), _, _>(key("a"), 1, None, None, false).await?;
    transaction.incr::<(), _>(key("a")).await?;
    assert_eq!(transaction.exec::<(String, i64)>(true).await?, ("OK".into(), 2));
    let transaction = client.multi();
    transaction.lpush::<(), _, _>(key("a"), 1).await?;
    transaction.incr::<(), _>(key("a")).await?;
    let refusal = transaction.exec::<Value>(true).await.expect_err("a list command on a string");
    assert!(refusal.to_string().contains("WRONGTYPE"), "{refusal}");
    client.watch(key("a")).await?;
    let other = client.clone_new();
    other.init().await?;
    other.set::<(), _, _>(key("a"), 10, None, None, false).await?;
    let transaction = client.multi();
    transaction.incr::<(), _>(key("a")).await?;
    assert_eq!(transaction.exec::<Value>(false).await?, Value::Null, "a watched key that changed");

    let popped = tokio::spawn({
        let waiting = other.clone();
        async move { waiting.blpop::<(String, String), _>(vec![key("q1"), key("q2")], 30.0).await }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    client.rpush::<(), _, _>(key("q2"), "late").await?;
    assert_eq!(popped.await.expect("it does not panic")?, (key("q2"), "late".into()));

    subscribe_with_fred(&builder, &client).await?;
    client.quit().await?;
    other.quit().await
}

async fn subscribe_with_fred(builder: &Builder, client: &Client) -> Result<(), Error> {
    let subscriber = builder.build_subscriber_client()?;
    subscriber.init().await?;
    let mut messages = subscriber.message_rx();
    // It subscribes again by itself after a reconnect.
    let _resubscribes = subscriber.manage_subscriptions();
    subscriber.subscribe(vec![key("one"), key("two")]).await?;
    // It does not wait for the confirmations.
    for channel in ["one", "two"] {
        while client.pubsub_numsub::<HashMap<String, i64>, _>(key(channel)).await?[&key(channel)] == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    assert_eq!(client.publish::<i64, _, _>(key("one"), "hello").await?, 1);
    let message = messages.recv().await.expect("the client lives");
    assert_eq!((message.channel.to_string(), message.value.convert::<String>()?), (key("one"), "hello".into()));
    for n in 0..100 {
        client.publish::<(), _, _>(key("two"), n).await?;
    }
    for n in 0..100 {
        assert_eq!(messages.recv().await.expect("the client lives").value.convert::<i64>()?, n);
    }
    subscriber.unsubscribe(key("one")).await?;
    while client.publish::<i64, _, _>(key("one"), "nobody").await? > 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    subscriber.force_reconnection().await?;
    // A message that still went to the connection it left is nobody's; one of the channel that it left may still be waiting.
    loop {
        client.publish::<(), _, _>(key("two"), "back").await?;
        if let Ok(message) = tokio::time::timeout(Duration::from_millis(100), messages.recv()).await {
            let message = message.expect("the client lives");
            if message.channel == key("two") {
                assert_eq!(message.value.convert::<String>()?, "back");
                break;
            }
        }
    }
    subscriber.quit().await
}

crate::on_both_kinds_of_servers!(redis_rs, fred);
