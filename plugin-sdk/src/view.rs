//! Named access to what a frame carries as plain numbers.

use std::time::Duration;

use crate::{Feedback, Frame, LiteView, TenantView};

impl Frame {
    /// The tenant of a row of this frame.
    ///
    /// # Panics
    /// If the row is of another frame.
    #[must_use]
    pub fn tenant_of(&self, lite: &LiteView) -> &TenantView {
        &self.tenants[lite.tenant as usize]
    }
}

impl LiteView {
    /// Since the head was published.
    #[must_use]
    pub fn head_age(&self) -> Duration {
        Duration::from_micros(self.head_age_us)
    }

    /// Until the head expires, if it does.
    #[must_use]
    pub fn expires_in(&self) -> Option<Duration> {
        (self.expires_in_us != u64::MAX).then(|| Duration::from_micros(self.expires_in_us))
    }

    /// Service time of the last settled message, after the first.
    #[must_use]
    pub fn last_service(&self) -> Option<Duration> {
        (self.last_service_us != u64::MAX).then(|| Duration::from_micros(self.last_service_us))
    }
}

impl Feedback {
    /// [`Feedback::bits`]: the message came back unused.
    pub const RETURNED: u32 = 1;

    /// The message came back unused: suspended, or its consumer closed in order.
    #[must_use]
    pub fn returned(&self) -> bool {
        self.bits & Self::RETURNED != 0
    }

    /// From delivery to settle.
    #[must_use]
    pub fn service(&self) -> Duration {
        Duration::from_micros(self.service_us)
    }
}
