//! The shim and the cut themselves, with programs that everybody knows.
#![cfg(target_os = "linux")]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use sluicegate_tests::power_cut::{PowerCut, Syncs};

/// Runs a shell script in the data directory; `sync FILE` is an fsync of a file or directory.
fn run(disk: &PowerCut, syncs: Syncs, script: &str) -> Result<()> {
    let mut shell = Command::new("sh");
    let status = shell.args(["-ec", script]).current_dir(disk.data_dir()).envs(disk.environment(syncs)).status()?;
    ensure!(status.success(), "{script}: {status}");
    Ok(())
}

fn files(dir: &Path, inside: &str, found: &mut BTreeMap<String, String>) -> Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let name = format!("{inside}{}", entry.file_name().display());
        match entry.file_type()?.is_dir() {
            true => files(&entry.path(), &format!("{name}/"), found)?,
            false => drop(found.insert(name, std::fs::read_to_string(entry.path())?)),
        }
    }
    Ok(())
}

fn left(disk: &PowerCut) -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    files(disk.data_dir(), "", &mut found)?;
    Ok(found)
}

fn expected(files: &[(&str, &str)]) -> BTreeMap<String, String> {
    files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
}

#[test]
fn a_power_cut_leaves_what_was_synced() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let disk = PowerCut::new(folder.path())?;
    let script = "
        printf synced > log; printf current > tail; printf old > current; mkdir store; printf table > store/1
        sync log; sync -d tail; sync current; sync store/1; sync store; sync .
        printf ' and not' >> log; printf new > fresh; sync fresh
        printf newer > next; sync next; mv next current
        rm tail; printf more > store/2; printf unsynced > store/3; sync store; mv log log.old";
    run(&disk, Syncs::Honest, script)?;
    let lost = disk.cut(|synced, _| synced)?;
    assert_eq!(
        left(&disk)?,
        expected(&[
            ("current", "old"),
            ("log", "synced"),
            ("store/1", "table"),
            ("store/2", ""),
            ("store/3", ""),
            ("tail", "current")
        ])
    );
    assert_eq!((lost.bytes, lost.names), (" and not".len() as u64 + "more".len() as u64 + "unsynced".len() as u64, 2));
    Ok(())
}

#[test]
fn what_was_written_later_may_survive_in_part() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let disk = PowerCut::new(folder.path())?;
    run(&disk, Syncs::Honest, "printf synced > log; sync log; sync .; printf ' and torn' >> log")?;
    disk.cut(u64::midpoint)?;
    assert_eq!(left(&disk)?, expected(&[("log", "synced and")]));
    Ok(())
}

#[test]
fn syncs_that_lie_keep_nothing_but_what_was_there_before() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let disk = PowerCut::new(folder.path())?;
    run(&disk, Syncs::Honest, "printf before > log; sync log; sync .")?;
    disk.cut(|synced, _| synced)?;
    run(&disk, Syncs::Lie, "printf ' after' >> log; sync log; printf new > fresh; sync fresh; sync .; rm log; sync .")?;
    disk.cut(|synced, _| synced)?;
    assert_eq!(left(&disk)?, expected(&[("log", "before")]));
    Ok(())
}
