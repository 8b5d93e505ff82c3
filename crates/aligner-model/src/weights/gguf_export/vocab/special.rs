//! Tokens that begin, end and fill sequences.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{Files, key};
use crate::error::Result;
use crate::weights::gguf::GgufValue;

/// Special tokens by what they are for, and what is put around a text.
pub(super) struct Specials {
    bos: Option<Token>,
    eos: Option<Token>,
    unk: Option<Token>,
    pad: Option<Token>,
    /// Further ids at which generation stops.
    stops: Vec<u32>,
    adds_bos: bool,
    adds_eos: bool,
}

#[derive(Clone)]
struct Token {
    id: u32,
    text: String,
}

impl Specials {
    /// Names come from `tokenizer_config.json`, then from the ids in `config.json`; whether a token is put before or
    /// behind a text is what `post_processor` does, which is what encodes a prompt here.
    pub fn read(files: &Files) -> Result<Self> {
        let ids = ids(&files.tokenizer);
        let texts: BTreeMap<u32, &str> = ids.iter().map(|(text, id)| (*id, *text)).collect();
        let named = |name: &str| {
            let token = files.tokenizer_config.get(&format!("{name}_token"))?;
            let text = token.as_str().or_else(|| token.get("content")?.as_str())?;
            let id = *ids.get(text)?;
            let text = text.to_string();
            Some(Token { id, text })
        };
        let declared = stop_ids(files);
        let by_id = |id: u32| {
            let text = (*texts.get(&id)?).to_string();
            Some(Token { id, text })
        };
        let first_id = |name: &str| by_id(files.config.get(name)?.as_u64()? as u32);
        let eos = named("eos").or_else(|| by_id(*declared.first()?));
        let around = Around::read(files)?;
        let bos = match &around.before {
            Some(text) => ids.get(text.as_str()).map(|&id| Token {
                id,
                text: text.clone(),
            }),
            None => named("bos").or_else(|| first_id("bos_token_id")),
        };
        let unk = files
            .tokenizer
            .get("model")
            .and_then(|model| model.get("unk_token")?.as_str());
        let unk = named("unk").or_else(|| {
            let text = unk?.to_string();
            let id = *ids.get(text.as_str())?;
            Some(Token { id, text })
        });
        let end = eos.as_ref().map(|token| token.id);
        Ok(Self {
            stops: declared.into_iter().filter(|&id| Some(id) != end).collect(),
            unk,
            pad: named("pad").or_else(|| first_id("pad_token_id")),
            adds_bos: around.before.is_some(),
            adds_eos: around.behind,
            bos,
            eos,
        })
    }

    pub fn unk_id(&self) -> Option<u32> {
        self.unk.as_ref().map(|token| token.id)
    }

    /// The text of the token before every prompt.
    pub fn bos_text(&self) -> Option<&str> {
        self.bos
            .as_ref()
            .filter(|_| self.adds_bos)
            .map(|token| token.text.as_str())
    }

    /// Texts of the tokens at which generation stops.
    pub fn stop_texts(&self, texts: &[String]) -> Vec<String> {
        let end = self.eos.iter().map(|token| token.text.clone());
        end.chain(
            self.stops
                .iter()
                .filter_map(|&id| texts.get(id as usize).cloned()),
        )
        .collect()
    }

    pub fn metadata(&self, vocab_size: usize) -> Vec<(String, GgufValue)> {
        let tokens = [
            ("bos_token_id", self.bos.as_ref().map(|token| token.id)),
            ("eos_token_id", self.eos.as_ref().map(|token| token.id)),
            ("unknown_token_id", self.unk_id()),
            ("padding_token_id", self.pad.as_ref().map(|token| token.id)),
            // llama.cpp has one more place for a token that ends an answer.
            ("eot_token_id", self.stops.first().copied()),
        ];
        let known = |(name, id): (&str, Option<u32>)| {
            let id = id.filter(|&id| (id as usize) < vocab_size)?;
            Some((key(name), GgufValue::U32(id)))
        };
        let mut pairs: Vec<_> = tokens.into_iter().filter_map(known).collect();
        pairs.push((key("add_bos_token"), GgufValue::Bool(self.adds_bos)));
        pairs.push((key("add_eos_token"), GgufValue::Bool(self.adds_eos)));
        pairs
    }
}

/// Id by text.
fn ids(tokenizer: &Map<String, Value>) -> BTreeMap<&str, u32> {
    let vocab = tokenizer
        .get("model")
        .and_then(|model| model.get("vocab")?.as_object());
    let vocab = vocab.into_iter().flatten();
    let vocab = vocab.filter_map(|(text, id)| Some((text.as_str(), id.as_u64()? as u32)));
    let added = tokenizer.get("added_tokens").and_then(Value::as_array);
    let added = added.into_iter().flatten();
    let added =
        added.filter_map(|token| Some((token.get("content")?.as_str()?, token.get("id")?.as_u64()? as u32)));
    vocab.chain(added).collect()
}

/// Ids of `eos_token_id`, in order.
fn stop_ids(files: &Files) -> Vec<u32> {
    let mut found = Vec::new();
    for file in [&files.generation, &files.config] {
        let ids = match file.get("eos_token_id") {
            Some(Value::Array(ids)) => ids.iter().filter_map(Value::as_u64).collect(),
            Some(id) => id.as_u64().into_iter().collect::<Vec<u64>>(),
            None => Vec::new(),
        };
        for id in ids.into_iter().map(|id| id as u32) {
            if !found.contains(&id) {
                found.push(id);
            }
        }
    }
    found
}

/// What `post_processor` puts around one text.
#[derive(Default)]
struct Around {
    before: Option<String>,
    behind: bool,
}

impl Around {
    fn read(files: &Files) -> Result<Self> {
        let mut around = Self::default();
        if let Some(value) = files.tokenizer.get("post_processor") {
            around.add(files, value)?;
        }
        Ok(around)
    }

    fn add(&mut self, files: &Files, value: &Value) -> Result<()> {
        match value.get("type").and_then(Value::as_str) {
            // Where nothing is put around a text.
            None | Some("ByteLevel") => Ok(()),
            Some("Sequence") => {
                let list = value.get("processors").and_then(Value::as_array);
                list.into_iter()
                    .flatten()
                    .try_for_each(|value| self.add(files, value))
            }
            Some("TemplateProcessing") => self.template(files, value),
            Some(other) => {
                let reason = format!("the post_processor {other} has no like in llama.cpp");
                Err(files.error(reason))
            }
        }
    }

    fn template(&mut self, files: &Files, value: &Value) -> Result<()> {
        let single = value.get("single").and_then(Value::as_array);
        let special = |piece: &Value| Some(piece.get("SpecialToken")?.get("id")?.as_str()?.to_string());
        let pieces: Vec<Option<String>> = single.into_iter().flatten().map(special).collect();
        match pieces.as_slice() {
            [] | [None] => Ok(()),
            [Some(before), None] => {
                self.before = Some(before.clone());
                Ok(())
            }
            [None, Some(_)] => {
                self.behind = true;
                Ok(())
            }
            [Some(before), None, Some(_)] => {
                self.before = Some(before.clone());
                self.behind = true;
                Ok(())
            }
            _ => Err(files.error(
                "the post_processor puts more than one token before or behind a text, which llama.cpp cannot",
            )),
        }
    }
}
