//! temporary
#![expect(clippy::unwrap_used, reason = "temporary")]
#[path = "behaviour/peer.rs"]
mod peer;
use sluicegate_client::*;
use sluicegate_protocol::frame::Frame;
use sluicegate_protocol::wire;
use std::time::Instant;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publish_speed() {
    let peer = peer::Peer::start();
    let client = peer.client();
    let connecting = tokio::spawn(async move { client.producer(TopicName::parse("t").unwrap()).await });
    let mut stream = peer.accept().await;
    stream.welcome_producer().await;
    let producer = connecting.await.unwrap().unwrap();
    const N: u64 = 400_000;
    let server = tokio::spawn(async move {
        let mut n = 0;
        let mut ready = vec![];
        while n < N {
            let Frame::Publish(p, _) = stream.next().await else { panic!() };
            n += 1;
            ready.push(p.sequence);
            if ready.len() >= 64 || n == N { stream.published(ready.drain(..)).await; }
        }
        stream
    });
    let body = bytes::Bytes::from(vec![7_u8; 1024]);
    let start = Instant::now();
    let (tx, mut rx) = tokio::sync::mpsc::channel(8192);
    let p2 = producer.clone();
    tokio::spawn(async move {
        for i in 0..N {
            let m = Message::to(&format!("user-{}", i % 1000)).unwrap().body(body.clone());
            tx.send(p2.enqueue(m).await.unwrap()).await.unwrap();
        }
    });
    while let Some(pending) = rx.recv().await { pending.await.unwrap(); }
    let secs = start.elapsed().as_secs_f64();
    println!("publish {:.0}/s in {secs:.2}s cpu {:?}", N as f64 / secs, cpu());
    drop(server.await.unwrap());
}

fn cpu() -> String { std::fs::read_to_string("/proc/self/stat").unwrap().split(' ').skip(13).take(2).collect::<Vec<_>>().join(" ") }

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn consume_speed() {
    let peer = peer::Peer::start();
    let builder = peer.client().consumer(GroupName::parse("g").unwrap()).workers(512);
    let connecting = tokio::spawn(builder.connect());
    let mut stream = peer.accept().await;
    stream.welcome(wire::Welcome { lease_ms: 60000, now_us: 1, ..Default::default() }).await;
    let mut consumer = connecting.await.unwrap().unwrap();
    const N: u64 = 300_000;
    let server = tokio::spawn(async move {
        let mut n = 0_u64;
        let mut credit = 512_u64;
        let mut done = 0; let mut frames = 0; let mut dframes = 0;
        while done < N {
            let take = credit.min(64).min(N - n);
            if take > 0 {
                credit -= take; dframes += 1;
                let deliveries: Vec<_> = (n..n + take).map(|i| wire::Delivery { token: Some(wire::Token { epoch: 1, counter: i }), lite: "user-1".into(), lite_id: i, body_bytes: 1024, deadline_us: 60_000_000, tenant: "user-1".into(), ..Default::default() }).collect();
                n += take;
                stream.send(Frame::Deliveries(wire::Deliveries { deliveries }, vec![7; 1024 * take as usize].into())).await;
                if credit > 0 && n < N { continue; }
            }
            match stream.next().await {
                Frame::Settle(s, ()) => { frames += 1; done += s.settles.len() as u64;
                    let results = s.settles.iter().map(|_| wire::SettleResult { code: 0 }).collect();
                    stream.send(Frame::Settled(wire::Settled { sequence: s.sequence, results }, ())).await; }
                Frame::Credit(c, ()) => credit += u64::from(c.messages),
                o => panic!("{o:?}"),
            }
        }
        println!("settle frames {frames} delivery frames {dframes}");
        stream
    });
    let start = Instant::now();
    let before = cpu();
    let stop = async move { let s = server.await.unwrap(); std::mem::forget(s); };
    consumer.run_until(stop, |_d| async { Outcome::Ack }).await.unwrap();
    let secs = start.elapsed().as_secs_f64();
    println!("consume {:.0}/s in {secs:.2}s cpu {before} -> {}", N as f64 / secs, cpu());
}
