//! A Hugging Face tokenizer from a GGUF file's metadata.

mod byte_level;
mod sentence_piece;
mod vocabulary;

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use self::byte_level::PreTokenizer;
use self::vocabulary::{Kind, MODEL, SENTENCE_PIECE, Vocabulary};
pub(super) use self::vocabulary::{SpecialIds, TOKENS};
use super::GgufFile;
use crate::error::{ModelError, Result};

/// The whole `tokenizer.json`, which some converters store beside llama.cpp's own keys.
const VERBATIM: &str = "tokenizer.huggingface.json";
const TEMPLATE: &str = "tokenizer.chat_template";

/// The files of a tokenizer by name, with their text: `tokenizer.json`, `tokenizer_config.json`,
/// `generation_config.json` and, when the model has a chat template, `chat_template.jinja`.
///
/// # Errors
/// When the kind of tokenizer or its pre-tokenizer is not known, or tokens, merges and scores do not fit together.
pub fn tokenizer_files(file: &GgufFile) -> Result<BTreeMap<&'static str, String>> {
    let ids = SpecialIds::read(file)?;
    let mut vocabulary = Vocabulary::read(file)?;
    let built = match file.text(VERBATIM)? {
        Some(text) => Built::Verbatim(checked(file, VERBATIM, text)?.to_string()),
        None => Built::of(file, &mut vocabulary, &ids)?,
    };
    let ends = Ends {
        bos: file
            .flag("tokenizer.ggml.add_bos_token")?
            .unwrap_or(built.usually_adds_bos()),
        eos: file.flag("tokenizer.ggml.add_eos_token")?.unwrap_or(false),
    };
    let template = file.text(TEMPLATE)?;
    let tokenizer = match built {
        Built::Verbatim(text) => text,
        Built::Parts { parts, .. } => {
            let processor = ends.post_processor(file, &vocabulary, &ids)?;
            text(&tokenizer_json(&vocabulary, *parts, processor), false)?
        }
    };
    let mut files = BTreeMap::from([
        ("tokenizer.json", tokenizer),
        (
            "tokenizer_config.json",
            text(&tokenizer_config(file, &vocabulary, &ids, &ends)?, true)?,
        ),
        ("generation_config.json", text(&generation_config(&ids), true)?),
    ]);
    if let Some(template) = template {
        files.insert("chat_template.jinja", template.to_string());
    }
    Ok(files)
}

/// Where `tokenizer.json` comes from.
enum Built {
    Verbatim(String),
    Parts {
        parts: Box<Parts>,
        usually_adds_bos: bool,
    },
}

impl Built {
    fn of(file: &GgufFile, vocabulary: &mut Vocabulary, ids: &SpecialIds) -> Result<Self> {
        let kind = file.text(MODEL)?.ok_or_else(|| file.missing(MODEL))?;
        let (parts, usually_adds_bos) = match kind {
            "gpt2" => {
                let pre_tokenizer = PreTokenizer::of(file)?;
                (pre_tokenizer.parts(file, vocabulary)?, pre_tokenizer.adds_bos)
            }
            SENTENCE_PIECE => (sentence_piece::parts(file, vocabulary, ids)?, true),
            other => {
                let known = "\"gpt2\" (byte-level BPE) and \"llama\" (SentencePiece)";
                return Err(file.error(format!("has {MODEL} = {other:?}; read are {known}")));
            }
        };
        Ok(Self::Parts {
            parts: Box::new(parts),
            usually_adds_bos,
        })
    }

    fn usually_adds_bos(&self) -> bool {
        matches!(
            self,
            Self::Parts {
                usually_adds_bos: true,
                ..
            }
        )
    }
}

/// A text that must be a JSON object.
pub(super) fn checked<'a>(file: &GgufFile, key: &str, text: &'a str) -> Result<&'a str> {
    match serde_json::from_str::<Map<String, Value>>(text) {
        Ok(_) => Ok(text),
        Err(cause) => Err(file.error(format!("metadata {key} is no JSON object: {cause}"))),
    }
}

pub(super) fn text(value: &Value, pretty: bool) -> Result<String> {
    let text = if pretty {
        serde_json::to_string_pretty(value).map(|text| text + "\n")
    } else {
        serde_json::to_string(value)
    };
    text.map_err(|source| ModelError::Json {
        path: "(new file)".into(),
        source,
    })
}

/// What the two kinds of tokenizers make differently.
struct Parts {
    normalizer: Value,
    pre_tokenizer: Value,
    decoder: Value,
    model: Value,
}

/// What becomes of text that no token covers, and of pieces that are tokens as a whole.
struct Fallback {
    unknown: Option<String>,
    bytes: bool,
    ignores_merges: bool,
}

fn bpe(vocabulary: &Vocabulary, merges: Vec<[String; 2]>, fallback: &Fallback) -> Value {
    let entry = |token: &vocabulary::Token| (token.text.clone(), Value::from(token.id));
    let vocab: Map<String, Value> = vocabulary.tokens().iter().map(entry).collect();
    json!({
        "type": "BPE",
        "dropout": null,
        "unk_token": fallback.unknown,
        "continuing_subword_prefix": null,
        "end_of_word_suffix": null,
        "fuse_unk": fallback.unknown.is_some(),
        "byte_fallback": fallback.bytes,
        "ignore_merges": fallback.ignores_merges,
        "vocab": vocab,
        "merges": merges,
    })
}

fn tokenizer_json(vocabulary: &Vocabulary, parts: Parts, post_processor: Value) -> Value {
    let added: Vec<Value> = vocabulary
        .tokens()
        .iter()
        .filter(|token| match token.kind {
            Kind::Control | Kind::Unknown => true,
            // One that was respelled as a piece is no longer found in text as it stands.
            Kind::UserDefined => !token.text.chars().all(|character| character == '\u{2581}'),
            Kind::Normal | Kind::Unused | Kind::Byte => false,
        })
        .map(|token| {
            json!({
                "id": token.id, "content": token.text, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": token.kind != Kind::UserDefined,
            })
        })
        .collect();
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": parts.normalizer,
        "pre_tokenizer": parts.pre_tokenizer,
        "post_processor": post_processor,
        "decoder": parts.decoder,
        "model": parts.model,
    })
}

/// Whether a sequence gets a token before and one behind it.
struct Ends {
    bos: bool,
    eos: bool,
}

impl Ends {
    fn post_processor(&self, file: &GgufFile, vocabulary: &Vocabulary, ids: &SpecialIds) -> Result<Value> {
        let token = |added: bool, id: Option<u32>, name: &str| {
            if !added {
                return Ok(None);
            }
            let token = id.and_then(|id| vocabulary.by_id(id));
            let missing = || file.error(format!("adds a token for {name} and does not say which"));
            token.map(Some).ok_or_else(missing)
        };
        let bos = token(self.bos, ids.bos, "the beginning")?;
        let eos = token(self.eos, ids.eos, "the end")?;
        let sequence = |id: &str, kind: u32| {
            let special =
                |token: &vocabulary::Token| json!({"SpecialToken": {"id": token.text, "type_id": kind}});
            let own = json!({"Sequence": {"id": id, "type_id": kind}});
            bos.map(special)
                .into_iter()
                .chain([own])
                .chain(eos.map(special))
                .collect::<Vec<Value>>()
        };
        let special: Map<String, Value> = [bos, eos]
            .into_iter()
            .flatten()
            .map(|token| {
                let entry = json!({"id": token.text, "ids": [token.id], "tokens": [token.text]});
                (token.text.clone(), entry)
            })
            .collect();
        let pair = [sequence("A", 0), sequence("B", 1)].concat();
        Ok(json!({
            "type": "TemplateProcessing",
            "single": sequence("A", 0),
            "pair": pair,
            "special_tokens": special,
        }))
    }
}

fn tokenizer_config(
    file: &GgufFile,
    vocabulary: &Vocabulary,
    ids: &SpecialIds,
    ends: &Ends,
) -> Result<Value> {
    let name = |id: Option<u32>| {
        id.and_then(|id| vocabulary.by_id(id))
            .map(|token| token.text.as_str())
    };
    let mut config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": name(ids.bos),
        "eos_token": name(ids.eos),
        "unk_token": name(ids.unknown),
        "pad_token": name(ids.padding),
        "add_bos_token": ends.bos,
        "add_eos_token": ends.eos,
        "clean_up_tokenization_spaces": false,
    });
    if let Some(architecture) = file.text("general.architecture")?
        && let Some(positions) = file.count(&format!("{architecture}.context_length"))?
    {
        config["model_max_length"] = json!(positions);
    }
    if let Some(template) = file.text(TEMPLATE)? {
        config["chat_template"] = json!(template);
    }
    Ok(config)
}

fn generation_config(ids: &SpecialIds) -> Value {
    let eos = match ids.stops.as_slice() {
        [] => Value::Null,
        [only] => json!(only),
        several => json!(several),
    };
    json!({"bos_token_id": ids.bos, "eos_token_id": eos, "pad_token_id": ids.padding})
}
