//! Recordings, which say everything that a simulation needs.
//!
//! A message's service time, measured cost and failures are those of its outcomes; each attempt takes as long as the last one did. A message that
//! still waited or was in work when the recording ended gets those of another one, drawn from its tenant's, or from all if that has
//! none. Deliveries that came back unused are not repeated, and outcomes of messages that the recording does not know are left out.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read as _};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use sluicegate_protocol::recording::{
    Arrival, End, HEADER_BYTES_MAX, Header, LINE_BYTES_MAX, Line, Lite, Outcome, WorkResult,
};
use sluicegate_protocol::{LiteId, Offset, TenantId};
use sluicegate_scheduler::simulation::{Draws, Group, Job, Named, Names};

use super::{Choices, MESSAGES_MAX, Traffic};

/// Whether a file begins as a recording does.
///
/// # Errors
/// It cannot be read.
pub(super) fn is_recording(path: &Path) -> anyhow::Result<bool> {
    let mut start = Vec::new();
    let file = File::open(path).with_context(|| format!("cannot open the trace {}", path.display()))?;
    file.take(64).read_to_end(&mut start).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(start.trim_ascii_start().starts_with(b"{"))
}

/// Reads a recording.
///
/// # Errors
/// The file cannot be read, or a line of it is not what it should be.
pub(super) fn read(path: &Path, choices: Choices) -> anyhow::Result<Traffic> {
    let file = File::open(path).with_context(|| format!("cannot open the recording {}", path.display()))?;
    parse(BufReader::new(file), &path.display().to_string(), choices)
}

fn parse(input: impl BufRead, file: &str, choices: Choices) -> anyhow::Result<Traffic> {
    let mut lines = Lines { input, file, line: 0 };
    let header: Header =
        lines.next("the header of a recording", HEADER_BYTES_MAX)?.with_context(|| format!("{file} is empty"))?;
    header.check().map_err(|problem| lines.at(&problem))?;
    let mut reading = Reading::default();
    while let Some(line) = lines.next::<Line>("a line of a recording", LINE_BYTES_MAX)? {
        line.check().map_err(|problem| lines.at(&problem))?;
        reading.add(line).map_err(|problem| lines.at(&problem))?;
    }
    reading.finish(header, file, choices)
}

struct Lines<'a, R> {
    input: R,
    file: &'a str,
    line: u64,
}

impl<R: BufRead> Lines<'_, R> {
    /// The next line that is not blank, of at most so many bytes.
    fn next<T: serde::de::DeserializeOwned>(&mut self, expected: &str, bytes_max: usize) -> anyhow::Result<Option<T>> {
        loop {
            let mut bytes = Vec::new();
            let max = u64::try_from(bytes_max).expect("a line is short");
            let read = (&mut self.input).take(max + 1).read_until(b'\n', &mut bytes);
            if read.with_context(|| format!("cannot read {}", self.file))? == 0 {
                return Ok(None);
            }
            self.line += 1;
            if bytes.len() > bytes_max {
                return Err(self.at(&format!("a line of more than {bytes_max} bytes")));
            }
            if !bytes.trim_ascii().is_empty() {
                let parsed = serde_json::from_slice(&bytes);
                return parsed.map(Some).map_err(|error| self.at(&format!("expected {expected}: {}", plain(&error))));
            }
        }
    }

    fn at(&self, problem: &dyn std::fmt::Display) -> anyhow::Error {
        anyhow!("{}:{}: {problem}", self.file, self.line)
    }
}

/// What is wrong with JSON of one line: its column alone, since the line of the file is known better.
fn plain(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    format!("{} at column {}", text.strip_suffix(&place).unwrap_or(&text), error.column())
}

/// What was read so far.
#[derive(Default)]
struct Reading {
    names: Names,
    lites: HashMap<LiteId, (LiteId, TenantId)>,
    jobs: Vec<Job>,
    /// Of each job.
    offsets: Vec<Offset>,
    /// The latest time of an arrival.
    last_at: Duration,
    by_message: HashMap<(LiteId, Offset), usize>,
    /// Messages whose work is known.
    measured: Vec<bool>,
    unknown_outcomes: u64,
    left_out: u64,
    end: Option<End>,
}

impl Reading {
    fn add(&mut self, line: Line) -> anyhow::Result<()> {
        if self.end.is_some() {
            bail!("a line after the end of the recording");
        }
        match line {
            Line::Lite(named) => self.lite(named),
            Line::Arrival(arrival) => self.arrival(arrival),
            Line::Outcome(outcome) => {
                self.outcome(&outcome);
                Ok(())
            }
            Line::End(end) => {
                self.end = Some(end);
                Ok(())
            }
        }
    }

    fn lite(&mut self, Lite { id, name, tenant, labels }: Lite) -> anyhow::Result<()> {
        let tenant = self.names.tenant(&tenant);
        let own = self.names.next_lites(1);
        if !labels.is_empty() {
            self.names.label_lites(own, 1, Named { name, labels: labels.into_iter().collect() });
        }
        match self.lites.insert(id, (own, tenant)) {
            Some(_) => bail!("lite topic {id} was named before"),
            None => Ok(()),
        }
    }

    fn arrival(&mut self, arrival: Arrival) -> anyhow::Result<()> {
        let Arrival { at_us, lite, offset, cost, priority, expires_in_us, deliver_in_us, numbers } = arrival;
        let Some(&(own, tenant)) = self.lites.get(&lite) else {
            bail!("a message of lite topic {lite}, which no line before names");
        };
        if self.jobs.len() == MESSAGES_MAX {
            self.left_out += 1;
            return Ok(());
        }
        let at = Duration::from_micros(at_us);
        // What waited when the recording started may be told at any moment.
        if !at.is_zero() && at < self.last_at {
            bail!("out of time order: at {at_us} us, after a message at {} us", self.last_at.as_micros());
        }
        self.last_at = self.last_at.max(at);
        let mut values = Vec::new();
        for (name, value) in numbers {
            let place = self.names.property(&name);
            values.resize(values.len().max(place + 1), None);
            values[place] = Some(value);
        }
        let job = Job {
            priority,
            cost,
            measured: cost,
            deliver_after: deliver_in_us.map(Duration::from_micros),
            expires_after: expires_in_us.map(Duration::from_micros),
            numbers: values.into(),
            ..Job::new(at, tenant, own)
        };
        if self.by_message.insert((lite, offset), self.jobs.len()).is_some() {
            bail!("message {offset} of lite topic {lite} came before");
        }
        self.jobs.push(job);
        self.offsets.push(offset);
        self.measured.push(false);
        Ok(())
    }

    fn outcome(&mut self, outcome: &Outcome) {
        let Some(&row) = self.by_message.get(&(outcome.lite, outcome.offset)) else {
            self.unknown_outcomes += 1;
            return;
        };
        if outcome.result == WorkResult::Returned {
            return;
        }
        let job = &mut self.jobs[row];
        self.measured[row] = true;
        job.service = Duration::from_micros(outcome.service_us);
        job.measured = outcome.cost;
        job.retry_after = outcome.retry_after_us.map(Duration::from_micros).or(job.retry_after);
        if outcome.result != WorkResult::Done {
            job.failures = job.failures.saturating_add(1);
        }
    }

    fn finish(mut self, header: Header, file: &str, choices: Choices) -> anyhow::Result<Traffic> {
        if self.jobs.is_empty() {
            bail!("{file} has no messages");
        }
        let unmeasured =
            self.measure_the_rest(choices.seed).with_context(|| format!("{file} has no outcome of a message"))?;
        for (tenant, labels) in &header.settings.tenant_labels {
            let tenant = self.names.tenant(tenant);
            for (key, value) in labels {
                self.names.label_tenant(tenant, key, value);
            }
        }
        self.bring_in_order();
        let Header { broker, topic, group, settings, sessions, slots, one_in, policy, .. } = header;
        let decided =
            policy.map_or("fair scheduling".into(), |policy| format!("{} ({:.16})", policy.name, policy.digest));
        let mut notes = vec![format!("recorded by broker {broker}, where {decided} decided")];
        if unmeasured > 0 {
            notes.push(format!(
                "{unmeasured} messages were not done when it ended; their work is drawn from the others'"
            ));
        }
        if one_in > 1 {
            notes.push(format!(
                "one in {one_in} lite topics was recorded, the room and the quotas are those of the whole group"
            ));
        }
        if self.unknown_outcomes > 0 {
            notes.push(format!("{} outcomes of messages that it does not know are left out", self.unknown_outcomes));
        }
        if self.left_out > 0 {
            notes.push(format!("{} messages beyond the first {MESSAGES_MAX} are left out", self.left_out));
        }
        match &self.end {
            Some(End { lost: 0, .. }) => {}
            Some(End { lost, .. }) => {
                notes.push(format!("the broker could not keep up with {lost} lines, which are missing"));
            }
            None => notes.push("the recording was cut off: it has no end".into()),
        }
        let name = Path::new(file).file_name().map_or(file.into(), |name| name.to_string_lossy());
        Ok(Traffic {
            source: format!("recording {name} of group {group} on topic {topic}"),
            names: self.names,
            jobs: self.jobs,
            group: Group { settings, sessions: sessions.max(1), slots: slots.max(1), seed: choices.seed },
            notes,
        })
    }

    /// What waited comes first, each lite topic's in its order.
    fn bring_in_order(&mut self) {
        let mut rows: Vec<_> = self.jobs.drain(..).zip(self.offsets.drain(..)).collect();
        rows.sort_by_key(|(job, offset)| (job.at, if job.at.is_zero() { *offset } else { Offset(0) }));
        self.jobs.extend(rows.into_iter().map(|(job, _)| job));
    }

    /// Gives messages whose work is not known that of others, and says to how many; none if no message's is known.
    fn measure_the_rest(&mut self, seed: u64) -> Option<u64> {
        let mut of_tenant: HashMap<_, Vec<usize>> = HashMap::new();
        let known: Vec<usize> = (0..self.jobs.len()).filter(|&row| self.measured[row]).collect();
        for &row in &known {
            of_tenant.entry(self.jobs[row].tenant).or_default().push(row);
        }
        let mut draws = Draws::new(seed);
        let mut measured = 0;
        for row in (0..self.jobs.len()).filter(|&row| !self.measured[row]).collect::<Vec<_>>() {
            let others = of_tenant.get(&self.jobs[row].tenant).unwrap_or(&known);
            let last = others.len().checked_sub(1)?;
            let like = &self.jobs[others[usize::try_from(draws.up_to(last as u64)).ok()?]];
            (self.jobs[row].service, measured) = (like.service, measured + 1);
        }
        Some(measured)
    }
}

#[cfg(test)]
mod tests {
    use sluicegate_protocol::recording::FORMAT;

    use super::*;

    const CHOICES: Choices = Choices { seed: 1, tenants: 1 };

    fn header() -> String {
        format!(
            r#"{{"format":"{FORMAT}","version":1,"broker":"0.1.0","topic":"chat","group":"workers","settings":{{}},"started_at":1700000000000000,"sessions":2,"slots":4}}"#
        )
    }

    fn parsed(lines: &[&str]) -> anyhow::Result<Traffic> {
        parse(format!("{}\n{}\n", header(), lines.join("\n")).as_bytes(), "x.jsonl", CHOICES)
    }

    const LITE: &str = r#"{"lite":{"id":7,"name":"acme/7","tenant":"acme","labels":{"class":"batch"}}}"#;
    const FIRST: &str =
        r#"{"arrival":{"at_us":0,"lite":7,"offset":3,"cost":120,"priority":4,"numbers":{"tokens":120}}}"#;
    const SECOND: &str = r#"{"arrival":{"at_us":2000000,"lite":7,"offset":4,"cost":10,"priority":9,"expires_in_us":5000,"deliver_in_us":2000}}"#;
    const FAILED: &str =
        r#"{"outcome":{"at_us":900000,"lite":7,"offset":3,"attempt":1,"service_us":100,"cost":50,"result":"retried"}}"#;
    const DONE: &str = r#"{"outcome":{"at_us":2900000,"lite":7,"offset":3,"attempt":2,"service_us":300000,"cost":95,"result":"done"}}"#;
    const END: &str = r#"{"end":{"at_us":3000000,"lost":0}}"#;

    #[test]
    fn a_message_has_the_work_that_was_measured_or_that_of_another() {
        let traffic = parsed(&[LITE, FIRST, FAILED, SECOND, DONE, END]).unwrap();
        let tenant = traffic.names.find_tenant("acme").unwrap();
        let service = Duration::from_millis(300);
        let first = Job {
            cost: 120,
            measured: 95,
            service,
            failures: 1,
            numbers: [Some(120)].into(),
            ..Job::new(Duration::ZERO, tenant, LiteId(1))
        };
        let second = Job {
            cost: 10,
            measured: 10,
            priority: 9,
            service,
            deliver_after: Some(Duration::from_millis(2)),
            expires_after: Some(Duration::from_millis(5)),
            ..Job::new(Duration::from_secs(2), tenant, LiteId(1))
        };
        assert_eq!(traffic.jobs, [first, second]);
        assert_eq!(traffic.names.of_lite(LiteId(1)).unwrap().labels, [("class".into(), "batch".into())]);
        assert_eq!((traffic.group.sessions, traffic.group.slots), (2, 4));
        assert_eq!(traffic.source, "recording x.jsonl of group workers on topic chat");
        assert_eq!(traffic.notes.len(), 2, "{:?}", traffic.notes);
    }

    #[test]
    fn what_waited_comes_first_wherever_it_is_told() {
        let before = FIRST.replace("\"offset\":3", "\"offset\":2").replace("\"cost\":120", "\"cost\":7");
        let traffic = parsed(&[LITE, SECOND, FIRST, DONE, &before, END]).unwrap();
        let told: Vec<_> = traffic.jobs.iter().map(|job| (job.at.as_secs(), job.cost, job.measured)).collect();
        assert_eq!(told, [(0, 7, 7), (0, 120, 95), (2, 10, 10)]);
    }

    #[test]
    fn a_line_that_does_not_fit_is_named_with_what_was_expected() {
        let error = |lines: &[&str]| parsed(lines).unwrap_err().to_string();
        assert_eq!(error(&[LITE, LITE]), "x.jsonl:3: lite topic 7 was named before");
        assert_eq!(error(&[FIRST]), "x.jsonl:2: a message of lite topic 7, which no line before names");
        assert_eq!(error(&[LITE, FIRST, FIRST]), "x.jsonl:4: message 3 of lite topic 7 came before");
        let late = FIRST.replace("\"at_us\":0", "\"at_us\":7");
        assert_eq!(
            error(&[LITE, SECOND, &late]),
            "x.jsonl:4: out of time order: at 7 us, after a message at 2000000 us"
        );
        assert_eq!(error(&[END, LITE]), "x.jsonl:3: a line after the end of the recording");
        assert_eq!(error(&[LITE]), "x.jsonl has no messages");
        assert_eq!(error(&[LITE, FIRST]), "x.jsonl has no outcome of a message");
        let (unknown, bad) = (r#"{"surprise":{}}"#, r#"{"end":{"at_us":"soon"}}"#);
        let expected = "x.jsonl:2: expected a line of a recording: ";
        assert_eq!(
            error(&[unknown]),
            format!(
                "{expected}unknown variant `surprise`, expected one of `lite`, `arrival`, `outcome`, `end` at column 11"
            )
        );
        assert!(error(&[bad]).starts_with(&format!("{expected}invalid type: string \"soon\"")), "{}", error(&[bad]));
        let other = parse(&b"{\"format\":\"x\"}"[..], "x.jsonl", CHOICES).unwrap_err().to_string();
        assert_eq!(other, "x.jsonl:1: expected the header of a recording: missing field `version` at column 14");
    }

    #[test]
    fn what_is_missing_is_said() {
        let unknown = DONE.replace("\"offset\":3", "\"offset\":9");
        let notes = parsed(&[LITE, FIRST, DONE, &unknown]).unwrap().notes;
        insta::assert_snapshot!(notes.join("\n"), @r"
        recorded by broker 0.1.0, where fair scheduling decided
        1 outcomes of messages that it does not know are left out
        the recording was cut off: it has no end
        ");
    }
}
