//! BPE over characters with bytes for the unknown ones, as SentencePiece has it: llama.cpp's `llama`.
//!
//! llama.cpp merges the pair of neighbours whose joined text is the token of the highest score. Hugging Face merges the
//! pair of the lowest rank. A token's score is therefore the negative of its first merge's rank — which is what the files
//! that SentencePiece wrote were made of, in the other direction.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use super::special::Specials;
use super::{Files, Tokens, bpe, key, kind};
use crate::error::Result;
use crate::weights::gguf::{GgufArray, GgufValue};

/// What SentencePiece writes for a space.
const SPACE: char = '\u{2581}';
/// The score of tokens that no merge makes.
const UNMERGED: f32 = -1e6;

/// The keys that this kind has beside the tokens; gives bytes and the unknown token their types.
pub(super) fn metadata(
    files: &Files,
    model: &Map<String, Value>,
    tokens: &mut Tokens,
    specials: &Specials,
    notes: &mut Vec<String>,
) -> Result<Vec<(String, GgufValue)>> {
    let prefix = space_prefix(files)?;
    let merges = bpe::merges(files, model)?;
    for (id, text) in tokens.texts.iter_mut().enumerate() {
        if specials.unk_id() == Some(id as u32) {
            tokens.kinds[id] = kind::UNKNOWN;
        } else if is_byte(text) {
            tokens.kinds[id] = kind::BYTE;
        } else if tokens.added.get(&id) == Some(&false) {
            // llama.cpp looks for these in the text as it was typed.
            *text = text.replace(SPACE, " ");
        }
    }
    let ranks = ranks(&merges);
    if let Some(note) = differs(&merges, &ranks, tokens) {
        notes.push(note);
    }
    let scores = tokens
        .texts
        .iter()
        .map(|text| ranks.get(text.as_str()).map_or(UNMERGED, |&rank| -(rank as f32)));
    let scores: Vec<f32> = scores.collect();
    Ok(vec![
        (key("model"), GgufValue::String("llama".into())),
        (key("pre"), GgufValue::String("default".into())),
        (key("scores"), GgufValue::Array(GgufArray::F32(scores))),
        (key("add_space_prefix"), GgufValue::Bool(prefix)),
    ])
}

fn is_byte(text: &str) -> bool {
    let digits = text.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    digits.is_some_and(|digits| digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
}

/// The rank of the first merge that makes each token.
fn ranks(merges: &[String]) -> HashMap<String, usize> {
    let mut ranks = HashMap::with_capacity(merges.len());
    for (rank, merge) in merges.iter().enumerate() {
        ranks.entry(merge.replacen(' ', "", 1)).or_insert(rank);
    }
    ranks
}

/// SentencePiece's merges are all the ways to cut a token into two tokens. Where a file has fewer, llama.cpp would join
/// what Hugging Face leaves apart.
fn differs(merges: &[String], ranks: &HashMap<String, usize>, tokens: &Tokens) -> Option<String> {
    let pairs: HashSet<(&str, &str)> = merges.iter().filter_map(|merge| merge.split_once(' ')).collect();
    let vocabulary: HashSet<&str> = (0..tokens.texts.len())
        .filter(|&id| tokens.kinds[id] == kind::NORMAL)
        .map(|id| tokens.texts[id].as_str())
        .collect();
    let is_reachable = |text: &&str| text.chars().count() == 1 || ranks.contains_key(*text);
    let mut other: Vec<&str> = Vec::new();
    for text in &vocabulary {
        let cuts = text.char_indices().skip(1).map(|(at, _)| text.split_at(at));
        let mut parts = cuts.filter(|(left, right)| {
            [left, right]
                .iter()
                .all(|part| vocabulary.contains(**part) && is_reachable(part))
        });
        if parts.any(|pair| !pairs.contains(&pair)) {
            other.push(text);
        }
    }
    other.sort_unstable();
    let first = other.first()?;
    Some(format!(
        "the tokenizer's merges are not all that SentencePiece would have: llama.cpp may cut texts with {} tokens \
         otherwise, {first:?} the first",
        other.len()
    ))
}

/// Whether a space is put before a text; also checks that spaces are written as SentencePiece does.
fn space_prefix(files: &Files) -> Result<bool> {
    let mut found = Spaces::default();
    for place in ["normalizer", "pre_tokenizer"] {
        if let Some(value) = files.tokenizer.get(place) {
            found.add(files, value)?;
        }
    }
    if found.replaced {
        Ok(found.prefix)
    } else {
        Err(files
            .error("a tokenizer with byte_fallback that does not write spaces as ▁ has no like in llama.cpp"))
    }
}

#[derive(Default)]
struct Spaces {
    prefix: bool,
    replaced: bool,
}

impl Spaces {
    fn add(&mut self, files: &Files, value: &Value) -> Result<()> {
        let text = |name: &str| value.get(name).and_then(Value::as_str);
        let space = SPACE.to_string();
        match text("type") {
            None => Ok(()),
            Some("Sequence") => {
                let list = ["normalizers", "pretokenizers"]
                    .iter()
                    .find_map(|name| value.get(*name)?.as_array());
                list.into_iter()
                    .flatten()
                    .try_for_each(|value| self.add(files, value))
            }
            Some("Prepend") if text("prepend") == Some(&space) => {
                self.prefix = true;
                Ok(())
            }
            Some("Replace")
                if value.pointer("/pattern/String").and_then(Value::as_str) == Some(" ")
                    && text("content") == Some(&space) =>
            {
                self.replaced = true;
                Ok(())
            }
            Some("Metaspace") => {
                self.replaced = true;
                let scheme = text("prepend_scheme").unwrap_or("always");
                let legacy = value.get("add_prefix_space").and_then(Value::as_bool);
                self.prefix |= scheme != "never" && legacy != Some(false);
                Ok(())
            }
            // Gemma cuts at spaces after it has replaced them all: it cuts nowhere.
            Some("Split") if self.replaced && value.pointer("/pattern/String").and_then(Value::as_str) == Some(" ") => {
                Ok(())
            }
            Some(other) => Err(files.error(format!(
                "the normalizer or pre_tokenizer {other} of a tokenizer with byte_fallback has no like in llama.cpp"
            ))),
        }
    }
}
