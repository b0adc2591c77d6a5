//! JSON Schemas that policies bring along for their configurations.
//!
//! Both are other people's: a schema may refer to itself without end, or hold a pattern that takes for ever. So this runs in a
//! [worker](super::worker), whose limits end it; nothing here is called in the broker itself but by tests.

use jsonschema::{PatternOptions, Retrieve, Uri, ValidationError, Validator};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::guest::one_line;

/// Problems of one configuration that are told.
const PROBLEMS_MAX: usize = 8;
/// Bytes of one text about a problem.
const TEXT_BYTES_MAX: usize = 256;
/// Bytes that one pattern may take when it is compiled.
const PATTERN_BYTES_MAX: usize = 1 << 20;

/// What is wrong at one place in a configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ConfigProblem {
    /// Where, as a JSON pointer: `/overrides/0/tenant`. Empty for the whole.
    pub(crate) path: String,
    /// What is wrong there.
    pub(crate) problem: String,
    /// The rule of the schema that it breaks.
    pub(crate) expected: String,
}

/// A configuration, and the schema that it is held against.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Pair<'a> {
    pub(super) schema: std::borrow::Cow<'a, str>,
    pub(super) config: std::borrow::Cow<'a, str>,
}

/// Whether a text is a JSON Schema that can be used. The error says why not.
pub(super) fn check(schema: &str) -> Result<(), String> {
    parse(schema).map(drop)
}

/// What is wrong with a configuration: nothing, or the first few problems.
///
/// # Errors
/// The schema itself cannot be used.
pub(super) fn problems(pair: &Pair<'_>) -> Result<Vec<ConfigProblem>, String> {
    let (schema, validator) = parse(&pair.schema)?;
    let config: Value = match serde_json::from_str(&pair.config) {
        Ok(config) => config,
        Err(error) => {
            let problem = short(&format!("it is not JSON: {error}"));
            return Ok(vec![ConfigProblem { path: String::new(), problem, expected: "JSON".into() }]);
        }
    };
    Ok(validator.iter_errors(&config).take(PROBLEMS_MAX).map(|error| told(&schema, &error)).collect())
}

fn parse(schema: &str) -> Result<(Value, Validator), String> {
    let schema: Value = serde_json::from_str(schema).map_err(|error| format!("it is not JSON: {error}"))?;
    let validator = jsonschema::options()
        .with_retriever(Nowhere)
        // Matched in time that is linear in the text.
        .with_pattern_options(PatternOptions::regex().size_limit(PATTERN_BYTES_MAX).dfa_size_limit(PATTERN_BYTES_MAX))
        .build(&schema);
    let place = |error: ValidationError<'_>| match error.instance_path().as_str() {
        "" => short(&error.to_string()),
        path => short(&format!("at {path}: {error}")),
    };
    validator.map(|validator| (schema, validator)).map_err(place)
}

/// References to other documents lead nowhere.
struct Nowhere;

impl Retrieve for Nowhere {
    fn retrieve(&self, uri: &Uri<String>) -> Result<Value, Box<dyn std::error::Error + Send + Sync>> {
        Err(format!("it refers to {uri}: put that into `$defs`, nothing else is looked up").into())
    }
}

fn told(schema: &Value, error: &ValidationError<'_>) -> ConfigProblem {
    let rule = error.schema_path().as_str();
    let keyword = rule.rsplit('/').next().unwrap_or_default();
    let expected = match schema.pointer(rule) {
        Some(value) => format!("{keyword}: {value}"),
        None => keyword.to_owned(),
    };
    ConfigProblem {
        path: short(error.instance_path().as_str()),
        problem: short(&error.to_string()),
        expected: short(&expected),
    }
}

fn short(text: &str) -> String {
    one_line(&text[..text.floor_char_boundary(TEXT_BYTES_MAX)])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems_of(schema: &str, config: &str) -> Vec<[String; 3]> {
        let problems = problems(&Pair { schema: schema.into(), config: config.into() }).unwrap();
        problems.into_iter().map(|problem| [problem.path, problem.problem, problem.expected]).collect()
    }

    const SCHEMA: &str = r##"{
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "rate": {"type": "integer", "minimum": 1},
            "rules": {"type": "array", "items": {"$ref": "#/$defs/rule"}},
            "window": {"type": "string", "pattern": "^[0-2][0-9]:[0-5][0-9]$"}
        },
        "$defs": {"rule": {"type": "object", "required": ["tenant"]}}
    }"##;

    #[test]
    fn what_breaks_a_rule_is_named_with_its_place_and_the_rule() {
        assert_eq!(problems_of(SCHEMA, r#"{"rate": 5, "rules": [{"tenant": "a"}], "window": "22:00"}"#), [[""; 3]; 0]);
        assert_eq!(
            problems_of(SCHEMA, r#"{"rate": "fast"}"#),
            [["/rate", r#""fast" is not of type "integer""#, r#"type: "integer""#]]
        );
        assert_eq!(
            problems_of(SCHEMA, r#"{"rules": [{"tenant": "a"}, {}]}"#),
            [["/rules/1", r#""tenant" is a required property"#, r#"required: ["tenant"]"#]]
        );
        assert_eq!(
            problems_of(SCHEMA, r#"{"rat": 5}"#),
            [["", "Additional properties are not allowed ('rat' was unexpected)", "additionalProperties: false"]]
        );
        assert_eq!(problems_of(SCHEMA, r#"{"window": "9:00"}"#).len(), 1);
        let [[path, problem, expected]] = &problems_of(SCHEMA, "{rate: 5}")[..] else { panic!("one problem") };
        assert_eq!((path.as_str(), expected.as_str()), ("", "JSON"));
        assert!(problem.starts_with("it is not JSON: key must be a string at line 1"), "{problem}");
    }

    #[test]
    fn only_the_first_problems_are_told_and_in_short() {
        let many: Vec<_> = (0..100).map(|n| format!(r#"{{"{n}": "{}"}}"#, "é".repeat(1_000))).collect();
        let problems = problems_of(SCHEMA, &format!(r#"{{"rules": [{}]}}"#, many.join(",")));
        assert_eq!(problems.len(), PROBLEMS_MAX);
        assert!(problems.iter().flatten().all(|text| text.len() <= TEXT_BYTES_MAX), "{problems:?}");
    }

    #[test]
    fn what_is_no_schema_is_refused() {
        let refused = |schema: &str| check(schema).unwrap_err();
        assert!(refused("{").starts_with("it is not JSON: "));
        assert!(refused("3").contains("is not of type"), "{}", refused("3"));
        let wrong = refused(r#"{"properties": {"rate": {"type": "number of things"}}}"#);
        assert!(wrong.contains("/properties/rate/type") && wrong.contains("number of things"), "{wrong}");
        assert!(refused(r##"{"$ref": "#/$defs/nothing"}"##).contains("nothing"));
        for elsewhere in ["https://example.com/schema.json", "http://127.0.0.1/", "file:///etc/passwd"] {
            let refused = refused(&format!(r#"{{"$ref": "{elsewhere}"}}"#));
            assert!(refused.contains("nothing else is looked up"), "{refused}");
        }
        assert!(refused(r#"{"$ref": "other.json"}"#).contains("other.json"));
        assert!(refused(r#"{"pattern": "((a{1000}){1000}){1000}"}"#).len() <= TEXT_BYTES_MAX);
        check("true").unwrap();
        check(SCHEMA).unwrap();
    }
}
