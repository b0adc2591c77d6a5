//! What one tenant publishes, as a few settings.

use std::time::Duration;

use sluicegate_protocol::limits::{COST_DEFAULT, PRIORITY_DEFAULT};

use super::draws::Spread;

/// What one tenant publishes, and what will come of it.
///
/// Unless it says otherwise: from the start on and for ever, in one lite topic, with priority 4 and cost 1, measured as estimated, in
/// no time and without failures.
///
/// ```
/// use std::time::Duration;
/// use sluicegate_scheduler::simulation::{Load, Spread};
///
/// let chats = Load::poisson(Duration::from_millis(20))
///     .lites(500)
///     .cost(100..=4_000)
///     .measured_percent(80..=120)
///     .service(Spread::Exponential(Duration::from_millis(300)));
/// ```
#[derive(Debug, Clone)]
pub struct Load {
    pub(super) arrivals: Arrivals,
    pub(super) starts: Duration,
    pub(super) ends: Duration,
    pub(super) messages: u64,
    pub(super) lites: Lites,
    pub(super) priority: u8,
    pub(super) cost: Spread<u64>,
    pub(super) measured_percent: Spread<u64>,
    pub(super) service: Spread<Duration>,
    pub(super) deliver_after: Option<Duration>,
    pub(super) expires_after: Option<Duration>,
    pub(super) failing_percent: u64,
    pub(super) retry_after: Option<Duration>,
    pub(super) labels: Vec<(String, String)>,
    pub(super) properties: Vec<(String, Spread<u64>)>,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Arrivals {
    Every(Duration),
    Poisson(Duration),
    Bursts { messages: u64, every: Duration },
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Lites {
    /// So many, in turn.
    Shared(u64),
    OnePerMessage,
}

impl Load {
    fn of(arrivals: Arrivals) -> Self {
        Self {
            arrivals,
            starts: Duration::ZERO,
            ends: Duration::MAX,
            messages: u64::MAX,
            lites: Lites::Shared(1),
            priority: PRIORITY_DEFAULT,
            cost: COST_DEFAULT.into(),
            measured_percent: 100.into(),
            service: Duration::ZERO.into(),
            deliver_after: None,
            expires_after: None,
            failing_percent: 0,
            retry_after: None,
            labels: Vec::new(),
            properties: Vec::new(),
        }
    }

    /// One message after the other, with this time between two.
    ///
    /// # Panics
    /// If that is less than a microsecond.
    pub fn every(gap: Duration) -> Self {
        assert!(gap >= Duration::from_micros(1), "messages without time between them never end: use `at_once`");
        Self::of(Arrivals::Every(gap))
    }

    /// Independent messages, with this time between two on average: a Poisson process.
    ///
    /// # Panics
    /// If that is less than a microsecond.
    pub fn poisson(mean_gap: Duration) -> Self {
        Self { arrivals: Arrivals::Poisson(mean_gap), ..Self::every(mean_gap) }
    }

    /// So many messages at once, again and again.
    ///
    /// # Panics
    /// If less than a microsecond is between two bursts, or a burst has no message.
    pub fn bursts(messages: u64, every: Duration) -> Self {
        assert!(messages > 0, "bursts without messages never end");
        Self { arrivals: Arrivals::Bursts { messages, every }, ..Self::every(every) }
    }

    /// So many messages, all at the start.
    pub fn at_once(messages: u64) -> Self {
        Self::bursts(messages.max(1), Duration::MAX).messages(messages)
    }

    /// The first message is due then.
    #[must_use]
    pub fn starting(self, at: Duration) -> Self {
        Self { starts: at, ..self }
    }

    /// No messages from then on.
    #[must_use]
    pub fn ending(self, at: Duration) -> Self {
        Self { ends: at, ..self }
    }

    /// At most so many messages in all.
    #[must_use]
    pub fn messages(self, max: u64) -> Self {
        Self { messages: max, ..self }
    }

    /// So many lite topics, which get messages in turn.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn lites(self, count: u64) -> Self {
        assert!(count > 0, "a message has a lite topic");
        Self { lites: Lites::Shared(count), ..self }
    }

    /// A lite topic for each message: nothing waits for the message before it.
    #[must_use]
    pub fn each_its_own_lite(self) -> Self {
        Self { lites: Lites::OnePerMessage, ..self }
    }

    /// 0 to 9, 9 first.
    #[must_use]
    pub fn priority(self, priority: u8) -> Self {
        Self { priority, ..self }
    }

    /// Estimated cost of a message, in cost units.
    #[must_use]
    pub fn cost(self, cost: impl Into<Spread<u64>>) -> Self {
        Self { cost: cost.into(), ..self }
    }

    /// What a message turns out to cost, in percent of its estimate.
    #[must_use]
    pub fn measured_percent(self, percent: impl Into<Spread<u64>>) -> Self {
        Self { measured_percent: percent.into(), ..self }
    }

    /// How long an attempt takes.
    #[must_use]
    pub fn service(self, service: impl Into<Spread<Duration>>) -> Self {
        Self { service: service.into(), ..self }
    }

    /// From publish until a message may be delivered; what is behind it in its lite topic waits, too.
    #[must_use]
    pub fn deliver_after(self, span: Duration) -> Self {
        Self { deliver_after: Some(span), ..self }
    }

    /// From publish until a message may no longer be delivered.
    #[must_use]
    pub fn expires_after(self, span: Duration) -> Self {
        Self { expires_after: Some(span), ..self }
    }

    /// So many attempts in a hundred fail, and are tried again after the group's back-off.
    #[must_use]
    pub fn failing(self, percent: u64) -> Self {
        Self { failing_percent: percent, ..self }
    }

    /// A failed attempt asks to be left alone for this long: its retry waits for it in place of the group's back-off.
    #[must_use]
    pub fn retry_after(self, span: Duration) -> Self {
        Self { retry_after: Some(span), ..self }
    }

    /// A label of its lite topics.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.push((key.into(), value.into()));
        self
    }

    /// A numeric property of its messages.
    #[must_use]
    pub fn property(mut self, name: &str, value: impl Into<Spread<u64>>) -> Self {
        self.properties.push((name.into(), value.into()));
        self
    }
}
