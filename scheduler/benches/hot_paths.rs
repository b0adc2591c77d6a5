//! Time of the scheduler's hot paths: `cargo bench -p sluicegate-scheduler --bench hot_paths`, with the name of a case
//! behind it for one.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

mod hot;

fn hot_paths(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("scheduler");
    // Preparing takes longer than what is measured.
    group.sample_size(20);
    for case in &hot::CASES {
        group.throughput(Throughput::Elements(case.operations));
        group.bench_function(case.name, |bencher| {
            let run = |mut bench| {
                (case.run)(&mut bench);
                bench
            };
            bencher.iter_batched(case.prepare, run, BatchSize::PerIteration);
        });
    }
    group.finish();
}

criterion_group!(benches, hot_paths);
criterion_main!(benches);
