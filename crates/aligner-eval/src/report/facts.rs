//! A JSON object as lines of names and values.

use aligner_report::kit::{number::grouped, shortened};
use serde_json::{Map, Value};

/// Lines that are told.
const MOST: usize = 400;
/// Characters of a value.
const VALUE_CHARS: usize = 400;
/// How deep objects are opened; below that they stand as JSON.
const DEEPEST: usize = 8;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fact {
    /// The keys on the way to it.
    pub name: String,
    /// What it is.
    pub value: String,
}

/// The object's lines, in its own order, and how many more there are.
pub(super) fn facts(object: &Map<String, Value>) -> (Vec<Fact>, u64) {
    let mut facts = Facts::default();
    for (key, value) in object {
        facts.take(key.clone(), value, 1);
    }
    (facts.lines, facts.left_out)
}

#[derive(Default)]
struct Facts {
    lines: Vec<Fact>,
    left_out: u64,
}

impl Facts {
    fn take(&mut self, name: String, value: &Value, depth: usize) {
        let is_open = depth < DEEPEST;
        match value {
            Value::Object(object) if is_open && !object.is_empty() => {
                for (key, value) in object {
                    self.take(format!("{name} › {key}"), value, depth + 1);
                }
            }
            Value::Array(values)
                if is_open && values.iter().any(|value| value.is_object() || value.is_array()) =>
            {
                for (index, value) in values.iter().enumerate() {
                    self.take(format!("{name} › {}", index + 1), value, depth + 1);
                }
            }
            _ if value.is_null() => {}
            _ if self.lines.len() == MOST => self.left_out += 1,
            value => {
                let value = plain(value);
                let (text, more) = shortened(&value, VALUE_CHARS);
                let more = if more { "…" } else { "" };
                self.lines.push(Fact {
                    name,
                    value: format!("{text}{more}"),
                });
            }
        }
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Bool(true) => "yes".into(),
        Value::Bool(false) => "no".into(),
        Value::Number(number) => match number.as_u64() {
            // Below this a number may be a year or a port.
            Some(whole) if whole >= 10_000 => grouped(whole),
            _ => number.to_string(),
        },
        Value::Array(values) if !values.iter().any(|value| value.is_object() || value.is_array()) => {
            let texts: Vec<String> = values.iter().map(plain).collect();
            texts.join(", ")
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_opened_and_a_hash_stays_whole() {
        let hash = format!("sha256:{}", "a".repeat(64));
        let object = serde_json::json!({
            "seed": 42, "rows": 12000, "greedy": true, "none": null, "names": ["a", "b"],
            "files": {"x.jsonl": {"sha256": hash}},
            "models": [{"name": "m"}],
            "long": "x".repeat(500),
        });
        let (found, left_out) = facts(object.as_object().unwrap());
        let found: Vec<(&str, &str)> = found
            .iter()
            .map(|fact| (fact.name.as_str(), fact.value.as_str()))
            .collect();
        let long = format!("{}…", "x".repeat(VALUE_CHARS));
        assert_eq!(
            found,
            [
                ("seed", "42"),
                ("rows", "12,000"),
                ("greedy", "yes"),
                ("names", "a, b"),
                ("files › x.jsonl › sha256", hash.as_str()),
                ("models › 1 › name", "m"),
                ("long", long.as_str()),
            ]
        );
        assert_eq!(left_out, 0);
    }

    #[test]
    fn what_is_deep_or_long_has_an_end() {
        let mut deep = Value::from(1);
        for _ in 0..100 {
            deep = serde_json::json!({ "k": deep });
        }
        let (found, _) = facts(deep.as_object().unwrap());
        assert_eq!(found.len(), 1);
        let wide: Map<String, Value> = (0..1000).map(|n| (n.to_string(), Value::from(n))).collect();
        let (found, left_out) = facts(&wide);
        assert_eq!((found.len() as u64 + left_out, found.len()), (1000, MOST));
    }
}
