//! The tokenizer of a model directory.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use sha2::{Digest, Sha256};
use tokenizers::{Encoding, Tokenizer as HfTokenizer};

use crate::chat_format::{ChatFormat, Part};
use crate::control::ControlTokens;
use crate::error::{DataError, Result};
use crate::record::Turn;
use crate::template::PromptTemplate;
use crate::token_stream::TokenStream;

/// Files that make up a tokenizer; all but the first are optional.
const FILES: [&str; 8] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "chat_template.jinja",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
];

/// The largest `tokenizer.json` that is read; those of vocabularies of 256 000 tokens have about 35 MB.
const MAX_TOKENIZER_BYTES: u64 = 256 << 20;
/// The same of the JSON files beside it.
const MAX_JSON_BYTES: u64 = 32 << 20;

/// A model's tokenizer with its end-of-sequence tokens; cheap to clone, usable from many threads.
///
/// Text from users never becomes a control token, one that is special or ends a sequence: `</s>` in an answer is encoded as
/// those four characters. Only one in a template's own text is one.
#[derive(Clone)]
pub struct Tokenizer {
    inner: Arc<Inner>,
}

struct Inner {
    dir: PathBuf,
    /// Encodes special tokens in the text as text.
    plain: HfTokenizer,
    control: ControlTokens,
    eos_id: u32,
    stop_ids: Vec<u32>,
    vocab_size: usize,
    hash: String,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("dir", &self.inner.dir)
            .field("vocab_size", &self.inner.vocab_size)
            .finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// Reads `tokenizer.json` and, for the end-of-sequence tokens, `tokenizer_config.json`, `generation_config.json` and
    /// `config.json`.
    ///
    /// # Errors
    /// When the tokenizer is missing or damaged, or no end-of-sequence token is named.
    pub fn from_dir(dir: &Path) -> Result<Self> {
        let path = dir.join("tokenizer.json");
        let bytes = bounded(&path, MAX_TOKENIZER_BYTES)?;
        let mut plain =
            caught(|| HfTokenizer::from_bytes(&bytes)).map_err(|reason| DataError::tokenizer(dir, reason))?;
        // A tokenizer.json may ask for truncation or padding: a row would lose its end without anybody noticing.
        plain.with_padding(None);
        plain
            .with_truncation(None)
            .map_err(|error| DataError::tokenizer(dir, error))?;
        plain.set_encode_special_tokens(true);
        let ends = EndTokens::read(dir, &plain)?;
        let inner = Inner {
            dir: dir.to_path_buf(),
            control: ControlTokens::of(&plain, &ends.stop_ids, &bytes),
            eos_id: ends.eos_id,
            stop_ids: ends.stop_ids.into_iter().collect(),
            vocab_size: plain.get_vocab_size(true),
            hash: Sha256::digest(&bytes)
                .iter()
                .fold("sha256:".into(), |text, byte| text + &format!("{byte:02x}")),
            plain,
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// The ids of a prompt, exactly as training sees and inference sends them.
    ///
    /// # Errors
    /// When the tokenizer fails on the text.
    pub fn encode_prompt(
        &self,
        template: &PromptTemplate,
        question: &str,
        answer: &str,
        history: &[Turn],
    ) -> Result<Vec<u32>> {
        let segments = template.segments(question, answer, history);
        let has_special = |text: &str| {
            let mut special = self.inner.control.texts().iter();
            special.any(|special| text.contains(special.as_str()))
        };
        if !segments.iter().any(|(text, own)| *own && has_special(text)) {
            let prompt: String = segments.into_iter().map(|(text, _)| text).collect();
            return self.encode(&prompt, true);
        }
        let mut ids = Vec::new();
        let mut pending = String::new();
        for (text, own) in segments {
            if !own {
                pending.push_str(&text);
                continue;
            }
            let mut rest = text.as_str();
            while let Some((at, special)) = self.first_special(rest) {
                pending.push_str(&rest[..at]);
                ids.extend(self.encode(&std::mem::take(&mut pending), false)?);
                ids.extend(self.inner.plain.token_to_id(special));
                rest = &rest[at + special.len()..];
            }
            pending.push_str(rest);
        }
        ids.extend(self.encode(&pending, false)?);
        Ok(ids)
    }

    /// The ids of a whole conversation, to the end of its last answer, as models that score answers read them: prompt and
    /// answer are one text, because the published ones were trained so.
    ///
    /// # Errors
    /// When the tokenizer fails on the text.
    pub fn encode_conversation(
        &self,
        format: &ChatFormat,
        question: &str,
        answer: &str,
        history: &[Turn],
    ) -> Result<Vec<u32>> {
        let parts = format.conversation(question, answer, history);
        self.encode_parts(&parts, format.adds_special_tokens())
    }

    /// The ids of a conversation up to where its answer begins, as an upstream is asked.
    ///
    /// # Errors
    /// When the tokenizer fails on the text.
    pub fn encode_chat_prompt(
        &self,
        format: &ChatFormat,
        question: &str,
        history: &[Turn],
    ) -> Result<Vec<u32>> {
        let parts = format.prompt(question, history);
        self.encode_parts(&parts, format.adds_special_tokens())
    }

    /// The ids of an answer and what ends it, as an upstream writes them behind such a prompt.
    ///
    /// # Errors
    /// When the tokenizer fails on the text.
    pub fn encode_chat_answer(&self, format: &ChatFormat, answer: &str) -> Result<Vec<u32>> {
        let mut ids = self.encode_target(answer)?;
        ids.extend(self.encode_parts(&format.end(), false)?);
        Ok(ids)
    }

    fn encode_parts(&self, parts: &[Part<'_>], add_special_tokens: bool) -> Result<Vec<u32>> {
        let mut out = Encoded {
            tokenizer: self,
            ids: Vec::new(),
            pending: String::new(),
            // What the tokenizer puts around a text stands at the beginning, once.
            adds_special_tokens: add_special_tokens,
        };
        for part in parts {
            match part {
                Part::Text(text) => out.pending.push_str(text),
                Part::End => out.control(Some(self.eos_id()))?,
                Part::Own(text) => {
                    let mut rest = text.as_str();
                    while let Some((at, special)) = self.first_special(rest) {
                        out.pending.push_str(&rest[..at]);
                        out.control(self.inner.plain.token_to_id(special))?;
                        rest = &rest[at + special.len()..];
                    }
                    out.pending.push_str(rest);
                }
            }
        }
        out.control(None)?;
        Ok(out.ids)
    }

    /// Whether a text of ours becomes one control token.
    pub(crate) fn is_control(&self, text: &str) -> bool {
        self.inner.control.texts().iter().any(|control| control == text)
    }

    fn first_special<'a>(&'a self, text: &str) -> Option<(usize, &'a str)> {
        let special = self.inner.control.texts().iter();
        let found = special.filter_map(|special| Some((text.find(special.as_str())?, special.as_str())));
        // The earliest, and of those that start together the longest.
        found.min_by_key(|(at, special)| (*at, usize::MAX - special.len()))
    }

    /// The ids of a correction: no special tokens are added.
    ///
    /// # Errors
    /// When the tokenizer fails on the text.
    pub fn encode_target(&self, text: &str) -> Result<Vec<u32>> {
        self.encode(text, false)
    }

    fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>> {
        if text.is_empty() && !add_special_tokens {
            return Ok(Vec::new());
        }
        let encoding = self.encoding(text, add_special_tokens)?;
        if !self.inner.control.are_in(&encoding) {
            return Ok(encoding.get_ids().to_vec());
        }
        // What the tokenizer puts around a text stays around it.
        let is_own = |mask: &&u32| **mask == 1;
        let mask = encoding.get_special_tokens_mask();
        let before = mask.iter().take_while(is_own).count();
        let after = mask.iter().rev().take_while(is_own).count();
        let ids = encoding.get_ids();
        let mut out = ids[..before].to_vec();
        for piece in self.inner.control.apart(text) {
            self.encode_apart(piece, &mut out)?;
        }
        out.extend(&ids[ids.len() - after..]);
        Ok(out)
    }

    /// Encodes a piece of a text that became a control token: character by character where it still does.
    fn encode_apart(&self, piece: &str, out: &mut Vec<u32>) -> Result<()> {
        let encoding = self.encoding(piece, false)?;
        if !self.inner.control.are_in(&encoding) {
            out.extend(encoding.get_ids());
            return Ok(());
        }
        for (at, char) in piece.char_indices() {
            let encoding = self.encoding(&piece[at..at + char.len_utf8()], false)?;
            if self.inner.control.are_in(&encoding) {
                let reason = format!("knows {char:?} as a control token alone; a text cannot have it");
                return Err(DataError::tokenizer(&self.inner.dir, reason));
            }
            out.extend(encoding.get_ids());
        }
        Ok(())
    }

    fn encoding(&self, text: &str, add_special_tokens: bool) -> Result<Encoding> {
        caught(|| self.inner.plain.encode_fast(text, add_special_tokens))
            .map_err(|error| DataError::tokenizer(&self.inner.dir, error))
    }

    /// The text of ids, special tokens left out.
    ///
    /// # Errors
    /// When the tokenizer fails on the ids.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        caught(|| self.inner.plain.decode(ids, true))
            .map_err(|error| DataError::tokenizer(&self.inner.dir, error))
    }

    /// A token as it is written in the vocabulary, for display.
    pub fn token_text(&self, id: u32) -> String {
        self.inner
            .plain
            .id_to_token(id)
            .unwrap_or_else(|| format!("<{id}>"))
    }

    /// The token that ends a correction in training.
    pub fn eos_id(&self) -> u32 {
        self.inner.eos_id
    }

    /// The tokens at which generation stops.
    pub fn stop_ids(&self) -> &[u32] {
        &self.inner.stop_ids
    }

    /// Number of tokens, added ones included.
    pub fn vocab_size(&self) -> usize {
        self.inner.vocab_size
    }

    /// `sha256:` and the hash of `tokenizer.json`.
    pub fn hash(&self) -> &str {
        &self.inner.hash
    }

    /// The directory it was read from.
    pub fn dir(&self) -> &Path {
        &self.inner.dir
    }

    /// Copies the tokenizer's files into `dir` as they are.
    ///
    /// # Errors
    /// When a file cannot be copied.
    pub fn save_to(&self, dir: &Path) -> Result<()> {
        copy_tokenizer_files(&self.inner.dir, dir)
    }

    /// A decoder for tokens that come one by one.
    pub fn stream(&self) -> TokenStream {
        TokenStream::new(self.clone())
    }
}

/// Ids of a text in parts.
struct Encoded<'a> {
    tokenizer: &'a Tokenizer,
    ids: Vec<u32>,
    /// Text that is not encoded yet: parts without a control token between them are one text.
    pending: String,
    adds_special_tokens: bool,
}

impl Encoded<'_> {
    /// Encodes the text so far, and adds a control token.
    fn control(&mut self, token: Option<u32>) -> Result<()> {
        let text = std::mem::take(&mut self.pending);
        if !text.is_empty() {
            let adds = std::mem::take(&mut self.adds_special_tokens);
            self.ids.extend(self.tokenizer.encode(&text, adds)?);
        }
        self.ids.extend(token);
        Ok(())
    }
}

/// Copies the files of a tokenizer that lie in `from` into `to`, as they are.
///
/// # Errors
/// When a file cannot be copied.
pub fn copy_tokenizer_files(from: &Path, to: &Path) -> Result<()> {
    for name in FILES {
        let file = from.join(name);
        if file.is_file() {
            std::fs::copy(&file, to.join(name)).map_err(DataError::io("copy", &file))?;
        }
    }
    Ok(())
}

struct EndTokens {
    eos_id: u32,
    stop_ids: BTreeSet<u32>,
}

impl EndTokens {
    fn read(dir: &Path, tokenizer: &HfTokenizer) -> Result<Self> {
        let mut stop_ids = BTreeSet::new();
        for file in ["generation_config.json", "config.json"] {
            match json(&dir.join(file))?.get("eos_token_id") {
                Some(Value::Array(ids)) => stop_ids.extend(ids.iter().filter_map(token_id)),
                Some(id) => stop_ids.extend(token_id(id)),
                None => {}
            }
        }
        let declared = json(&dir.join("tokenizer_config.json"))?;
        let text = declared
            .get("eos_token")
            .and_then(|token| token.as_str().or_else(|| token.get("content")?.as_str()));
        let eos_id = match text {
            Some(text) => Some(tokenizer.token_to_id(text).ok_or_else(|| {
                DataError::tokenizer(dir, format!("the eos_token {text:?} is not in the vocabulary"))
            })?),
            None => stop_ids.first().copied(),
        };
        let eos_id = eos_id.ok_or_else(|| {
            let reason = "no end-of-sequence token is named: set eos_token in tokenizer_config.json";
            DataError::tokenizer(dir, reason)
        })?;
        if tokenizer.id_to_token(eos_id).is_none() {
            let reason = format!("the eos_token_id {eos_id} is not in the vocabulary");
            return Err(DataError::tokenizer(dir, reason));
        }
        stop_ids.insert(eos_id);
        Ok(Self { eos_id, stop_ids })
    }
}

/// An id; a number that is none names no token.
fn token_id(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|id| u32::try_from(id).ok())
}

/// Runs something of the `tokenizers` crate, which takes some of what a damaged `tokenizer.json` says for granted and then
/// panics: when it is read (a normaliser without its table) or only when it is used (a table that points outside itself).
fn caught<T>(run: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    // What a panic leaves half done is a cache of words at most.
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)) {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err("tokenizer.json is damaged: its parts contradict each other".into()),
    }
}

/// A JSON file, or null when there is none.
pub(crate) fn json(path: &Path) -> Result<Value> {
    match std::fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Value::Null),
        _ => {}
    }
    serde_json::from_slice(&bounded(path, MAX_JSON_BYTES)?).map_err(|error| DataError::Format {
        path: path.into(),
        reason: format!("is not valid JSON: {error}"),
    })
}

/// A regular file of at most `max_bytes`: a pipe would block, a device has no end.
pub(crate) fn bounded(path: &Path, max_bytes: u64) -> Result<Vec<u8>> {
    let io = || DataError::io("read", path);
    let error = |reason: String| DataError::Format {
        path: path.into(),
        reason,
    };
    if !std::fs::metadata(path).map_err(io())?.is_file() {
        return Err(error("is not a file".into()));
    }
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(io())?;
    file.take(max_bytes + 1).read_to_end(&mut bytes).map_err(io())?;
    if bytes.len() as u64 > max_bytes {
        return Err(error(format!(
            "is larger than the {max_bytes} bytes that such a file may have"
        )));
    }
    Ok(bytes)
}
