//! `sluice record`.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::Serialize;
use sluicegate_client::GroupName;
use sluicegate_client::admin::{Admin, RecordGroup};
use sluicegate_protocol::recording::{End, Line};

use crate::connect::Broker;
use crate::exit::WrongInput;
use crate::output::{self, Format};

/// Record a group's traffic: what arrives and what becomes of it, without bodies. Ctrl-C ends it early, and whole. The names of
/// lite topics and tenants, and their labels, are in it.
#[derive(Debug, clap::Args)]
pub(crate) struct Record {
    /// The group. It can have one recording at a time.
    #[arg(long)]
    group: GroupName,
    /// Where the recording goes; `sluice policy simulate --trace FILE` reads it.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// How long, at most a day.
    #[arg(long, default_value_t = RecordGroup::default().seconds, value_name = "N")]
    seconds: u32,
    /// Record one in so many lite topics, each with all that comes to it.
    #[arg(long, default_value_t = 1, value_name = "N")]
    one_in: u32,
    /// End when the recording has so many bytes.
    #[arg(long, default_value_t = RecordGroup::default().bytes_max, value_name = "BYTES")]
    bytes_max: u64,
}

#[derive(Debug, Serialize)]
struct Recorded {
    file: PathBuf,
    bytes: u64,
    lines: u64,
    /// Lines that came too fast; none if the recording was cut off.
    lost: Option<u64>,
}

impl Record {
    pub(crate) async fn run(self, broker: &Broker, format: Format) -> anyhow::Result<()> {
        let Self { group, out, seconds, one_in, bytes_max } = self;
        let wanted = RecordGroup { seconds, one_in, bytes_max };
        wanted.check().map_err(WrongInput)?;
        let recorded = record(&broker.admin()?, &group, &wanted, &out).await?;
        output::print(format, &recorded, describe)
    }
}

async fn record(admin: &Admin, group: &GroupName, wanted: &RecordGroup, out: &Path) -> anyhow::Result<Recorded> {
    let mut recording = admin.record(group, wanted).await?;
    let named = || out.display().to_string();
    let mut file = BufWriter::new(File::create(out).with_context(named)?);
    let (mut bytes, mut lines, mut end) = (0, 0, Vec::new());
    let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
    let mut is_ending = false;
    let broken = loop {
        let chunk = tokio::select! {
            chunk = recording.chunk() => chunk,
            _ = &mut interrupted, if !is_ending => {
                is_ending = true;
                admin.end_recording(group).await?;
                continue;
            }
        };
        let chunk = match chunk {
            Ok(Some(chunk)) => chunk,
            Ok(None) => break None,
            Err(error) => break Some(error),
        };
        file.write_all(&chunk).with_context(named)?;
        bytes += chunk.len() as u64;
        for piece in chunk.split_inclusive(|byte| *byte == b'\n') {
            if end.ends_with(b"\n") {
                end.clear();
            }
            end.extend_from_slice(piece);
            lines += u64::from(piece.ends_with(b"\n"));
        }
    };
    file.into_inner()
        .map_err(std::io::IntoInnerError::into_error)
        .and_then(|file| file.sync_all())
        .with_context(named)?;
    if let Some(error) = broken {
        return Err(anyhow::Error::new(error).context(format!("the recording is cut off; {} has what came", named())));
    }
    let lost = match serde_json::from_slice(&end) {
        Ok(Line::End(End { lost, .. })) => Some(lost),
        _ => None,
    };
    Ok(Recorded { file: out.into(), bytes, lines, lost })
}

fn describe(recorded: &Recorded) -> String {
    let Recorded { file, bytes, lines, lost } = recorded;
    let end = match lost {
        Some(0) => "nothing was lost".into(),
        Some(lost) => format!("{lost} lines were lost: they came faster than they were read"),
        None => "it was cut off".into(),
    };
    format!("{}: {lines} lines, {bytes} bytes, {end}", file.display())
}
