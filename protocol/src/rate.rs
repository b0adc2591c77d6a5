//! Rates as users write them: `100/s`, `90000/min`, `5000/h`, `100/s burst 20`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::limits::RATE_PER_SECOND_MAX;

/// A token bucket's setting: so many units per period, and how many at once.
///
/// Written `UNITS/PERIOD`, with period `s`, `min` or `h`, and optionally ` burst UNITS`. The burst
/// is the number written in the rate unless it is given.
///
/// ```
/// use sluicegate_protocol::Rate;
/// let rate: Rate = "90000/min".parse().unwrap();
/// assert_eq!((rate.units(), rate.burst()), (90_000, 90_000));
/// assert_eq!("100/s burst 20".parse::<Rate>().unwrap().burst(), 20);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rate {
    units: u32,
    period: Period,
    burst: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Period {
    Second,
    Minute,
    Hour,
}

impl Period {
    const fn text(self) -> &'static str {
        match self {
            Self::Second => "s",
            Self::Minute => "min",
            Self::Hour => "h",
        }
    }

    const fn duration(self) -> Duration {
        match self {
            Self::Second => Duration::from_secs(1),
            Self::Minute => Duration::from_mins(1),
            Self::Hour => Duration::from_hours(1),
        }
    }
}

/// Text that is not a [`Rate`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a rate: {problem}; write for example `100/s`, `90000/min` or `100/s burst 20`")]
pub struct InvalidRate {
    text: String,
    problem: &'static str,
}

impl Rate {
    /// Units per second with a burst, for callers that compute a rate.
    ///
    /// # Errors
    /// [`InvalidRate`] when a number is zero or the rate is above the limit.
    pub fn per_second(units: u32, burst: u32) -> Result<Self, InvalidRate> {
        Self::checked(units, Period::Second, burst, || format!("{units}/s burst {burst}"))
    }

    /// Units that the bucket gains in one [`Rate::period`].
    pub const fn units(self) -> u32 {
        self.units
    }

    /// The period of [`Rate::units`].
    pub const fn period(self) -> Duration {
        self.period.duration()
    }

    /// Units that may be used at once after a rest.
    pub const fn burst(self) -> u32 {
        self.burst
    }

    /// Time that one unit takes, rounded up, so that the rate is never exceeded.
    ///
    /// # Panics
    /// Never: an hour in nanoseconds fits.
    pub fn unit_time(self) -> Duration {
        let nanos = self.period().as_nanos().div_ceil(u128::from(self.units));
        Duration::from_nanos(u64::try_from(nanos).expect("an hour in nanoseconds fits"))
    }

    fn checked(units: u32, period: Period, burst: u32, text: impl Fn() -> String) -> Result<Self, InvalidRate> {
        let refuse = |problem| Err(InvalidRate { text: text(), problem });
        if units == 0 || burst == 0 {
            return refuse("units and burst are at least 1");
        }
        if u64::from(units) / period.duration().as_secs() > RATE_PER_SECOND_MAX {
            return refuse("above 1000000000 units per second");
        }
        let rate = Self { units, period, burst };
        // The whole burst as time must leave room for as much debt in 64 bits of nanoseconds.
        match rate.unit_time().checked_mul(burst) {
            Some(span) if span <= Duration::from_hours(24 * 365) => Ok(rate),
            _ => refuse("the burst takes more than a year to refill"),
        }
    }
}

impl FromStr for Rate {
    type Err = InvalidRate;

    fn from_str(text: &str) -> Result<Self, InvalidRate> {
        let refuse = |problem| InvalidRate { text: text.into(), problem };
        let (rate, burst) = match text.split_once(" burst ") {
            Some((rate, burst)) => (rate, Some(burst.trim())),
            None => (text, None),
        };
        let (units, period) = rate.trim().split_once('/').ok_or_else(|| refuse("it has no `/`"))?;
        let units: u32 = units.trim().parse().map_err(|_| refuse("units are a whole number up to 4294967295"))?;
        let period = match period.trim() {
            "s" | "sec" | "second" => Period::Second,
            "min" | "m" | "minute" => Period::Minute,
            "h" | "hour" => Period::Hour,
            _ => return Err(refuse("the period is `s`, `min` or `h`")),
        };
        let burst = match burst {
            Some(burst) => burst.parse().map_err(|_| refuse("the burst is a whole number up to 4294967295"))?,
            None => units,
        };
        Self::checked(units, period, burst, || text.into())
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.units, self.period.text())?;
        if self.burst != self.units {
            write!(f, " burst {}", self.burst)?;
        }
        Ok(())
    }
}

impl serde::Serialize for Rate {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Rate {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_prints_as_it_is_written() {
        for text in ["100/s", "90000/min", "5/h", "100/s burst 20"] {
            assert_eq!(text.parse::<Rate>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn the_time_of_one_unit_is_rounded_up() {
        assert_eq!("90000/min".parse::<Rate>().unwrap().unit_time(), Duration::from_nanos(666_667));
        assert_eq!("1000/s".parse::<Rate>().unwrap().unit_time(), Duration::from_millis(1));
    }

    #[test]
    fn settings_that_could_wrap_or_stand_still_are_refused() {
        for text in ["0/s", "5", "5/day", "x/s", "2000000000/s", "1/h burst 4294967295", "5/s burst 0", "-1/s"] {
            assert!(text.parse::<Rate>().is_err(), "{text} was accepted");
        }
    }
}
