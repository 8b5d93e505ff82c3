//! The tokens of a GGUF file: their kinds and which of them have a part to play.

use std::collections::{HashMap, HashSet};

use crate::error::Result;
use crate::weights::gguf::GgufFile;

/// The key of the list of tokens.
pub(in crate::weights::gguf) const TOKENS: &str = "tokenizer.ggml.tokens";
/// The key of the kind of tokenizer.
pub(super) const MODEL: &str = "tokenizer.ggml.model";
/// The value of [`MODEL`] for SentencePiece vocabularies.
pub(super) const SENTENCE_PIECE: &str = "llama";

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A piece of text.
    Normal,
    /// Stands for what cannot be encoded.
    Unknown,
    /// Never made of text.
    Control,
    /// Found in text before all others.
    UserDefined,
    /// Fills a gap.
    Unused,
    /// One byte.
    Byte,
}

impl Kind {
    fn from_id(id: f64) -> Option<Self> {
        Some(match id as i64 {
            0 | 1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => return None,
        })
    }
}

/// A token that is part of the tokenizer.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Token {
    pub id: u32,
    pub text: String,
    pub kind: Kind,
}

/// The tokens by id, without those that only fill the embedding up.
#[derive(Debug)]
pub(super) struct Vocabulary(Vec<Token>);

impl Vocabulary {
    pub fn read(file: &GgufFile) -> Result<Self> {
        let texts = file.strings(TOKENS)?.ok_or_else(|| file.missing(TOKENS))?;
        const KINDS: &str = "tokenizer.ggml.token_type";
        let kinds = file.numbers(KINDS)?.unwrap_or_else(|| vec![1.0; texts.len()]);
        if kinds.len() != texts.len() || u32::try_from(texts.len()).is_err() {
            let (kinds, texts) = (kinds.len(), texts.len());
            return Err(file.error(format!("has {texts} tokens and {kinds} types of tokens")));
        }
        let mut tokens = Vec::with_capacity(texts.len());
        for (id, (text, kind)) in texts.iter().zip(kinds).enumerate() {
            let known = Kind::from_id(kind);
            let kind =
                known.ok_or_else(|| file.error(format!("token {id} is of the unknown type {kind}")))?;
            if text.is_empty() || (kind == Kind::Unused && *text == format!("[PAD{id}]")) {
                continue;
            }
            tokens.push(Token {
                id: id as u32,
                text: text.clone(),
                kind,
            });
        }
        let vocabulary = Self(tokens);
        vocabulary.check_unique(file)?;
        Ok(vocabulary)
    }

    fn check_unique(&self, file: &GgufFile) -> Result<()> {
        let mut seen = HashMap::with_capacity(self.0.len());
        for token in &self.0 {
            if let Some(other) = seen.insert(token.text.as_str(), token.id) {
                let (text, id) = (&token.text, token.id);
                return Err(file.error(format!("tokens {other} and {id} are both {text:?}")));
            }
        }
        Ok(())
    }

    pub fn tokens(&self) -> &[Token] {
        &self.0
    }

    pub fn ids(&self) -> HashMap<&str, u32> {
        self.0
            .iter()
            .map(|token| (token.text.as_str(), token.id))
            .collect()
    }

    pub fn by_id(&self, id: u32) -> Option<&Token> {
        let at = self.0.binary_search_by_key(&id, |token| token.id).ok()?;
        self.0.get(at)
    }

    /// Gives tokens other texts; those whose new text is another token's keep theirs.
    pub fn respell(&mut self, spell: impl Fn(&Token) -> Option<String>) {
        let taken: HashSet<String> = self.0.iter().map(|token| token.text.clone()).collect();
        for token in &mut self.0 {
            if let Some(text) = spell(token).filter(|text| !taken.contains(text)) {
                token.text = text;
            }
        }
    }
}

/// Tokens with a part to play, by id.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::weights::gguf) struct SpecialIds {
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub unknown: Option<u32>,
    pub padding: Option<u32>,
    /// Tokens at which generation stops: the end of a sequence, of a turn, of a message.
    pub stops: Vec<u32>,
}

impl SpecialIds {
    pub fn read(file: &GgufFile) -> Result<Self> {
        let Some(tokens) = file.strings(TOKENS)? else {
            return Ok(Self::default());
        };
        let tokens = tokens.len() as u64;
        let read = |name: &str| {
            let key = format!("tokenizer.ggml.{name}_token_id");
            match file.count(&key)? {
                Some(id) if id >= tokens || u32::try_from(id).is_err() => {
                    Err(file.error(format!("has {key} = {id}, but {tokens} tokens")))
                }
                id => Ok(id.map(|id| id as u32)),
            }
        };
        // SentencePiece's own numbers, which files may leave out.
        let is_sentence_piece = file.text(MODEL)? == Some(SENTENCE_PIECE);
        let usual = |id: u32| Some(id).filter(|&id| is_sentence_piece && u64::from(id) < tokens);
        let eos = read("eos")?.or(usual(2));
        let mut stops: Vec<u32> = Vec::new();
        for id in [eos, read("eot")?, read("eom")?].into_iter().flatten() {
            if !stops.contains(&id) {
                stops.push(id);
            }
        }
        Ok(Self {
            bos: read("bos")?.or(usual(1)),
            eos,
            unknown: read("unknown")?.or(usual(0)),
            padding: read("padding")?,
            stops,
        })
    }
}
