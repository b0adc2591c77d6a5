//! What users of other brokers complain about, as scenarios in virtual time with seeded arrivals and service times.

mod dear_messages;
mod flood;
mod hog;
mod shared_quota;
mod simulation;
mod suspensions;
mod weights;
