//! Moments at which an agent may die. A program of yours has none of this: here the parent is told of each, and kills the agent at some.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use anyhow::bail;

/// Long enough to be killed in.
const A_MOMENT: Duration = Duration::from_millis(40);

/// What an agent has just done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Moment {
    /// The planner has a task.
    Planning,
    /// The planner has made all requests.
    Asked,
    /// The planner has all replies.
    Collected,
    /// The planner has published the result, and did not settle the task yet.
    Published,
    /// A worker has a request.
    Working,
    /// A worker has replied, and did not settle the request yet.
    Replied,
}

const ALL: [(Moment, &str); 6] = [
    (Moment::Planning, "planning"),
    (Moment::Asked, "asked"),
    (Moment::Collected, "collected"),
    (Moment::Published, "published"),
    (Moment::Working, "working"),
    (Moment::Replied, "replied"),
];

/// Says so on stdout, which is the parent's, and lingers.
pub(crate) async fn reached(moment: Moment, what: &str) {
    println!("{moment} {what}");
    tokio::time::sleep(A_MOMENT).await;
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = ALL.iter().find(|(moment, _)| moment == self);
        f.write_str(named.expect("all have names").1)
    }
}

impl FromStr for Moment {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        match ALL.iter().find(|(_, name)| *name == text) {
            Some((moment, _)) => Ok(*moment),
            None => bail!("`{text}` is no moment"),
        }
    }
}
