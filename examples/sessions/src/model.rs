//! The model: it remembers nothing, and says the same whenever it is asked the same.

use std::time::Duration;

use crate::conversation::Turn;

/// How long one token takes.
pub(crate) const PACE: Duration = Duration::from_millis(20);

/// The answer's tokens to what is asked now, in a conversation that had these turns before.
pub(crate) fn answer(before: &[Turn], question: &str) -> Vec<String> {
    let said = match before.last() {
        None => "This is the first thing that you ask me, so there is nothing to look back on.".to_owned(),
        Some(last) => format!(
            "Before that you asked me {} thing(s), the last of them \"{}\", to which I said {} words.",
            before.len(),
            last.question,
            last.answer.len()
        ),
    };
    let text = format!("You ask \"{question}\". {said} And now I stream word by word, in no hurry, whoever runs me.");
    text.split_inclusive(' ').map(str::to_owned).collect()
}
