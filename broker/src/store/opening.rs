//! What is opened and what is refused, and that a refusal changes nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rocksdb::{DB, Options};
use sluicegate_protocol::{LiteName, TopicId};

use super::engine::{Direction, Engine as _, Family, KeyRange, Scan};
use super::options::FAMILIES;
use super::rocks::Rocks;
use super::{FORMAT_KEY, Key as _, LiteKey, LiteRow, OpenError, Row as _, ShardId, Store};

/// The files of a database with their bytes, without locks and RocksDB's own log.
fn picture(database: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = std::fs::read_dir(database).unwrap().map(|entry| entry.unwrap().path());
    let is_row_file = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        name != "LOCK" && !name.starts_with("LOG")
    };
    files.filter(is_row_file).map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

/// Opens what `prepare` left, and answers why that is refused.
fn refusal(prepare: impl FnOnce(&Path)) -> OpenError {
    let directory = tempfile::tempdir().unwrap();
    let database = directory.path().join("store");
    std::fs::create_dir(&database).unwrap();
    prepare(&database);
    let before = picture(&database);
    let error = Store::open(directory.path(), None).unwrap_err();
    assert!(picture(&database) == before, "the refusal changed something: {error}");
    error
}

#[test]
fn what_was_written_out_needs_no_log() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path(), None).unwrap();
    let mut changes = store.engine.batch();
    for family in FAMILIES {
        changes.put(family, b"x", b"there");
    }
    changes.write().unwrap();
    let copy = |name: &str| {
        let (from, to) = (directory.path().join("store"), directory.path().join(name).join("store"));
        std::fs::create_dir_all(&to).unwrap();
        for (path, bytes) in picture(&from).into_iter().filter(|(path, _)| path.extension() != Some("log".as_ref())) {
            std::fs::write(to.join(path.file_name().unwrap()), bytes).unwrap();
        }
        directory.path().join(name)
    };
    let before = copy("before");
    store.write_out().unwrap();
    let after = copy("after");
    drop(store);
    let rows = |copy: &Path| {
        let rocks = Rocks::open(copy).unwrap();
        FAMILIES.map(|family| rocks.get(family, b"x").unwrap().is_some())
    };
    assert_eq!((rows(&before), rows(&after)), ([false; FAMILIES.len()], [true; FAMILIES.len()]));
}

fn with_format(format: &str) -> OpenError {
    let directory = tempfile::tempdir().unwrap();
    let rocks = Rocks::open(directory.path()).unwrap();
    let mut changes = rocks.batch();
    changes.put(Family::Control, FORMAT_KEY, format.as_bytes());
    changes.write().unwrap();
    drop(rocks);
    Store::open(directory.path(), None).unwrap_err()
}

#[test]
fn a_newer_format_names_what_can_read_it() {
    let error = with_format("sluicegate 3");
    assert!(matches!(&error, OpenError::Newer { found: 3, .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("has the store format 3, this broker reads up to 2; start the newer broker"), "{text}");
}

#[test]
fn a_newer_format_with_families_of_its_own_is_told_as_such() {
    let error = refusal(|database| {
        let mut options = Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        let newer = DB::open_cf(&options, database, ["control", "rows", "queues", "messages", "spare"]).unwrap();
        newer.put_cf(newer.cf_handle("control").unwrap(), FORMAT_KEY, "sluicegate 9").unwrap();
        newer.flush_cf(newer.cf_handle("control").unwrap()).unwrap();
    });
    assert!(matches!(&error, OpenError::Newer { found: 9, .. }), "{error}");
}

#[test]
fn a_format_from_before_is_brought_to_todays_however_often_that_is_cut_short() {
    // So many names were moved already when the power went.
    for copied in [0, 1, 25_000] {
        let directory = tempfile::tempdir().unwrap();
        let rocks = Rocks::open(directory.path()).unwrap();
        let key = |number: u32| LiteKey {
            shard: ShardId(3),
            topic: TopicId(1),
            name: LiteName::parse(&format!("lite-{number}")).unwrap(),
        };
        let row = |number: u32| LiteRow { lite: u64::from(number) };
        let mut changes = rocks.batch();
        changes.put(Family::Control, FORMAT_KEY, b"sluicegate 1");
        changes.put(Family::Rows, b"s", b"before");
        changes.put(Family::Rows, b"u", b"after");
        for number in 0..25_000 {
            changes.put(Family::Rows, &key(number).encode(), &row(number).encode());
        }
        for number in 0..copied {
            changes.put(Family::Names, &key(number).encode(), &row(number).encode());
        }
        changes.write().unwrap();
        drop(rocks);
        for _ in 0..2 {
            let store = Store::open(directory.path(), None).unwrap();
            for number in 0..25_000 {
                assert_eq!(store.get(&key(number)).unwrap(), Some(row(number)), "{copied}: {number}");
            }
            let mut left = Vec::new();
            let all = KeyRange { from: &[], end: None, direction: Direction::Ascending };
            let read = store.engine.scan(Family::Rows, &all, &mut |key, row| {
                left.push((key.to_vec(), row.to_vec()));
                Ok(Scan::More)
            });
            read.unwrap();
            assert_eq!(left, [(b"s".to_vec(), b"before".to_vec()), (b"u".to_vec(), b"after".to_vec())]);
            let format = store.engine.get(Family::Control, FORMAT_KEY).unwrap();
            assert_eq!(format.as_deref(), Some(&b"sluicegate 2"[..]));
        }
    }
}

#[test]
fn a_format_that_is_not_ours_is_foreign() {
    for format in ["sluicegate", "sluicegate two", "sluicegate 0", "other 1", ""] {
        let error = with_format(format);
        assert!(matches!(&error, OpenError::Foreign { .. }), "{format}: {error}");
        assert!(error.to_string().contains(&format!("format `{format}`")), "{error}");
    }
}

#[test]
fn the_database_of_another_product_is_refused_and_opens_there_as_before() {
    let error = refusal(|database| {
        let mut options = Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        let other = DB::open_cf(&options, database, ["users"]).unwrap();
        other.put_cf(other.cf_handle("users").unwrap(), "name", "row").unwrap();
    });
    assert!(error.to_string().contains("another database (column family `users`)"), "{error}");

    let directory = tempfile::tempdir().unwrap();
    let database = directory.path().join("store");
    std::fs::create_dir(&database).unwrap();
    DB::open_default(&database).unwrap().put("key", "row").unwrap();
    let error = Store::open(directory.path(), None).unwrap_err();
    assert!(matches!(&error, OpenError::Foreign { .. }), "{error}");
    assert_eq!(DB::list_cf(&Options::default(), &database).unwrap(), ["default"]);
    assert_eq!(DB::open_default(&database).unwrap().get("key").unwrap().as_deref(), Some(&b"row"[..]));
}

#[test]
fn rows_without_a_format_are_foreign() {
    let directory = tempfile::tempdir().unwrap();
    let rocks = Rocks::open(directory.path()).unwrap();
    let mut changes = rocks.batch();
    changes.put(Family::Rows, b"key", b"row");
    changes.write().unwrap();
    drop(rocks);
    let error = Store::open(directory.path(), None).unwrap_err();
    assert!(error.to_string().contains("a database without our format row, not a store of Sluicegate"), "{error}");
}

#[test]
fn a_first_start_that_was_cut_short_is_finished_by_the_next() {
    // Before the first row, with all families and with none of them.
    let directory = tempfile::tempdir().unwrap();
    drop(Rocks::open(directory.path()).unwrap());
    drop(Store::open(directory.path(), None).unwrap());
    let directory = tempfile::tempdir().unwrap();
    let database = directory.path().join("store");
    std::fs::create_dir(&database).unwrap();
    drop(DB::open_default(&database).unwrap());
    drop(Store::open(directory.path(), None).unwrap());
    // Before the database had a beginning.
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("store")).unwrap();
    std::fs::write(directory.path().join("store/MANIFEST-000001"), b"").unwrap();
    drop(Store::open(directory.path(), None).unwrap());
    drop(Store::open(directory.path(), None).unwrap());
}

#[test]
fn a_database_without_its_beginning_is_refused() {
    let error = refusal(|database| {
        drop(Store::open(database.parent().unwrap(), None).unwrap());
        std::fs::remove_file(database.join("CURRENT")).unwrap();
    });
    assert!(matches!(&error, OpenError::Incomplete { .. }), "{error}");
    assert!(error.to_string().contains("CURRENT is not; put back the files that are missing"), "{error}");
}

#[test]
fn a_lost_manifest_is_told_by_its_name() {
    let error = refusal(|database| {
        drop(Store::open(database.parent().unwrap(), None).unwrap());
        for path in picture(database).into_keys().filter(|path| path.to_string_lossy().contains("MANIFEST")) {
            std::fs::remove_file(path).unwrap();
        }
    });
    assert!(error.to_string().contains("MANIFEST"), "{error}");
}

#[test]
fn a_store_that_is_open_is_in_use() {
    let directory = tempfile::tempdir().unwrap();
    let _open = Store::open(directory.path(), None).unwrap();
    let error = Store::open(directory.path(), None).unwrap_err();
    assert!(matches!(error, OpenError::InUse(_)), "{error}");
}
