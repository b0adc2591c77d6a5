//! The configuration's text.

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
