//! What must hold for any bytes holds for those that were kept; and the measure of memory measures.

use std::hint::black_box;
use std::path::Path;

use sluicegate_fuzz::{frames, heap, rows};

/// Calls `check` with each file of a corpus and answers how many there are.
fn over(corpus: &str, check: fn(&[u8])) -> usize {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(corpus);
    let files = std::fs::read_dir(directory).expect("the corpus is there");
    let mut count = 0;
    for file in files {
        let file = file.expect("the corpus can be read").path();
        println!("{}", file.display());
        check(&std::fs::read(file).expect("the corpus can be read"));
        count += 1;
    }
    count
}

#[test]
fn frames_of_the_corpus_hold() {
    assert!(over("frames", frames::check) > 20);
}

#[test]
fn rows_of_the_corpus_hold() {
    assert!(over("rows", rows::check) > 20);
}

#[test]
fn what_is_freed_again_counts_at_its_peak() {
    let (kept, bytes) = heap::peak(|| {
        drop(black_box(vec![0_u8; 5_000]));
        black_box(vec![0_u8; 3_000])
    });
    assert_eq!((kept.len(), bytes), (3_000, 5_000));
}
