//! A strict reader of the OpenMetrics text format: what a scraper might forgive is an error here.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail, ensure};

/// One scrape.
#[derive(Debug, Default)]
pub struct Page {
    /// Metric families by name.
    pub families: BTreeMap<String, Family>,
}

/// All series of one metric.
#[derive(Debug, Default)]
pub struct Family {
    /// What it says in words.
    pub help: String,
    /// `counter`, `gauge`, `histogram` or `info`.
    pub kind: String,
    /// Its unit, which its name ends with.
    pub unit: Option<String>,
    /// Its samples in their order.
    pub samples: Vec<Sample>,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// The family's name and the suffix that belongs to its kind.
    pub name: String,
    /// Labels by name.
    pub labels: BTreeMap<String, String>,
    /// The value, a number.
    pub value: String,
}

impl Page {
    /// Reads a scrape.
    ///
    /// # Errors
    /// The first line that is not as the format asks, and why.
    pub fn parse(text: &str) -> Result<Self> {
        let lines = text.strip_suffix("# EOF\n").context("it does not end with `# EOF`")?;
        let (mut page, mut current, mut seen) = (Self::default(), String::new(), BTreeSet::new());
        for line in lines.split_terminator('\n') {
            page.read(line, &mut current, &mut seen).with_context(|| format!("line `{line}`"))?;
        }
        for (name, family) in &page.families {
            family.check(name).with_context(|| format!("metric {name}"))?;
        }
        Ok(page)
    }

    /// The sum over all samples of this name that have these labels.
    ///
    /// # Errors
    /// There is none.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Result<f64> {
        let has = |sample: &&Sample| {
            sample.name == name
                && labels.iter().all(|(key, value)| sample.labels.get(*key).is_some_and(|label| label == value))
        };
        let found: Result<Vec<_>> = self.samples().filter(has).map(Sample::number).collect();
        let found = found?;
        ensure!(!found.is_empty(), "no sample {name}{labels:?}");
        Ok(found.iter().sum())
    }

    /// As [`Page::value`], of what counts things.
    ///
    /// # Errors
    /// There is none, or it is no whole number.
    pub fn count(&self, name: &str, labels: &[(&str, &str)]) -> Result<u64> {
        let sum = self.value(name, labels)?.to_string();
        sum.parse().with_context(|| format!("{name}{labels:?} is {sum}"))
    }

    /// All samples of all families.
    pub fn samples(&self) -> impl Iterator<Item = &Sample> {
        self.families.values().flat_map(|family| &family.samples)
    }

    fn read(&mut self, line: &str, current: &mut String, seen: &mut BTreeSet<String>) -> Result<()> {
        if let Some(comment) = line.strip_prefix("# ") {
            let (keyword, rest) = comment.split_once(' ').context("a comment is HELP, TYPE or UNIT")?;
            let (name, text) = rest.split_once(' ').context("it describes nothing")?;
            if name != current {
                ensure!(is_name(name), "`{name}` is no name");
                ensure!(!self.families.contains_key(name), "a metric's lines stand together");
                name.clone_into(current);
            }
            let family = self.families.entry(name.to_owned()).or_default();
            ensure!(family.samples.is_empty(), "a metric is described before its samples");
            match keyword {
                "HELP" if family.help.is_empty() => text.clone_into(&mut family.help),
                "TYPE" if family.kind.is_empty() => text.clone_into(&mut family.kind),
                "UNIT" if family.unit.is_none() => family.unit = Some(text.to_owned()),
                _ => bail!("{keyword} is unknown or said twice"),
            }
            return Ok(());
        }
        let sample = sample(line)?;
        let family = self.families.get_mut(current.as_str()).context("a sample of no metric")?;
        let suffixes: &[&str] = match family.kind.as_str() {
            "counter" => &["_total"],
            "gauge" => &[""],
            "histogram" => &["_bucket", "_sum", "_count"],
            "info" => &["_info"],
            kind => bail!("type `{kind}` is unknown"),
        };
        let suffix = sample.name.strip_prefix(current.as_str()).context("a sample of another metric")?;
        ensure!(suffixes.contains(&suffix), "a {} has no {suffix}", family.kind);
        ensure!(seen.insert(format!("{}{:?}", sample.name, sample.labels)), "the series is there twice");
        family.samples.push(sample);
        Ok(())
    }
}

impl Sample {
    fn number(&self) -> Result<f64> {
        number(&self.value)
    }
}

impl Family {
    fn check(&self, name: &str) -> Result<()> {
        ensure!(!self.help.is_empty() && !self.kind.is_empty(), "HELP or TYPE is missing");
        if let Some(unit) = &self.unit {
            ensure!(name.ends_with(&format!("_{unit}")), "its name does not end with its unit {unit}");
        }
        for sample in &self.samples {
            ensure!(self.kind != "counter" || sample.number()? >= 0.0, "a counter is below 0");
            ensure!(sample.labels.contains_key("le") == sample.name.ends_with("_bucket"), "`le` is for buckets");
        }
        if self.kind == "histogram" {
            self.check_buckets()?;
        }
        Ok(())
    }

    /// Buckets rise in bound and in count, and the last one has no bound and counts all.
    fn check_buckets(&self) -> Result<()> {
        for count in self.samples.iter().filter(|sample| sample.name.ends_with("_count")) {
            let of_series = |sample: &&Sample| {
                let mut labels = sample.labels.clone();
                labels.remove("le").is_some() && labels == count.labels
            };
            let buckets: Result<Vec<_>> = self
                .samples
                .iter()
                .filter(of_series)
                .map(|sample| Ok((number(&sample.labels["le"])?, sample.number()?)))
                .collect();
            let buckets = buckets?;
            let rises = |pair: &[(f64, f64)]| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1;
            ensure!(buckets.windows(2).all(rises), "buckets do not rise: {buckets:?}");
            ensure!(buckets.last() == Some(&(f64::INFINITY, count.number()?)), "the last bucket does not count all");
        }
        Ok(())
    }
}

/// `name value` or `name{label="text",…} value`.
fn sample(line: &str) -> Result<Sample> {
    let (name, rest) = line.split_at(line.find(['{', ' ']).context("a sample has a value")?);
    ensure!(is_name(name), "`{name}` is no name");
    let (mut labels, mut rest) = (BTreeMap::new(), rest);
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        loop {
            let (key, after) = rest.split_once("=\"").context("a label has a value in quotes")?;
            ensure!(is_name(key) && !key.contains(':'), "`{key}` is no label");
            let (value, after) = quoted(after)?;
            ensure!(labels.insert(key.to_owned(), value).is_none(), "label {key} is there twice");
            match after.strip_prefix(',') {
                Some(next) => rest = next,
                None => break rest = after.strip_prefix('}').context("labels do not end")?,
            }
        }
    }
    let value = rest.strip_prefix(' ').context("one space is before the value")?;
    number(value)?;
    Ok(Sample { name: name.to_owned(), labels, value: value.to_owned() })
}

/// Text up to its closing quote, and what follows.
fn quoted(text: &str) -> Result<(String, &str)> {
    let (mut value, mut characters) = (String::new(), text.char_indices());
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Ok((value, &text[at + 1..])),
            '\\' => match characters.next() {
                Some((_, 'n')) => value.push('\n'),
                Some((_, escaped @ ('\\' | '"'))) => value.push(escaped),
                _ => bail!("an escape is unknown"),
            },
            other => value.push(other),
        }
    }
    bail!("a quote is missing")
}

fn number(text: &str) -> Result<f64> {
    if text == "+Inf" {
        return Ok(f64::INFINITY);
    }
    ensure!(text.starts_with(|c: char| c.is_ascii_digit() || c == '-'), "`{text}` is no number");
    Ok(text.parse()?)
}

fn is_name(text: &str) -> bool {
    let starts = |c: char| c.is_ascii_alphabetic() || c == '_' || c == ':';
    text.starts_with(starts) && text.chars().all(|c| starts(c) || c.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "# HELP a_seconds text\n# TYPE a_seconds histogram\n# UNIT a_seconds seconds\n\
        a_seconds_sum{g=\"x\\\"y\"} 1.5\na_seconds_count{g=\"x\\\"y\"} 3\n\
        a_seconds_bucket{g=\"x\\\"y\",le=\"0.5\"} 1\na_seconds_bucket{g=\"x\\\"y\",le=\"+Inf\"} 3\n\
        # HELP b text\n# TYPE b counter\nb_total 7\n# EOF\n";

    #[test]
    fn a_page_is_read() {
        let page = Page::parse(GOOD).unwrap();
        assert_eq!(page.count("a_seconds_bucket", &[("g", "x\"y"), ("le", "0.5")]).unwrap(), 1);
        assert_eq!(page.count("b_total", &[]).unwrap(), 7);
        assert!(page.value("c", &[]).is_err() && page.count("a_seconds_sum", &[]).is_err());
    }

    #[test]
    fn what_the_format_forbids_is_refused() {
        let broken = [
            ("# EOF\n", ""),
            ("b_total 7", "b 7"),
            ("b_total 7", "b_total  7"),
            ("b_total 7", "b_total 7\nb_total 7"),
            ("b_total 7", "b_total seven"),
            ("b_total 7", "b_total -7"),
            ("b_total 7", "b_total{le=\"1\"} 7"),
            ("b_total 7", "c_total 7"),
            ("# TYPE b counter\n", ""),
            ("# HELP b text\n", ""),
            ("# TYPE b counter\n", "# TYPE b counter\n# TYPE b counter\n"),
            ("# UNIT a_seconds seconds", "# UNIT a_seconds bytes"),
            ("le=\"0.5\"} 1", "le=\"0.5\"} 4"),
            ("le=\"+Inf\"} 3", "le=\"+Inf\"} 2"),
            ("le=\"+Inf\"} 3", "le=\"9\"} 3"),
            ("_sum{g=\"x", "_sum{g=\"\\x"),
        ];
        for (part, instead) in broken {
            let text = GOOD.replace(part, instead);
            assert_ne!(text, GOOD, "{part}");
            assert!(Page::parse(&text).is_err(), "{instead:?} in place of {part:?} was read");
        }
    }
}
