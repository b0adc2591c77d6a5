//! Every table: keys and rows survive their bytes, keys are ordered as they mean, and garbage is refused.

use std::fmt::Debug;

use proptest::collection::vec;
use proptest::prelude::*;
use sluicegate_protocol::{GroupId, IdempotencyKey, LiteId, LiteName, Offset, ProducerId, Timestamp, TopicId};

use super::body::Chunk;
use super::{
    Attempts, BodyKey, BodyRef, BucketKey, BucketRow, BusyKey, BusyRow, ChunkKey, CountKey, CountRow, CursorKey,
    CursorRow, DedupEndKey, DedupKey, DedupRow, DueKey, DueKind, DueRow, Hint, HintHead, Hold, Key, LeaseKey, LeaseRow,
    LevelsKey, LevelsRow, LiteKey, LiteRow, MessageKey, NameKey, NameRow, Nothing, OpenLease, OwnReclaim, ReadyKey,
    ReceiptsEndKey, ReceiptsKey, ReceiptsRow, Row, ShardId, ShardKey, ShardRow, ShareKey, ShareRow, StoredReceipt,
    SweepKey, TailKey, TailRow, TenantKey, TenantRow, WakeKey,
};

/// What keys are made of.
#[derive(Debug, Clone)]
struct Parts {
    shard: ShardId,
    /// Of a topic or a group.
    id: u32,
    rank: u8,
    name: LiteName,
    producer: ProducerId,
    lite: LiteId,
    offset: Offset,
}

fn parts() -> impl Strategy<Value = Parts> {
    // Small numbers, so that two keys often share a part; and large ones.
    let id = || prop_oneof![0..3_u32, any::<u32>()];
    let number = || prop_oneof![0..3_u64, any::<u64>()];
    let name = prop_oneof!["[ab]{1,3}", "[a-zäß€/ 😀]{1,32}"];
    let named = (prop_oneof![0..3_u16, any::<u16>()], id(), 0..10_u8, name, any::<u128>());
    (named, number(), number()).prop_map(|((shard, id, rank, name, producer), lite, offset)| Parts {
        shard: ShardId(shard),
        id,
        rank,
        name: LiteName::parse(&name).expect("a good name"),
        producer: ProducerId(producer),
        lite: LiteId(lite),
        offset: Offset(offset),
    })
}

/// `of` makes a key, and what it means in the order in which it is to be sorted.
fn holds<K: Key + PartialEq + Debug, M: Ord>(pair: &[Parts; 2], of: impl Fn(&Parts) -> (K, M)) {
    let [(a, a_means), (b, b_means)] = [of(&pair[0]), of(&pair[1])];
    assert_eq!(K::decode(&a.encode()).as_ref(), Some(&a), "{}", K::TABLE);
    assert_eq!(a.encode().cmp(&b.encode()), a_means.cmp(&b_means), "{}: {a:?} and {b:?}", K::TABLE);
}

fn survives<R: Row + PartialEq + Debug>(row: &R) {
    assert_eq!(R::decode(&row.encode()).as_ref(), Ok(row));
}

/// Bytes are no key and no row, or exactly one; and nobody panics.
fn is_refused_or_means_one_thing<K: Key>(bytes: &[u8], tag: u8) {
    if let Some(key) = K::decode(bytes) {
        assert_eq!(key.encode(), bytes, "{}", K::TABLE);
        assert_eq!(bytes[0], tag, "{}", K::TABLE);
    }
    let _ = K::Row::decode(bytes);
}

/// A row of another version is refused, whatever follows.
fn refuses_other_versions<R: Row>(bytes: &[u8]) {
    let problem = R::decode(bytes).err().unwrap_or_default();
    assert_eq!(problem, format!("row version {}, this broker reads 1", bytes[0]));
}

proptest! {
    #[test]
    fn keys_survive_and_are_ordered_as_they_mean(pair in [parts(), parts()]) {
        holds(&pair, |p| (ShardKey { shard: p.shard }, p.shard));
        holds(&pair, |p| (CountKey { shard: p.shard, topic: TopicId(p.id) }, (p.shard, p.id)));
        holds(&pair, |p| (BucketKey { shard: p.shard, group: GroupId(p.id) }, (p.shard, p.id)));
        holds(&pair, |p| {
            let key = LiteKey { shard: p.shard, topic: TopicId(p.id), name: p.name.clone() };
            (key, (p.shard, p.id, p.name.as_str().to_owned()))
        });
        holds(&pair, |p| {
            let tenant = p.name.as_str().to_owned();
            (TenantKey { shard: p.shard, topic: TopicId(p.id), tenant: tenant.clone() }, (p.shard, p.id, tenant))
        });
        holds(&pair, |p| (NameKey { shard: p.shard, lite: p.lite }, (p.shard, p.lite.0)));
        holds(&pair, |p| (TailKey { shard: p.shard, lite: p.lite }, (p.shard, p.lite.0)));
        holds(&pair, |p| {
            (CursorKey { shard: p.shard, group: GroupId(p.id), lite: p.lite }, (p.shard, p.id, p.lite.0))
        });
        holds(&pair, |p| {
            let key = ReceiptsKey { shard: p.shard, topic: TopicId(p.id), producer: p.producer, sequence: p.offset.0 };
            (key, (p.shard, p.id, p.producer.0, p.offset.0))
        });
        holds(&pair, |p| {
            let (at, topic) = (Timestamp(p.offset.0), TopicId(p.id));
            (ReceiptsEndKey { shard: p.shard, at, topic, producer: p.producer }, (p.shard, at, p.id, p.producer.0))
        });
        holds(&pair, |p| {
            let key = LeaseKey { shard: p.shard, group: GroupId(p.id), lite: p.lite, offset: p.offset };
            (key, (p.shard, p.id, p.lite.0, p.offset.0))
        });
        holds(&pair, |p| {
            let key = ReadyKey { shard: p.shard, group: GroupId(p.id), rank: p.rank, lite: p.lite };
            (key, (p.shard, p.id, p.rank, p.lite.0))
        });
        holds(&pair, |p| (LevelsKey { shard: p.shard, group: GroupId(p.id) }, (p.shard, p.id)));
        holds(&pair, |p| {
            let key = BusyKey { shard: p.shard, group: GroupId(p.id), page: p.rank.into() };
            (key, (p.shard, p.id, p.rank))
        });
        holds(&pair, |p| {
            let key = WakeKey { shard: p.shard, group: GroupId(p.id), at: Timestamp(p.offset.0), lite: p.lite };
            (key, (p.shard, p.id, p.offset.0, p.lite.0))
        });
        holds(&pair, |p| {
            let kind = if p.rank % 2 == 0 { DueKind::Reclaim } else { DueKind::Trim };
            let key = DueKey { shard: p.shard, at: Timestamp(p.offset.0), kind, lite: p.lite };
            (key, (p.shard, p.offset.0, p.rank % 2, p.lite.0))
        });
        holds(&pair, |p| {
            (MessageKey { shard: p.shard, lite: p.lite, offset: p.offset }, (p.shard, p.lite.0, p.offset.0))
        });
        let key = |p: &Parts| IdempotencyKey::parse(p.name.as_str()).expect("it is short");
        holds(&pair, |p| (DedupKey { shard: p.shard, lite: p.lite, key: key(p) }, (p.shard, p.lite.0, key(p))));
        holds(&pair, |p| {
            let until = Timestamp(p.offset.0);
            (DedupEndKey { shard: p.shard, until, lite: p.lite, key: key(p) }, (p.shard, until, p.lite.0, key(p)))
        });
        holds(&pair, |p| {
            (ChunkKey { shard: p.shard, body: p.lite.0, number: p.id }, (p.shard, p.lite.0, p.id))
        });
        holds(&pair, |p| {
            (BodyKey { shard: p.shard, lite: p.lite, offset: p.offset }, (p.shard, p.lite.0, p.offset.0))
        });
        holds(&pair, |p| (ShareKey { shard: p.shard, body: p.lite.0 }, (p.shard, p.lite.0)));
        holds(&pair, |p| {
            let key = SweepKey { shard: p.shard, from: (p.lite, p.offset), end: (p.lite, Offset(p.id.into())) };
            (key, (p.shard, p.lite.0, p.offset.0, p.id))
        });
    }

    #[test]
    fn rows_survive(numbers in any::<[u64; 3]>(), small in any::<[u32; 2]>(),
        text in ".{0,20}", many in vec(any::<(u64, u32)>(), 0..8)) {
        let [a, b, c] = numbers;
        survives(&ShardRow { epoch: a, committed_at_us: b, next_lite: c, next_body: a });
        survives(&CountRow { lite_topics: a, messages: b, bytes: c });
        survives(&TenantRow { messages: a, bytes: b });
        survives(&BucketRow { messages_tat_nanos: a, cost_tat_nanos: b });
        survives(&LiteRow { lite: a });
        let name = NameRow {
            topic: small[0],
            name: text.clone(),
            tenant: None,
            created_at_us: a,
            reclaim: None,
            reclaim_changes: 0,
            labels: many.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect(),
        };
        survives(&name);
        let own = OwnReclaim { mode: small[1], after_ms: b };
        survives(&NameRow { tenant: Some(text.clone()), reclaim: Some(own), reclaim_changes: small[0], ..name });
        survives(&DueRow { reclaim_changes: small[1] });
        survives(&TailRow { next_offset: a, written_at_us: b, first_kept: c, position: a });
        let lease = LeaseRow {
            session_high: c,
            session_low: a,
            attempt: small[0],
            deadline_us: a,
            token_epoch: b,
            token_counter: c,
            dispatched_at_us: b,
            charge_cost: a,
            charge_band: small[1],
            charge_weight: small[0],
        };
        survives(&CursorRow {
            settled_up_to: a,
            settled: many.iter().map(|(offset, _)| *offset).collect(),
            attempts: many.iter().map(|&(offset, count)| Attempts { offset, count }).collect(),
            holds: many.iter().map(|&(until_us, source)| Hold { source, until_us, since_us: b }).collect(),
            leases: many.iter().map(|&(offset, _)| OpenLease { offset, lease }).collect(),
            leaving: small[0] % 2 == 1,
            filed_rank: (small[1] % 2 == 1).then_some(small[0]),
            wakes_at_us: c,
            active_at_us: c,
        });
        let receipt = |&(sequence, lite): &(u64, u32)| StoredReceipt { sequence, lite: lite.into(), offset: b };
        survives(&ReceiptsRow { receipts: many.iter().map(receipt).collect(), saved_at_us: c });
        survives(&Nothing);
        survives(&LevelsRow { unsettled: a, filed: b, asleep: c });
        survives(&BusyRow { lites: vec![a, 0, b] });
        survives(&Hint::default());
        let head = HintHead {
            offset: a,
            published_at_us: b,
            priority: small[0],
            cost: c,
            deliver_at_us: Some(b),
            expires_at_us: None,
        };
        survives(&Hint { head: Some(head), tenant: Some("t".into()) });
        assert_eq!(Hint::decode(&[]), Ok(Hint::default()));
        survives(&DedupRow { offset: a, body_digest: text.as_bytes().to_vec(), until_us: b });
        survives(&BodyRef { id: a, bytes: b, chunk_bytes: small[0] });
        survives(&ShareRow { messages: c });
        survives(&Chunk(a.to_be_bytes().to_vec().into()));
        survives(&lease);
    }

    #[test]
    fn garbage_is_refused(bytes in vec(any::<u8>(), 1..48), tag in prop::sample::select(b"scatnoubpqlregfwmyzkijx".to_vec()), cut in 0..30_usize) {
        let tagged = [&[tag][..], &bytes[1..]].concat();
        // The length of a real key, so that more than the length is looked at.
        let long = [&tagged[..], &[7; 48]].concat();
        for bytes in [&bytes[..], &tagged[..], &long[..cut], &[][..]] {
            is_refused_or_means_one_thing::<ShardKey>(bytes, b's');
            is_refused_or_means_one_thing::<CountKey>(bytes, b'c');
            is_refused_or_means_one_thing::<TenantKey>(bytes, b'a');
            is_refused_or_means_one_thing::<LiteKey>(bytes, b't');
            is_refused_or_means_one_thing::<NameKey>(bytes, b'n');
            is_refused_or_means_one_thing::<TailKey>(bytes, b'o');
            is_refused_or_means_one_thing::<CursorKey>(bytes, b'u');
            is_refused_or_means_one_thing::<BucketKey>(bytes, b'b');
            is_refused_or_means_one_thing::<ReceiptsKey>(bytes, b'p');
            is_refused_or_means_one_thing::<ReceiptsEndKey>(bytes, b'q');
            is_refused_or_means_one_thing::<LeaseKey>(bytes, b'l');
            is_refused_or_means_one_thing::<ReadyKey>(bytes, b'r');
            is_refused_or_means_one_thing::<LevelsKey>(bytes, b'g');
            is_refused_or_means_one_thing::<BusyKey>(bytes, b'f');
            is_refused_or_means_one_thing::<WakeKey>(bytes, b'w');
            is_refused_or_means_one_thing::<DueKey>(bytes, b'e');
            is_refused_or_means_one_thing::<MessageKey>(bytes, b'm');
            is_refused_or_means_one_thing::<DedupKey>(bytes, b'y');
            is_refused_or_means_one_thing::<DedupEndKey>(bytes, b'z');
            is_refused_or_means_one_thing::<ChunkKey>(bytes, b'k');
            is_refused_or_means_one_thing::<BodyKey>(bytes, b'i');
            is_refused_or_means_one_thing::<ShareKey>(bytes, b'j');
            is_refused_or_means_one_thing::<SweepKey>(bytes, b'x');
        }
    }

    #[test]
    fn rows_of_other_versions_are_refused(version in any::<u8>(), rest in vec(any::<u8>(), 0..20)) {
        prop_assume!(version != super::key::ROW_VERSION);
        let bytes = [&[version][..], &rest[..]].concat();
        refuses_other_versions::<ShardRow>(&bytes);
        refuses_other_versions::<CountRow>(&bytes);
        refuses_other_versions::<BucketRow>(&bytes);
        refuses_other_versions::<TenantRow>(&bytes);
        refuses_other_versions::<LiteRow>(&bytes);
        refuses_other_versions::<NameRow>(&bytes);
        refuses_other_versions::<TailRow>(&bytes);
        refuses_other_versions::<CursorRow>(&bytes);
        refuses_other_versions::<ReceiptsRow>(&bytes);
        refuses_other_versions::<DedupRow>(&bytes);
        refuses_other_versions::<LeaseRow>(&bytes);
        refuses_other_versions::<LevelsRow>(&bytes);
        refuses_other_versions::<BusyRow>(&bytes);
        refuses_other_versions::<Hint>(&bytes);
        refuses_other_versions::<DueRow>(&bytes);
        refuses_other_versions::<BodyRef>(&bytes);
        refuses_other_versions::<ShareRow>(&bytes);
        refuses_other_versions::<super::StoredMessage>(&bytes);
    }
}
