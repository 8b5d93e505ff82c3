//! `tokenizer.json` → the tokenizer that llama.cpp builds of a GGUF file.
//!
//! llama.cpp knows two kinds that concern us. A byte-level BPE (`gpt2`) has tokens, merges, and the *name* of a way to cut
//! text into words, which is recognised here by what `pre_tokenizer` says (see [`pre`]). A SentencePiece BPE (`llama`)
//! has tokens with scores instead of merges; a merge's rank becomes its token's score.

mod bpe;
mod pre;
mod special;
mod spm;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use self::special::Specials;
use crate::error::{ModelError, Result};
use crate::weights::gguf::{GgufArray, GgufValue};

/// llama.cpp's types of tokens.
mod kind {
    pub const NORMAL: i32 = 1;
    pub const UNKNOWN: i32 = 2;
    pub const CONTROL: i32 = 3;
    pub const USER_DEFINED: i32 = 4;
    pub const UNUSED: i32 = 5;
    pub const BYTE: i32 = 6;
}

/// A tokenizer as GGUF stores it.
#[derive(Debug, Clone, PartialEq)]
pub struct GgufVocab {
    pub(super) metadata: Vec<(String, GgufValue)>,
    pub(super) notes: Vec<String>,
    /// The token that stands before every prompt, when one does.
    pub bos: Option<String>,
    /// The tokens at which generation stops, the end of sequence first.
    pub stops: Vec<String>,
}

impl GgufVocab {
    /// Reads the tokenizer of a model directory for a model with `vocab_size` rows of the embedding. `pre` names
    /// llama.cpp's way to cut text into words where it is not recognised.
    ///
    /// # Errors
    /// When `tokenizer.json` is missing or damaged, or is of a kind that llama.cpp does not have.
    pub fn from_dir(dir: &Path, vocab_size: usize, pre: Option<&str>) -> Result<Self> {
        let files = Files::read(dir)?;
        let model = files.object(&files.tokenizer, "model")?;
        let specials = Specials::read(&files)?;
        let mut vocab = Tokens::read(&files, model, vocab_size)?;
        let byte_fallback = model.get("byte_fallback").and_then(Value::as_bool) == Some(true);
        let kind = model.get("type").and_then(Value::as_str).unwrap_or("(none)");
        let mut notes = std::mem::take(&mut vocab.notes);
        let own = match kind {
            "BPE" if byte_fallback => spm::metadata(&files, model, &mut vocab, &specials, &mut notes)?,
            "BPE" => bpe::metadata(&files, model, pre, &mut notes)?,
            other => {
                let reason = format!("a tokenizer of type {other} has no like in llama.cpp; BPE has");
                return Err(files.error(reason));
            }
        };
        vocab.check_unique(&files)?;
        let stops = specials.stop_texts(&vocab.texts);
        let mut metadata = own;
        metadata.extend(vocab.metadata());
        metadata.extend(specials.metadata(vocab_size));
        Ok(Self {
            metadata,
            notes,
            bos: specials.bos_text().map(str::to_string),
            stops,
        })
    }
}

impl GgufVocab {
    /// The token that a directory's tokenizer puts before every prompt.
    ///
    /// # Errors
    /// When `tokenizer.json` is missing or damaged.
    pub fn bos_of(dir: &Path) -> Result<Option<String>> {
        let specials = Specials::read(&Files::read(dir)?)?;
        Ok(specials.bos_text().map(str::to_string))
    }
}

fn key(name: &str) -> String {
    format!("tokenizer.ggml.{name}")
}

/// The JSON files that say something about a tokenizer; absent ones are empty.
struct Files {
    path: PathBuf,
    tokenizer: Map<String, Value>,
    tokenizer_config: Map<String, Value>,
    generation: Map<String, Value>,
    config: Map<String, Value>,
}

impl Files {
    fn read(dir: &Path) -> Result<Self> {
        let path = dir.join("tokenizer.json");
        let optional = |name: &str| {
            let path = dir.join(name);
            if path.is_file() {
                json(&path)
            } else {
                Ok(Map::new())
            }
        };
        Ok(Self {
            tokenizer: json(&path)?,
            tokenizer_config: optional("tokenizer_config.json")?,
            generation: optional("generation_config.json")?,
            config: optional("config.json")?,
            path,
        })
    }

    fn error(&self, reason: impl Into<String>) -> ModelError {
        ModelError::Weights {
            path: self.path.clone(),
            reason: reason.into(),
        }
    }

    fn object<'a>(&self, map: &'a Map<String, Value>, name: &str) -> Result<&'a Map<String, Value>> {
        let object = map.get(name).and_then(Value::as_object);
        object.ok_or_else(|| self.error(format!("has no object {name:?}")))
    }
}

fn json(path: &Path) -> Result<Map<String, Value>> {
    let bytes = std::fs::read(path).map_err(ModelError::io("read", path))?;
    serde_json::from_slice(&bytes).map_err(|source| ModelError::Json {
        path: path.to_path_buf(),
        source,
    })
}

/// The tokens by id.
struct Tokens {
    texts: Vec<String>,
    kinds: Vec<i32>,
    /// Ids that `added_tokens` names.
    added: BTreeMap<usize, bool>,
    notes: Vec<String>,
}

impl Tokens {
    /// Tokens of the vocabulary and added ones; rows of the embedding that have none are `[PAD…]` and unused.
    fn read(files: &Files, model: &Map<String, Value>, vocab_size: usize) -> Result<Self> {
        let vocab = files.object(model, "vocab")?;
        let mut texts: Vec<Option<String>> = vec![None; vocab_size];
        let mut beyond = 0;
        let mut place = |id: usize, text: &str| match texts.get_mut(id) {
            Some(place) => *place = Some(text.to_string()),
            None => beyond += 1,
        };
        for (text, id) in vocab {
            let id = id.as_u64();
            let id = id.ok_or_else(|| files.error(format!("the id of {text:?} is no number")))?;
            place(id as usize, text);
        }
        let mut added = BTreeMap::new();
        let list = files.tokenizer.get("added_tokens").and_then(Value::as_array);
        for token in list.into_iter().flatten() {
            let id = token.get("id").and_then(Value::as_u64);
            let text = token.get("content").and_then(Value::as_str);
            let (Some(id), Some(text)) = (id, text) else {
                return Err(files.error("an added token has no id or no content"));
            };
            place(id as usize, text);
            let special = token.get("special").and_then(Value::as_bool) == Some(true);
            if (id as usize) < vocab_size {
                added.insert(id as usize, special || looks_special(text));
            }
        }
        let mut notes = Vec::new();
        if beyond > 0 {
            notes.push(format!(
                "{beyond} tokens have ids beyond the {vocab_size} of the model and are left out"
            ));
        }
        let mut kinds = Vec::with_capacity(vocab_size);
        let texts = texts.into_iter().enumerate().map(|(id, text)| {
            kinds.push(match (&text, added.get(&id)) {
                (None, _) => kind::UNUSED,
                (Some(_), Some(true)) => kind::CONTROL,
                (Some(_), Some(false)) => kind::USER_DEFINED,
                (Some(_), None) => kind::NORMAL,
            });
            text.unwrap_or_else(|| format!("[PAD{id}]"))
        });
        let texts = texts.collect();
        Ok(Self {
            texts,
            kinds,
            added,
            notes,
        })
    }

    /// llama.cpp ends the process when two tokens have one text.
    fn check_unique(&self, files: &Files) -> Result<()> {
        let mut seen = std::collections::HashSet::with_capacity(self.texts.len());
        match self.texts.iter().find(|text| !seen.insert(text.as_str())) {
            None => Ok(()),
            Some(text) => Err(files.error(format!(
                "has the token {text:?} twice, which llama.cpp does not allow"
            ))),
        }
    }

    fn metadata(self) -> Vec<(String, GgufValue)> {
        vec![
            (key("tokens"), GgufValue::Array(GgufArray::String(self.texts))),
            (key("token_type"), GgufValue::Array(GgufArray::I32(self.kinds))),
        ]
    }
}

/// Some models forget to mark a control token as special; llama.cpp's converter goes by its look, and so must we, or text
/// in a template would not become that token.
fn looks_special(text: &str) -> bool {
    let between = |start: &str, end: &str| text.starts_with(start) && text.ends_with(end);
    ["<pad>", "<mask>", "<2mass>", "[@BOS@]"].contains(&text)
        || between("<|", "|>")
        || between("<｜", "｜>")
        || between("<unused", ">")
}
