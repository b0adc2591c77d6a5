//! A configuration's JSON Schema against the configuration itself. For tests.

use serde::Serialize;
use serde_json::Value;

/// The schema has every field of the configuration and no other, at every depth, and says of each field of the configuration what it is by
/// default. Of lists, `example` must have an element for their elements to be looked at.
///
/// ```
/// use serde::{Deserialize, Serialize};
/// use sluicegate_plugin_sdk::assert_schema_fits;
///
/// #[derive(Default, Serialize, Deserialize)]
/// struct Config { weights: Vec<Weight> }
/// #[derive(Serialize, Deserialize)]
/// struct Weight { tenant: String, weight: u32 }
///
/// const SCHEMA: &str = r#"{ "properties": { "weights": { "default": [], "items": {
///     "properties": { "tenant": { "type": "string" }, "weight": { "type": "integer" } } } } } }"#;
/// assert_schema_fits(SCHEMA, &Config { weights: vec![Weight { tenant: "ada".into(), weight: 1 }] });
/// ```
///
/// # Panics
/// If it does not, with the place.
#[track_caller]
pub fn assert_schema_fits<C: Serialize + Default>(schema: &str, example: &C) {
    let schema: Value = serde_json::from_str(schema).expect("a schema is JSON");
    let [example, default] =
        [example, &C::default()].map(|config| serde_json::to_value(config).expect("a configuration is JSON"));
    fits("", &schema, &example);
    for (field, value) in default.as_object().into_iter().flatten() {
        assert_eq!(schema["properties"][field]["default"], *value, "the default of {field}");
    }
}

#[track_caller]
fn fits(at: &str, schema: &Value, example: &Value) {
    match example {
        Value::Object(fields) => {
            let known = schema["properties"].as_object().into_iter().flatten().map(|(field, _)| field);
            assert!(known.eq(fields.keys()), "{at}/properties are not {:?}", fields.keys().collect::<Vec<_>>());
            fields
                .iter()
                .for_each(|(field, value)| fits(&format!("{at}/{field}"), &schema["properties"][field], value));
        }
        Value::Array(elements) => elements.iter().take(1).for_each(|element| fits(at, &schema["items"], element)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const SCHEMA: &str = r#"{ "properties": { "a": { "default": 1 } } }"#;

    fn config(field: &str) -> BTreeMap<String, u8> {
        BTreeMap::from([(field.into(), 1)])
    }

    #[test]
    fn a_field_that_the_schema_has_not_is_found() {
        assert_schema_fits(SCHEMA, &config("a"));
        let panic = std::panic::catch_unwind(|| assert_schema_fits(SCHEMA, &config("b"))).unwrap_err();
        assert_eq!(panic.downcast_ref::<String>().unwrap(), r#"/properties are not ["b"]"#);
    }
}
