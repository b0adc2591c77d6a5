//! `sluice request`, `sluice resume` and `sluice cancel`.

use anyhow::Result;
use serde_json::Value;

use super::{World, next};

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_asks_comes_back_for_the_reply_and_cancels() -> Result<()> {
    let world = World::start().await?;
    let sluice = |arguments: &[&str]| -> Result<(Option<i32>, String, String)> {
        let out = world.broker.sluice(arguments)?;
        Ok((out.status.code(), String::from_utf8(out.stdout)?, String::from_utf8(out.stderr)?))
    };
    let ask = ["request", "agents", "work/1", "--body", "what?", "--id", "q-1", "--as", "shell", "--timeout", "1ms"];
    let (code, _, late) = sluice(&ask)?;
    assert_eq!(code, Some(1), "{late}");
    let lines: Vec<_> = late.lines().collect();
    assert_eq!(lines[0], "sluice: later: sluice resume agents q-1 --as shell");
    let cancel = lines[1].strip_prefix("sluice: or never: sluice ").unwrap_or_default().replace('\'', "");
    assert_eq!(lines[2], "sluice: no reply to request q-1 in time; it goes on, and can be resumed");
    let mut worker = world.worker().await?;
    let delivery = next(&mut worker).await?;
    let mut reply = delivery.reply_stream()?;
    reply.send("this, ").await?;
    reply.send("or that").await?;
    reply.end().await?;
    delivery.ack().await?;
    let resume = ["resume", "agents", "q-1", "--as", "shell"];
    assert_eq!(sluice(&resume)?.1, "this, or that\n");
    assert_eq!(sluice(&[&resume[..], &["--stream"]].concat())?.1, "this, \nor that\n\n");
    let printed: Value = serde_json::from_str(&sluice(&[&resume[..], &["-o", "json"]].concat())?.1)?;
    assert_eq!((&printed["body"], &printed["parts"]), (&"this, or that".into(), &3.into()));
    let cancel: Vec<_> = cancel.split(' ').collect();
    assert_eq!(sluice(&cancel)?.1, "nothing was left of request q-1\n");
    let (code, _, wrong) = sluice(&["request", "agents.replies", "x"])?;
    assert_eq!(code, Some(2));
    assert_eq!(wrong, "sluice: topic `agents.replies` names no topic that replies go to (setting `replies`)\n");
    Ok(())
}
