//! Times of day, in UTC.

use std::time::Duration;

const MINUTE_US: u64 = 60_000_000;
const DAY_MINUTES: u64 = 24 * 60;
const DAY_US: u64 = DAY_MINUTES * MINUTE_US;

/// From one time of day until just before another, which may be on the next day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Window {
    from_us: u64,
    to_us: u64,
}

/// Windows of each day; without one it is always open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Windows(Vec<Window>);

impl Windows {
    /// Of texts like `22:00-06:00`.
    ///
    /// # Errors
    /// Which text is no window, and why.
    pub(crate) fn parse(texts: &[String]) -> Result<Self, String> {
        texts.iter().map(|text| Window::parse(text)).collect::<Result<_, _>>().map(Self)
    }

    pub(crate) fn is_open(&self, now_us: u64) -> bool {
        self.0.is_empty() || self.0.iter().any(|window| window.has(now_us % DAY_US))
    }

    /// While it is open: until the end of a window that is open now; without windows a day.
    pub(crate) fn closes_in(&self, now_us: u64) -> Duration {
        let time_us = now_us % DAY_US;
        let open = self.0.iter().filter(|window| window.has(time_us));
        let closes_in_us = open.map(|window| until(time_us, window.to_us)).max().unwrap_or(DAY_US);
        Duration::from_micros(closes_in_us)
    }

    /// Until a window starts; a day without windows, or when one starts now.
    pub(crate) fn opens_in(&self, now_us: u64) -> Duration {
        let time_us = now_us % DAY_US;
        let opens_in_us = self.0.iter().map(|window| until(time_us, window.from_us)).min().unwrap_or(DAY_US);
        Duration::from_micros(opens_in_us)
    }
}

impl Window {
    fn parse(text: &str) -> Result<Self, String> {
        let (from, to) = text.split_once('-').ok_or_else(|| format!("`{text}` is not HH:MM-HH:MM"))?;
        let minutes = |time| minutes(time).ok_or_else(|| format!("`{text}` is not HH:MM-HH:MM"));
        let (from, to) = (minutes(from)?, minutes(to)?);
        if from == DAY_MINUTES {
            return Err(format!("`{text}` starts at the end of the day: write 00:00"));
        }
        if from == to % DAY_MINUTES {
            return Err(format!("`{text}` is no part of a day; without windows it is always open"));
        }
        Ok(Self { from_us: from * MINUTE_US, to_us: to * MINUTE_US })
    }

    fn has(self, time_us: u64) -> bool {
        let (from, to) = (self.from_us <= time_us, time_us < self.to_us);
        if self.from_us < self.to_us { from && to } else { from || to }
    }
}

/// From one time of day to the next time that it is another.
fn until(time_us: u64, other_us: u64) -> u64 {
    if other_us > time_us { other_us - time_us } else { DAY_US + other_us - time_us }
}

/// Of `HH:MM`, to 24:00.
fn minutes(text: &str) -> Option<u64> {
    let (hours, minutes) = text.split_once(':')?;
    let number = |digits: &str, max: u64| -> Option<u64> {
        let is_number = digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_digit());
        digits.parse().ok().filter(|number| is_number && *number <= max)
    };
    let total = number(hours, 24)? * 60 + number(minutes, 59)?;
    (total <= DAY_MINUTES).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn windows(texts: &[&str]) -> Result<Windows, String> {
        Windows::parse(&texts.iter().map(|text| (*text).into()).collect::<Vec<_>>())
    }

    /// 19,000 days after the epoch, at this time.
    fn at(hours: u64, minutes: u64) -> u64 {
        19_000 * DAY_US + (hours * 60 + minutes) * MINUTE_US
    }

    #[test]
    fn a_window_may_go_over_midnight_and_ends_before_its_end() {
        let windows = windows(&["22:00-06:00", "12:00-12:30"]).unwrap();
        for (time, open) in [
            (at(21, 59), false),
            (at(22, 0), true),
            (at(23, 59), true),
            (at(0, 0), true),
            (at(5, 59), true),
            (at(6, 0), false),
            (at(12, 0), true),
            (at(12, 30), false),
        ] {
            assert_eq!(windows.is_open(time), open, "{time}");
        }
    }

    #[test]
    fn it_is_known_until_when_it_is_open_and_when_it_opens() {
        let windows = windows(&["22:00-06:00", "12:00-24:00"]).unwrap();
        let minutes = |minutes: u64| Duration::from_secs(minutes * 60);
        assert_eq!(windows.opens_in(at(6, 0)), minutes(360));
        assert_eq!(windows.opens_in(at(6, 0) + 1), Duration::from_micros(360 * MINUTE_US - 1));
        assert_eq!(windows.opens_in(at(12, 0)), minutes(600));
        assert_eq!(windows.opens_in(at(23, 0)), minutes(780));
        assert_eq!(windows.closes_in(at(12, 0)), minutes(720));
        assert_eq!(windows.closes_in(at(22, 0)), minutes(480));
        assert_eq!(windows.closes_in(at(5, 59)), minutes(1));
    }

    #[test]
    fn without_windows_it_is_always_open() {
        let windows = windows(&[]).unwrap();
        assert!(windows.is_open(0));
        assert_eq!((windows.closes_in(5), windows.opens_in(5)), (Duration::from_hours(24), Duration::from_hours(24)));
    }

    #[test]
    fn what_is_no_window_is_refused() {
        for text in ["", "22:00", "22-06", "22:00-6:00", "22:60-06:00", "25:00-26:00", "24:01-06:00", "+1:00-02:00"] {
            assert_eq!(windows(&[text]).unwrap_err(), format!("`{text}` is not HH:MM-HH:MM"));
        }
        for text in ["06:00-06:00", "00:00-24:00"] {
            let error = format!("`{text}` is no part of a day; without windows it is always open");
            assert_eq!(windows(&[text]).unwrap_err(), error);
        }
        assert_eq!(windows(&["24:00-06:00"]).unwrap_err(), "`24:00-06:00` starts at the end of the day: write 00:00");
    }
}
