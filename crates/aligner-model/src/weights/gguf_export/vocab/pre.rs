//! Which of llama.cpp's ways to cut text into words a `pre_tokenizer` is.
//!
//! llama.cpp's converter recognises a tokenizer by the hash of a test text's tokens, so any tokenizer that was retrained is
//! unknown to it. The cut itself is in the file, so it is compared here: the same expressions cut the same words.

use serde_json::Value;

/// The expression of Llama 3, and of others of OpenAI's making.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// The same with digits apart.
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT_4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// One step of a pre-tokenizer, as far as it matters.
#[derive(Debug, PartialEq)]
enum Step {
    /// Every digit is a word.
    Digits,
    /// Cuts by an expression, keeping all.
    Split(String),
    /// Bytes become characters; with the expression of GPT-2 or without any.
    ByteLevel { gpt2: bool },
}

/// The name, or what was found instead. `ignore_merges`: a word that is a token needs no merges.
pub(super) fn recognise(pre_tokenizer: Option<&Value>, ignore_merges: bool) -> Result<&'static str, String> {
    let found = pre_tokenizer.unwrap_or(&Value::Null);
    let steps = steps(found).ok_or_else(|| shown(found))?;
    let expression = match steps.as_slice() {
        [Step::ByteLevel { gpt2: true }] if !ignore_merges => return Ok("gpt-2"),
        [Step::Digits, Step::ByteLevel { gpt2: true }] if !ignore_merges => return Ok("smollm"),
        [Step::Split(expression), Step::ByteLevel { gpt2: false }] => expression.as_str(),
        _ => return Err(shown(found)),
    };
    match (expression, ignore_merges) {
        (LLAMA3, true) => Ok("llama-bpe"),
        (LLAMA3, false) => Ok("dbrx"),
        (QWEN2, false) => Ok("qwen2"),
        (TEKKEN, true) => Ok("tekken"),
        (GPT_4O, false) => Ok("gpt-4o"),
        _ => Err(shown(found)),
    }
}

fn shown(found: &Value) -> String {
    const LONGEST: usize = 400;
    found.to_string().chars().take(LONGEST).collect()
}

/// `None` for a step that is not understood.
fn steps(value: &Value) -> Option<Vec<Step>> {
    let flag = |name: &str| value.get(name).and_then(Value::as_bool);
    match value.get("type")?.as_str()? {
        "Sequence" => {
            let list = value.get("pretokenizers")?.as_array()?;
            let steps: Option<Vec<Vec<Step>>> = list.iter().map(steps).collect();
            Some(steps?.into_iter().flatten().collect())
        }
        "Digits" if flag("individual_digits") == Some(true) => Some(vec![Step::Digits]),
        "ByteLevel" if flag("add_prefix_space") != Some(true) => Some(vec![Step::ByteLevel {
            gpt2: flag("use_regex") != Some(false),
        }]),
        "Split" => {
            let isolated = value.get("behavior")?.as_str()? == "Isolated" && flag("invert") != Some(true);
            let expression = value.get("pattern")?.get("Regex")?.as_str()?;
            isolated.then(|| vec![Step::Split(expression.to_string())])
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn split(expression: &str) -> Value {
        json!({"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        ]})
    }

    #[test]
    fn cuts_are_recognised_by_what_they_do() {
        let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "use_regex": true});
        assert_eq!(recognise(Some(&byte_level), false), Ok("gpt-2"));
        let smollm = json!({"type": "Sequence", "pretokenizers": [
            {"type": "Digits", "individual_digits": true}, byte_level,
        ]});
        assert_eq!(recognise(Some(&smollm), false), Ok("smollm"));
        assert_eq!(recognise(Some(&split(LLAMA3)), true), Ok("llama-bpe"));
        assert_eq!(recognise(Some(&split(LLAMA3)), false), Ok("dbrx"));
        assert_eq!(recognise(Some(&split(QWEN2)), false), Ok("qwen2"));
        assert_eq!(recognise(Some(&split(TEKKEN)), true), Ok("tekken"));
        assert_eq!(recognise(Some(&split(GPT_4O)), false), Ok("gpt-4o"));
    }

    #[test]
    fn what_is_unknown_is_shown() {
        let error = recognise(Some(&split(r"\w+")), false).unwrap_err();
        assert!(error.contains(r"\\w+"), "{error}");
        let prefixed = json!({"type": "ByteLevel", "add_prefix_space": true});
        assert!(recognise(Some(&prefixed), false).is_err());
        assert!(recognise(None, false).is_err());
        assert!(recognise(Some(&split(QWEN2)), true).is_err());
    }
}
