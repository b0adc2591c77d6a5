//! Text becomes a vector of length 1: by a small model in a Python process, or, without one, by hashing words.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// The model: a text in on each line, a vector out.
const PROGRAM: &str = include_str!("minilm.py");
/// Dimensions of a vector of hashed words.
const HASHED: usize = 256;

/// A vector of length 1.
pub(crate) type Vector = Vec<f32>;

/// What embeds.
pub(crate) enum Embedder {
    /// all-MiniLM-L6-v2, by this Python; the process is started when it is needed, and again when it died.
    MiniLm(PathBuf, Option<Box<Model>>),
    /// Counts words, each in a place that its hash chooses. It knows nothing of what they mean.
    Hashing,
}

/// A process with the model.
pub(crate) struct Model {
    _process: Child,
    texts: ChildStdin,
    vectors: Lines<BufReader<ChildStdout>>,
}

impl Embedder {
    /// With the model, if there is a Python that has its packages.
    pub(crate) fn new(python: Option<PathBuf>) -> Self {
        python.map_or(Self::Hashing, |python| Self::MiniLm(python, None))
    }

    /// Vectors of one embedder say nothing beside those of another.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::MiniLm(..) => "all-MiniLM-L6-v2",
            Self::Hashing => "hashed words",
        }
    }

    pub(crate) async fn embed(&mut self, text: &str) -> Result<Vector> {
        let Self::MiniLm(python, model) = self else { return Ok(hashed(text)) };
        let mut asked = match model.take() {
            Some(model) => model,
            None => Box::new(Model::start(python)?),
        };
        let vector = asked.embed(text).await?;
        // One that failed is not asked again.
        *model = Some(asked);
        Ok(vector)
    }

    /// Sentences of the model's own documentation are as near to each other as it says; of hashed words, in the same order.
    pub(crate) async fn check(&mut self) -> Result<()> {
        let happy = self.embed("That is a happy person").await?;
        let mut near = Vec::new();
        for text in ["That is a very happy person", "That is a happy dog", "Today is a sunny day"] {
            near.push(nearness(&happy, &self.embed(text).await?));
        }
        ensure!(near[0] > near[1] && near[1] > near[2], "{} does not tell like from unlike: {near:?}", self.name());
        if let Self::MiniLm(..) = self {
            let published = [0.943, 0.695, 0.257];
            let differs = near.iter().zip(published).any(|(is, should)| (is - should).abs() > 0.002);
            ensure!(!differs, "the model is computed wrongly: {near:?}, not {published:?}");
        }
        Ok(())
    }
}

impl Model {
    fn start(python: &PathBuf) -> Result<Self> {
        let mut command = Command::new(python);
        command.args(["-c", PROGRAM]).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn().with_context(|| format!("cannot start {}", python.display()))?;
        let texts = process.stdin.take().context("stdin is piped")?;
        let vectors = BufReader::new(process.stdout.take().context("stdout is piped")?).lines();
        Ok(Self { _process: process, texts, vectors })
    }

    async fn embed(&mut self, text: &str) -> Result<Vector> {
        let line = format!("{}\n", serde_json::to_string(text)?);
        self.texts.write_all(line.as_bytes()).await?;
        self.texts.flush().await?;
        let vector = self.vectors.next_line().await?.context("the model's process ended")?;
        Ok(serde_json::from_str(&vector)?)
    }
}

/// From 1, the same direction, to -1.
pub(crate) fn nearness(one: &[f32], other: &[f32]) -> f32 {
    one.iter().zip(other).map(|(one, other)| one * other).sum()
}

fn hashed(text: &str) -> Vector {
    let mut vector = vec![0.0_f32; HASHED];
    for word in text.split(|letter: char| !letter.is_alphanumeric()).filter(|word| !word.is_empty()) {
        // It is without a seed: the same in each process.
        let mut hasher = DefaultHasher::new();
        word.to_lowercase().hash(&mut hasher);
        let hash = hasher.finish();
        let place = usize::try_from(hash % HASHED as u64).expect("it is below the number of dimensions");
        vector[place] += if hash >> 63 == 0 { 1.0 } else { -1.0 };
    }
    let length = nearness(&vector, &vector).sqrt().max(f32::MIN_POSITIVE);
    vector.iter().map(|number| number / length).collect()
}
