//! A number that says whether two runs decided the same.

use std::fmt;

use sluicegate_protocol::Timestamp;

use crate::Decision;

/// Of all decisions of a run, in their order: FNV-1a over 64 bits. It tells runs apart; it keeps no secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Digest(u64);

impl Digest {
    const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;

    pub(super) const fn new() -> Self {
        Self(Self::BASIS)
    }

    pub(super) fn add(&mut self, now: Timestamp, decision: &Decision) {
        let row = match decision {
            Decision::Deliver { lite, offset, session, charge, .. } => {
                [1, lite.0, offset.0, session.0, charge.cost, charge.band.into(), charge.weight.into()]
            }
            Decision::Ask(ask) => [2, ask.frame.sequence, ask.frame.lites.len() as u64, 0, 0, 0, 0],
            Decision::Suspend { lite, until, reason } => [3, lite.0, until.0, u64::from(*reason), 0, 0, 0],
            Decision::Expired { lite, offset } => [4, lite.0, offset.0, 0, 0, 0, 0],
            Decision::DeadLetter { lite, offset, reason } => [5, lite.0, offset.0, u64::from(*reason), 0, 0, 0],
            Decision::Drop { lite, offset, reason } => [6, lite.0, offset.0, u64::from(*reason), 0, 0, 0],
        };
        for byte in row.into_iter().chain([now.0]).flat_map(u64::to_le_bytes) {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(Self::PRIME);
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}
