//! Behaviour of the client against a peer in this process that speaks the frames.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod connect;
mod consumer;
mod peer;
mod producer;
