//! Consumers that take only what they subscribed to, against a real broker process.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result};
use sluicegate_client::admin::{Admin, ConsumeMode, CreateGroup, Follows, GroupSettings, TopicSettings};
use sluicegate_client::{
    Client, Consumer, Delivery, GroupName, LiteName, Message, Offset, Position, SettleError, SubscribeError,
    Subscription, TopicName,
};
use sluicegate_tests::{Broker, PATIENCE};

/// Long enough that what must not come would have come.
const A_WHILE: Duration = Duration::from_millis(300);

async fn started(mode: ConsumeMode) -> Result<(Broker, Client)> {
    let broker = Broker::start()?;
    let settings = GroupSettings { mode, ..GroupSettings::default() };
    broker.topic_and_group(TopicSettings::default(), settings).await?;
    let client = broker.client();
    Ok((broker, client))
}

fn lite(name: &str) -> LiteName {
    LiteName::parse(name).expect("a good name")
}

fn named(names: &[&str]) -> Subscription {
    Subscription::default().lite_topics(names.iter().map(|name| lite(name)))
}

fn group() -> Result<GroupName> {
    Ok(GroupName::parse("g")?)
}

async fn publish(client: &Client, names: &[&str]) -> Result<()> {
    let producer = client.producer(TopicName::parse("t")?).connect().await?;
    for name in names {
        producer.send(Message::to(name)?.body((*name).to_owned())).await?;
    }
    producer.close().await;
    Ok(())
}

async fn consumer(client: &Client, subscription: Subscription) -> Result<Consumer> {
    Ok(client.consumer(group()?).workers(10).subscribe_to(subscription).connect().await?)
}

async fn next(consumer: &mut Consumer) -> Result<Delivery> {
    let next = tokio::time::timeout(PATIENCE, consumer.next()).await.context("no delivery came")?;
    Ok(next.context("the consumer ended")??)
}

/// Takes so many and acknowledges each: which lite topics they were of.
async fn take(consumer: &mut Consumer, count: usize) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for _ in 0..count {
        let delivery = next(consumer).await?;
        names.insert(delivery.lite().to_owned());
        delivery.ack().await?;
    }
    Ok(names)
}

async fn nothing_comes(consumer: &mut Consumer) -> bool {
    tokio::time::timeout(A_WHILE, consumer.next()).await.is_err()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_gets_the_lite_topics_that_it_named_and_no_others() -> Result<()> {
    let (_broker, client) = started(ConsumeMode::Shared).await?;
    // One exists before, one is made later.
    publish(&client, &["a", "c"]).await?;
    let mut consumer = consumer(&client, named(&["a", "b"])).await?;
    publish(&client, &["b", "d", "a/x"]).await?;
    assert_eq!(take(&mut consumer, 2).await?, set(&["a", "b"]));
    assert!(nothing_comes(&mut consumer).await);
    consumer.close().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefix_matches_what_exists_and_what_comes_later() -> Result<()> {
    let (_broker, client) = started(ConsumeMode::Shared).await?;
    publish(&client, &["user/1", "user/2", "usual", "batch/1"]).await?;
    let mut consumer = consumer(&client, Subscription::default().prefix(lite("user/"))).await?;
    assert_eq!(take(&mut consumer, 2).await?, set(&["user/1", "user/2"]));
    publish(&client, &["user/3", "batch/2"]).await?;
    assert_eq!(take(&mut consumer, 1).await?, set(&["user/3"]));
    assert!(nothing_comes(&mut consumer).await);
    consumer.close().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn subscriptions_change_while_the_consumer_runs() -> Result<()> {
    let (_broker, client) = started(ConsumeMode::Shared).await?;
    publish(&client, &["a", "b", "p/1"]).await?;
    let mut consumer = consumer(&client, Subscription::default()).await?;
    assert!(nothing_comes(&mut consumer).await);
    consumer.subscribe(named(&["a"]).prefix(lite("p/"))).await?;
    assert_eq!(take(&mut consumer, 2).await?, set(&["a", "p/1"]));
    consumer.unsubscribe(named(&["a"]).prefix(lite("p/"))).await?;
    consumer.subscribe(named(&["b"])).await?;
    publish(&client, &["a", "p/1", "p/2"]).await?;
    assert_eq!(take(&mut consumer, 1).await?, set(&["b"]));
    assert!(nothing_comes(&mut consumer).await);
    consumer.close().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_consumer_has_no_room_for_holds_no_other_up() -> Result<()> {
    let (_broker, client) = started(ConsumeMode::Shared).await?;
    let slow = client.consumer(group()?).workers(1).subscribe_to(named(&["slow/1", "slow/2"]));
    let mut slow = slow.connect().await?;
    let mut quick = consumer(&client, named(&["quick"])).await?;
    publish(&client, &["slow/1", "slow/2"]).await?;
    let held = next(&mut slow).await?;
    publish(&client, &["quick"]).await?;
    assert_eq!(take(&mut quick, 1).await?, set(&["quick"]));
    held.ack().await?;
    take(&mut slow, 1).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn subscriptions_outlive_a_lost_connection_and_a_restart_of_the_broker() -> Result<()> {
    let (mut broker, client) = started(ConsumeMode::Shared).await?;
    let mut consumer = consumer(&client, named(&["a"])).await?;
    consumer.subscribe(Subscription::default().prefix(lite("p/"))).await?;
    publish(&client, &["a", "b"]).await?;
    assert_eq!(take(&mut consumer, 1).await?, set(&["a"]));
    tokio::task::block_in_place(|| broker.crash_and_restart())?;
    publish(&broker.client(), &["a", "p/1", "b"]).await?;
    assert_eq!(take(&mut consumer, 2).await?, set(&["a", "p/1"]));
    assert!(nothing_comes(&mut consumer).await);
    consumer.close().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_names_are_subscribed_to() -> Result<()> {
    let (_broker, client) = started(ConsumeMode::Shared).await?;
    let mut consumer = consumer(&client, Subscription::default()).await?;
    let all = (0..100_000).map(|number| lite(&format!("session/{number}")));
    consumer.subscribe(Subscription::default().lite_topics(all)).await?;
    publish(&client, &["session/0", "session/99999", "session/100000"]).await?;
    assert_eq!(take(&mut consumer, 2).await?, set(&["session/0", "session/99999"]));
    assert!(nothing_comes(&mut consumer).await);
    consumer.close().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_past_the_limit_is_refused_and_the_consumer_goes_on() -> Result<()> {
    let (_broker, client) = started(ConsumeMode::Shared).await?;
    let mut consumer = consumer(&client, named(&["a"])).await?;
    let prefixes = (0..1_025).map(|number| lite(&format!("p{number}/")));
    let too_many = prefixes.fold(Subscription::default(), Subscription::prefix);
    let refused = consumer.subscribe(too_many).await.unwrap_err().to_string();
    assert!(refused.contains("prefixes that a session subscribes to") && refused.contains("1024"), "{refused}");
    publish(&client, &["a"]).await?;
    assert_eq!(take(&mut consumer, 1).await?, set(&["a"]));
    let takes_all = client.consumer(group()?).connect().await?;
    assert!(takes_all.subscribe(named(&["b"])).await.is_err());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_subscriber_of_an_exclusive_group_owns_the_lite_topic() -> Result<()> {
    let (_broker, client) = started(ConsumeMode::Exclusive).await?;
    let mut first = consumer(&client, named(&["a", "b"])).await?;
    let mut lost = first.watch_lost();
    publish(&client, &["a", "b"]).await?;
    let (one, other) = (next(&mut first).await?, next(&mut first).await?);
    let (of_a, of_b) = if one.lite() == "a" { (one, other) } else { (other, one) };
    let mut second = consumer(&client, named(&["a"])).await?;
    // The message comes back at once, uncounted, and goes to its new owner.
    let again = next(&mut second).await?;
    assert_eq!((again.lite(), again.attempt()), ("a", 1));
    assert_eq!(tokio::time::timeout(PATIENCE, lost.recv()).await??, lite("a"));
    assert_eq!(of_a.ack().await, Err(SettleError::LeaseLost));
    again.ack().await?;
    of_b.ack().await?;
    publish(&client, &["a", "b"]).await?;
    assert_eq!(take(&mut second, 1).await?, set(&["a"]));
    assert_eq!(take(&mut first, 1).await?, set(&["b"]));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exclusive_group_refuses_consumers_without_names() -> Result<()> {
    let (_broker, client) = started(ConsumeMode::Exclusive).await?;
    let refused = client.consumer(group()?).connect().await.unwrap_err().to_string();
    assert!(refused.contains("subscribe by names"), "{refused}");
    let by_name = consumer(&client, named(&["a"])).await?;
    let refused = by_name.subscribe(Subscription::default().prefix(lite("p"))).await.unwrap_err().to_string();
    assert!(refused.contains("not by prefixes"), "{refused}");
    // Made with what is refused, a consumer does not sit there and wait in vain.
    let mut by_prefix = consumer(&client, Subscription::default().prefix(lite("p"))).await?;
    let ended = tokio::time::timeout(PATIENCE, by_prefix.next()).await?.context("an error first")?;
    assert!(ended.unwrap_err().to_string().contains("not by prefixes"));
    Ok(())
}

/// A group `g` that follows what is subscribed to, and a group `h` that follows all.
async fn started_choosing() -> Result<(Broker, Client)> {
    let broker = Broker::start()?;
    let settings = GroupSettings { follows: Follows::Subscribed, ..GroupSettings::default() };
    let (topic, _) = broker.topic_and_group(TopicSettings::default(), settings).await?;
    let all = CreateGroup::new(GroupName::parse("h")?, topic, GroupSettings::default());
    broker.admin(None)?.create_group(&all).await?;
    let client = broker.client();
    Ok((broker, client))
}

/// The group `h` settles so many.
async fn settle_all(client: &Client, count: usize) -> Result<()> {
    let mut consumer = client.consumer(GroupName::parse("h")?).workers(10).connect().await?;
    take(&mut consumer, count).await?;
    consumer.close().await;
    Ok(())
}

/// Takes so many and acknowledges each: lite topics with offsets.
async fn offsets(consumer: &mut Consumer, count: usize) -> Result<BTreeSet<String>> {
    let mut got = BTreeSet::new();
    for _ in 0..count {
        let delivery = next(consumer).await?;
        got.insert(format!("{} {}", delivery.lite(), delivery.offset()));
        delivery.ack().await?;
    }
    assert!(nothing_comes(consumer).await, "there was more than {count}");
    Ok(got)
}

async fn follows(admin: &Admin, name: &str) -> Result<bool> {
    match admin.lite_topic(&group()?, &lite(name)).await {
        Ok(_) => Ok(true),
        Err(refused) => {
            let expected = format!(
                "unknown_lite: group `g` does not follow lite topic `{name}`: none of its consumers subscribed to it"
            );
            assert_eq!(refused.to_string(), expected);
            Ok(false)
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_chooses_keeps_for_itself_what_it_subscribed_to_and_nothing_else() -> Result<()> {
    let (broker, client) = started_choosing().await?;
    let admin = broker.admin(None)?;
    publish(&client, &["before", "other", "p/1"]).await?;
    let mut choosing = consumer(&client, named(&["before", "later"]).prefix(lite("p/"))).await?;
    assert_eq!(offsets(&mut choosing, 2).await?, set(&["before 0", "p/1 0"]));
    publish(&client, &["before", "later", "p/2", "other"]).await?;
    assert_eq!(offsets(&mut choosing, 3).await?, set(&["before 1", "later 0", "p/2 0"]));
    assert!(!follows(&admin, "other").await?);
    assert_eq!(admin.group(&group()?).await?.stats.backlog, 0, "what it does not follow is no backlog of it");
    settle_all(&client, 7).await?;
    publish(&client, &["other"]).await?;
    // What the others had settled was kept for nobody.
    choosing.subscribe(named(&["other"])).await?;
    assert_eq!(offsets(&mut choosing, 1).await?, set(&["other 2"]));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_followed_is_kept_across_sessions_and_a_crash() -> Result<()> {
    let (mut broker, client) = started_choosing().await?;
    publish(&client, &["a", "p/1"]).await?;
    let mut first = consumer(&client, named(&["a"]).prefix(lite("p/"))).await?;
    assert_eq!(offsets(&mut first, 2).await?, set(&["a 0", "p/1 0"]));
    first.close().await;
    // Nobody of the group is there; a lite topic that is new now is nobody's choice.
    publish(&client, &["a", "p/1", "p/2"]).await?;
    settle_all(&client, 5).await?;
    assert_eq!(broker.admin(None)?.group(&group()?).await?.stats.backlog, 2);
    tokio::task::block_in_place(|| broker.crash_and_restart())?;
    let client = broker.client();
    assert_eq!(broker.admin(None)?.group(&group()?).await?.stats.backlog, 2);
    let mut second = consumer(&client, named(&["a"]).prefix(lite("p/"))).await?;
    assert_eq!(offsets(&mut second, 2).await?, set(&["a 1", "p/1 1"]));
    publish(&client, &["p/2"]).await?;
    assert_eq!(offsets(&mut second, 1).await?, set(&["p/2 1"]));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unsubscribed_lite_topic_is_left_when_its_leases_have_ended() -> Result<()> {
    let (mut broker, client) = started_choosing().await?;
    publish(&client, &["a", "a", "b", "p/1", "p/2", "c"]).await?;
    let wanted = named(&["a", "b", "c"]).prefix(lite("p/"));
    let mut choosing = client.consumer(group()?).workers(1).subscribe_to(wanted).connect().await?;
    let held = next(&mut choosing).await?;
    assert_eq!((held.lite(), held.offset().0), ("a", 0));
    let stays = client.consumer(group()?).workers(1).subscribe_to(named(&["p/2"])).connect().await?;
    choosing.unsubscribe(named(&["a", "b"]).prefix(lite("p/"))).await?;
    let admin = broker.admin(None)?;
    let mut followed = Vec::new();
    for name in ["a", "b", "c", "p/2"] {
        followed.push(follows(&admin, name).await?);
    }
    assert_eq!(followed, [true, false, true, true]);
    let left = async {
        while follows(&admin, "p/1").await? {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(PATIENCE, left).await.context("a prefix is never left")??;
    // What is left open is settled across a crash, and then left.
    tokio::task::block_in_place(|| broker.crash_and_restart())?;
    let admin = broker.admin(None)?;
    assert!(follows(&admin, "a").await?);
    held.ack().await?;
    assert!(!follows(&admin, "a").await?);
    assert!(!follows(&admin, "b").await?);
    let got = take(&mut choosing, 1).await?;
    assert_eq!(got, set(&["c"]));
    drop(stays);
    // Again from the first that is kept: the other group has settled none.
    choosing.subscribe(named(&["a"])).await?;
    let again = next(&mut choosing).await?;
    assert_eq!((again.lite(), again.offset().0, again.attempt()), ("a", 0, 1));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_chooses_refuses_consumers_without_names_and_a_start_of_its_own() -> Result<()> {
    let (broker, client) = started_choosing().await?;
    let refused = client.consumer(group()?).connect().await.unwrap_err().to_string();
    assert!(refused.contains("must subscribe by names or prefixes"), "{refused}");
    let settings = GroupSettings { follows: Follows::Subscribed, ..GroupSettings::default() };
    let late = CreateGroup::new(GroupName::parse("late")?, TopicName::parse("t")?, settings);
    let refused = broker.admin(None)?.create_group(&CreateGroup { start: Position::Latest, ..late }).await;
    assert!(refused.unwrap_err().to_string().starts_with("invalid_argument: start: a group that follows"));
    let made = broker.sluice(&["group", "create", "k", "--topic", "t", "--follows", "subscribed", "-o", "json"])?;
    let made: serde_json::Value = serde_json::from_slice(&made.stdout)?;
    assert_eq!(made["settings"]["follows"], "subscribed");
    assert_eq!(broker.sluice(&["group", "create", "k", "--topic", "t", "--follows", "some"])?.status.code(), Some(2));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_chooses_begins_where_its_consumer_says_and_goes_on_where_it_was() -> Result<()> {
    let (mut broker, client) = started_choosing().await?;
    publish(&client, &["last", "last", "last", "offset", "offset", "late", "p/1", "p/1"]).await?;
    let mut choosing = consumer(&client, Subscription::default()).await?;
    let met = choosing.subscribe(named(&["last", "new"]).starting_at(Position::Last(2))).await?;
    assert_eq!(met.kept, []);
    assert_eq!(offsets(&mut choosing, 2).await?, set(&["last 1", "last 2"]));
    choosing.subscribe(named(&["offset"]).starting_at(Position::Offset(Offset(1)))).await?;
    choosing.subscribe(named(&["late"]).prefix(lite("p/")).starting_at(Position::Latest)).await?;
    publish(&client, &["late", "p/1", "p/2", "new"]).await?;
    let began = offsets(&mut choosing, 5).await?;
    assert_eq!(began, set(&["offset 1", "late 1", "p/1 2", "p/2 0", "new 0"]));
    // What it follows it goes on with, also in another process of the broker.
    tokio::task::block_in_place(|| broker.crash_and_restart())?;
    let met = choosing.subscribe(named(&["last", "late"]).starting_at(Position::Earliest)).await?;
    assert_eq!(met.kept, [], "nothing else was asked for");
    let met = choosing.subscribe(named(&["last", "late", "never"]).starting_at(Position::Last(3))).await?;
    assert_eq!(met.kept, [lite("last"), lite("late")]);
    assert!(nothing_comes(&mut choosing).await);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_in_time_passes_over_what_is_older_by_name_and_by_prefix() -> Result<()> {
    let (broker, client) = started_choosing().await?;
    publish(&client, &["a", "p/1"]).await?;
    publish(&client, &["p/1", "a"]).await?;
    let peeked = broker.admin(None)?.peek(&GroupName::parse("h")?, &lite("p/1"), None, None).await?;
    let since = Position::Timestamp(peeked.messages[1].published_at);
    let mut choosing = consumer(&client, named(&["a"]).prefix(lite("p/")).starting_at(since)).await?;
    assert_eq!(offsets(&mut choosing, 2).await?, set(&["a 1", "p/1 1"]));
    assert!(nothing_comes(&mut choosing).await);
    drop(broker);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_is_not_there_is_refused_and_subscribes_to_nothing() -> Result<()> {
    let (broker, client) = started_choosing().await?;
    publish(&client, &["a", "p/1"]).await?;
    let mut choosing = consumer(&client, Subscription::default()).await?;
    let refused = choosing.subscribe(named(&["a"]).starting_at(Position::Offset(Offset(2)))).await;
    let SubscribeError::Refused(refused) = refused.unwrap_err() else { panic!("not refused") };
    assert!(
        refused.to_string().contains("offset 2 is not there: 0 is the first kept, 1 the next to come"),
        "{refused}"
    );
    let refused = choosing.subscribe(Subscription::default().prefix(lite("p/")).starting_at(Position::Last(1))).await;
    assert!(refused.unwrap_err().to_string().contains("say it with names, not with prefixes"));
    assert!(nothing_comes(&mut choosing).await);
    assert!(!follows(&broker.admin(None)?, "a").await?);
    let consume = ["consume", "g", "--lite", "a", "-n", "1", "--start"];
    let wrong = broker.sluice(&[&consume[..], &["middle"]].concat())?;
    assert_eq!(wrong.status.code(), Some(2));
    let took = broker.sluice(&[&consume[..], &["last:1", "-o", "json"]].concat())?;
    let took: serde_json::Value = serde_json::from_slice(&took.stdout)?;
    assert_eq!((&took["lite"], &took["offset"]), (&"a".into(), &0.into()));
    Ok(())
}
