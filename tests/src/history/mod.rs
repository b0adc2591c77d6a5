//! What happened to the messages of one topic in one group, and whether it may have happened.
//!
//! A test fills a [`Record`] in the broker's own time; [`rules`] hold it against what users may rely on. Histories that are
//! drawn step by step and crash tests under concurrent load share both.

mod clock;
mod record;
pub mod rules;

pub use clock::BrokerClock;
pub use record::{
    AtTheEnd, Blind, Delivered, End, Ended, Hold, Life, Place, Record, Session, Source, Span, Subscribed,
};
