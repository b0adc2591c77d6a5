//! A small recording, simulated.

use std::fmt::Write as _;
use std::path::Path;

use clap::Parser;

use super::*;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    simulate: Simulate,
}

fn simulate(arguments: &[&str]) -> Simulate {
    Line::parse_from(["simulate"].iter().chain(arguments)).simulate
}

/// Two tenants for a minute: one asks for five times what the two slots can do, the other for a tenth of it.
fn recording(folder: &Path) -> String {
    let mut lines = String::from(
        r#"{"format":"sluicegate-recording","version":1,"broker":"0.1.0","topic":"chat","group":"workers","settings":{"quotas":{"cost":"400/s"}},"started_at":0,"sessions":1,"slots":2}"#,
    );
    for (id, tenant) in [(1, "greedy"), (2, "greedy"), (3, "light")] {
        write!(lines, "\n{{\"lite\":{{\"id\":{id},\"name\":\"{tenant}/{id}\",\"tenant\":\"{tenant}\"}}}}").unwrap();
    }
    for nth in 0..600_u64 {
        let (at_us, lite) = (nth * 100_000, if nth % 10 == 0 { 3 } else { 1 + nth % 2 });
        let offset = nth;
        write!(
            lines,
            "\n{{\"arrival\":{{\"at_us\":{at_us},\"lite\":{lite},\"offset\":{offset},\"cost\":100,\"priority\":4}}}}\n{{\"outcome\":{{\"at_us\":{at_us},\"lite\":{lite},\"offset\":{offset},\"attempt\":1,\"service_us\":400000,\"cost\":{},\"result\":\"done\"}}}}",
            80 + nth % 41
        )
        .unwrap();
    }
    let path = folder.join("hour.jsonl");
    std::fs::write(&path, lines + "\n{\"end\":{\"at_us\":60000000,\"lost\":0}}\n").unwrap();
    path.display().to_string()
}

fn simulated(options: &[&str]) -> (Simulated, Traffic, Vec<Run>) {
    let folder = tempfile::tempdir().unwrap();
    let trace = recording(folder.path());
    let simulate = simulate(&[&["--trace", &trace], options].concat());
    let mut traffic = simulate.traffic().unwrap();
    traffic.source = traffic.source.replace(&folder.path().display().to_string(), "");
    let (simulated, runs) = simulate.simulate(&traffic).unwrap();
    (simulated, traffic, runs)
}

#[test]
fn the_table_shows_who_waited_and_what_was_decided() {
    let (simulated, ..) = simulated(&["--against", "fair", "--against", "fair"]);
    insta::assert_snapshot!(table::text(&simulated));
}

#[test]
fn the_same_again_is_the_same_page() {
    let page = || {
        let (simulated, traffic, runs) = simulated(&["--against", "fair"]);
        page::html(&simulated, &traffic, &runs).unwrap()
    };
    let text = page();
    assert_eq!(text, page());
    let without_namespace = text.replace("http://www.w3.org/2000/svg", "");
    for outside in ["http:", "https:", "<script", "<link", "@import", "url(", "#01FE"] {
        assert!(!without_namespace.contains(outside), "{outside}");
    }
    if let Some(folder) = std::env::var_os("SLUICE_REPORT_DIR") {
        std::fs::write(Path::new(&folder).join("simulation.html"), text).unwrap();
    }
}

#[test]
fn more_room_and_another_quota_change_what_is_decided() {
    let digest = |options: &[&str]| {
        let (simulated, ..) = simulated(&[&["--against", "fair"], options].concat());
        (simulated.runs[0].digest.clone(), simulated.runs[0].waiting)
    };
    let (recorded, waiting) = digest(&[]);
    assert_eq!(digest(&[]).0, recorded);
    for options in [["--slots", "20"], ["--cost", "none"], ["--speed-up", "2"]] {
        assert_ne!(digest(&options).0, recorded, "{options:?}");
    }
    // Two slots are taken by two lite topics; of twenty, three lite topics take three.
    let room = ["--slots", "20", "--cost", "none"];
    assert_ne!(digest(&room).0, digest(&[&room[..], &["--lite-concurrency", "3"]].concat()).0);
    assert!(waiting > 100);
    assert_eq!(digest(&["--slots", "20", "--cost", "none", "--lite-concurrency", "20"]).1, 0);
}

#[test]
fn names_of_who_decides_are_told_apart_and_others_are_refused() {
    assert_eq!("fair".parse(), Ok(Against::Fair));
    assert_eq!("fairest".parse::<Against>(), Err("expected FILE.wasm or FILE.wasm=CONFIG, or `fair`".into()));
    let (simulated, ..) = simulated(&["--against", "fair", "--against", "fair", "--against", "fair"]);
    let labels: Vec<&str> = simulated.runs.iter().map(|run| run.label.as_str()).collect();
    assert_eq!(labels, ["fair", "fair (2)", "fair (3)"]);
    let seven: Vec<&str> = std::iter::repeat_n(["--against", "fair"], 7).flatten().collect();
    let error = simulate(&[&["--trace", "x"], &seven[..]].concat()).run(Format::Text).unwrap_err();
    assert_eq!(error.to_string(), "7 to decide, at most 6 at a time");
}

#[test]
fn an_azure_trace_is_an_hour_of_traffic() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("azure.csv");
    let mut text = String::from("TIMESTAMP,ContextTokens,GeneratedTokens\n");
    for second in 0..60 {
        writeln!(text, "2023-11-16 18:17:{second:02}.5000000,{},{}", 2_000 + second, second % 30).unwrap();
    }
    std::fs::write(&path, text).unwrap();
    let simulate = simulate(&["--trace", &path.display().to_string(), "--against", "fair", "--tenants", "3"]);
    let traffic = simulate.traffic().unwrap();
    let (simulated, _) = simulate.simulate(&traffic).unwrap();
    assert_eq!((simulated.messages, simulated.tenants, simulated.span_seconds, simulated.slots), (60, 3, 60, 1));
    assert_eq!(simulated.source, "recorded trace azure.csv");
}
