//! `sluice read`, and `sluice produce --end`.

use anyhow::Result;
use serde_json::Value;

use super::{World, log};

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_reads_up_to_the_end_that_it_produced() -> Result<()> {
    let world = World::start(log(None)).await?;
    for arguments in [&["--body", "one"][..], &["--body", "two", "--property", "k=v"], &["--end"]] {
        let out = world.broker.sluice(&[&["produce", "t", "user/1"], arguments].concat())?;
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    }
    let text = |arguments: &[&str]| -> Result<String> {
        let out = world.broker.sluice(&[&["read"], arguments].concat())?;
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        Ok(String::from_utf8(out.stdout)?)
    };
    assert_eq!(text(&["t/user/1", "--follow"])?, "0 one\n1 two\n2 \n");
    assert_eq!(text(&["t/user/1", "--from", "latest"])?, "");
    assert_eq!(text(&["t/user/1", "--from", "1", "-n", "1"])?, "1 two\n");
    let lines = text(&["t/user/1", "--from", "last:2", "-o", "json"])?;
    let lines: Vec<Value> = lines.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    assert_eq!((lines.len(), &lines[0]["body"], &lines[0]["properties"]["k"]), (2, &"two".into(), &"v".into()));
    assert_eq!((&lines[0]["end"], &lines[1]["end"]), (&Value::Bool(false), &Value::Bool(true)));
    let id = lines[0]["id"].as_str().unwrap_or_default();
    assert_eq!(text(&["t/user/1", "--from", &format!("after:{id}")])?, "2 \n");
    let directory = tempfile::tempdir()?;
    let target = directory.path().to_str().unwrap_or_default();
    text(&["t/user/1", "-n", "1", "--body-dir", target])?;
    let files: Vec<_> = std::fs::read_dir(directory.path())?.collect::<Result<_, _>>()?;
    assert_eq!(std::fs::read(files[0].path())?, b"one");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_said_in_a_line() -> Result<()> {
    let world = World::start(log(Some(1))).await?;
    world.publish("a", ["one".into(), "two".into()]).await?;
    let mut said = Vec::new();
    for arguments in [
        &["t"][..],
        &["t/"],
        &["t/a", "--from", "noon"],
        &["t/b"],
        &["nothing/a"],
        &["t/a", "--from", "0"],
        &["t/a", "--from", "9"],
        &["t/a", "--from", "after:1-2"],
    ] {
        let out = world.broker.sluice(&[&["read"], arguments].concat())?;
        let line = String::from_utf8(out.stderr)?.lines().next().unwrap_or_default().to_owned();
        said.push(format!("{} {line}", out.status.code().unwrap_or(-1)));
    }
    insta::assert_snapshot!(said.join("\n"), @r"
    2 error: invalid value 't' for '<TOPIC/LITE>': it is TOPIC/LITE
    2 error: invalid value 't/' for '<TOPIC/LITE>': lite topic name is empty
    2 error: invalid value 'noon' for '--from <POSITION>': it is `earliest`, `latest`, an offset, a time, `last:N` or `after:LITE_ID-OFFSET`
    4 sluice: broker refused: unknown_lite: lite topic `b` does not exist in topic `t`
    4 sluice: broker refused: unknown_topic: topic `nothing` does not exist
    4 sluice: the messages before offset 1 are not kept any more
    4 sluice: the position is beyond the end, the next message will have offset 2
    4 sluice: the life of the lite topic is over
    ");
    Ok(())
}
