//! The configuration: its text, and what a field may be.

use std::fmt::Display;
use std::ops::RangeInclusive;

use serde::de::DeserializeOwned;

/// Reads a policy's configuration: JSON text, or empty (or only blanks) for the defaults.
///
/// ```
/// use sluicegate_plugin_sdk::parse_config;
/// assert_eq!(parse_config::<Vec<u32>>(" ").unwrap(), Vec::<u32>::new());
/// assert_eq!(parse_config::<Vec<u32>>("[7, true]").unwrap_err(), "config: invalid type: boolean `true`, expected u32 at line 1 column 8");
/// ```
///
/// # Errors
/// What is wrong, with line and column.
pub fn parse_config<C: DeserializeOwned + Default>(text: &str) -> Result<C, String> {
    match text.trim().is_empty() {
        true => Ok(C::default()),
        false => serde_json::from_str(text).map_err(|error| format!("config: {error}")),
    }
}

/// A number of the configuration is what it may be.
///
/// ```
/// use sluicegate_plugin_sdk::in_range;
/// assert_eq!(in_range("weight", 7, 1..=100), Ok(()));
/// assert_eq!(in_range("weight", 0, 1..=100).unwrap_err(), "config: weight is 0, it must be 1 to 100");
/// ```
///
/// # Errors
/// It is not; the text names the field, its value and its range.
pub fn in_range<T: Copy + PartialOrd + Display>(field: &str, value: T, range: RangeInclusive<T>) -> Result<(), String> {
    let (least, most) = range.into_inner();
    match least <= value && value <= most {
        true => Ok(()),
        false => Err(format!("config: {field} is {value}, it must be {least} to {most}")),
    }
}

/// A text of the configuration is as long as it may be.
///
/// # Errors
/// It is not; the text names the field, its length and the range.
pub fn bytes_in_range(field: &str, text: &str, range: RangeInclusive<usize>) -> Result<(), String> {
    match range.contains(&text.len()) {
        true => Ok(()),
        false => {
            Err(format!("config: {field} has {} bytes, it must have {} to {}", text.len(), range.start(), range.end()))
        }
    }
}
