//! What answers. Put yours here: a process on a GPU, or somebody else's API.

use futures_util::stream::{self, BoxStream, StreamExt as _};

use crate::chat::{Role, Turn};

/// A model. It may take as long as it likes: the lease is extended meanwhile.
pub(crate) trait Model: Send + Sync {
    /// What callers call it.
    fn name(&self) -> &'static str;

    /// The answer, token by token. One that says the same whenever it is asked the same goes on where a worker died; of one that does
    /// not, the caller is told that the answer was interrupted.
    fn answer(&self, messages: &[Turn]) -> BoxStream<'static, String>;
}

/// The models that come with this example. They are small, and say the same each time.
pub(crate) fn shipped() -> Vec<Box<dyn Model>> {
    vec![Box::new(Parrot), Box::new(Counter)]
}

/// Says the user's last message again, word by word.
struct Parrot;

/// Counts from 1, for as many tokens as it may.
struct Counter;

impl Model for Parrot {
    fn name(&self) -> &'static str {
        "parrot-1"
    }

    fn answer(&self, messages: &[Turn]) -> BoxStream<'static, String> {
        let last = messages.iter().rev().find(|turn| turn.role == Role::User).map(Turn::text).unwrap_or_default();
        let words: Vec<_> = last.split_inclusive(' ').map(str::to_owned).collect();
        stream::iter(words).boxed()
    }
}

impl Model for Counter {
    fn name(&self) -> &'static str {
        "counter-1"
    }

    fn answer(&self, _: &[Turn]) -> BoxStream<'static, String> {
        stream::iter(1_u64..).map(|number| format!("{number} ")).boxed()
    }
}
