//! Byte-level BPE: llama.cpp's `gpt2`.

use serde_json::{Map, Value};

use super::{Files, key, pre};
use crate::error::Result;
use crate::weights::gguf::{GgufArray, GgufValue};

/// The keys that this kind has beside the tokens.
pub(super) fn metadata(
    files: &Files,
    model: &Map<String, Value>,
    named: Option<&str>,
    notes: &mut Vec<String>,
) -> Result<Vec<(String, GgufValue)>> {
    normalizer(files, notes)?;
    let ignore_merges = model.get("ignore_merges").and_then(Value::as_bool) == Some(true);
    let found = pre::recognise(files.tokenizer.get("pre_tokenizer"), ignore_merges);
    let name = match (named, found) {
        (Some(named), _) => named,
        (None, Ok(name)) => name,
        (None, Err(found)) => {
            let reason = format!(
                "the pre_tokenizer {found} (ignore_merges: {ignore_merges}) is none of llama.cpp's that are known here; \
                 name llama.cpp's with --pre"
            );
            return Err(files.error(reason));
        }
    };
    Ok(vec![
        (key("model"), GgufValue::String("gpt2".into())),
        (key("pre"), GgufValue::String(name.into())),
        (
            key("merges"),
            GgufValue::Array(GgufArray::String(merges(files, model)?)),
        ),
    ])
}

/// llama.cpp changes no text before it cuts it.
fn normalizer(files: &Files, notes: &mut Vec<String>) -> Result<()> {
    let kind = |value: &Value| value.get("type").and_then(Value::as_str).map(str::to_string);
    match files.tokenizer.get("normalizer") {
        None | Some(Value::Null) => Ok(()),
        Some(value) if kind(value).as_deref() == Some("NFC") => {
            notes.push(
                "the tokenizer composes characters (NFC) and llama.cpp does not: text must come composed, as it mostly does"
                    .into(),
            );
            Ok(())
        }
        Some(value) => {
            let kind = kind(value).unwrap_or_default();
            Err(files.error(format!(
                "a byte-level tokenizer with the normalizer {kind:?} has no like in llama.cpp"
            )))
        }
    }
}

/// Merges as lines `left right`; newer files have them as pairs.
pub(super) fn merges(files: &Files, model: &Map<String, Value>) -> Result<Vec<String>> {
    let list = model.get("merges").and_then(Value::as_array);
    let list = list.ok_or_else(|| files.error("has no list \"merges\""))?;
    let line = |merge: &Value| match merge {
        Value::String(line) => Some(line.clone()),
        Value::Array(pair) => match pair.as_slice() {
            [Value::String(left), Value::String(right)] => Some(format!("{left} {right}")),
            _ => None,
        },
        _ => None,
    };
    let merges: Option<Vec<String>> = list.iter().map(line).collect();
    merges.ok_or_else(|| files.error("a merge is neither a line nor a pair"))
}
