//! Control tokens, which no text of a user becomes.
//!
//! The tokenizer is told not to look for special tokens in texts. That is not enough for all: one whose vocabulary has the
//! special tokens among its words finds them there (`</s>` in a Unigram model, `[SEP]` in a list of words), and some tokens that
//! end a sequence are not marked as special. So what comes out is looked at, and a text with a control token in it is encoded again
//! in pieces that do not spell one.

use std::collections::BTreeSet;

use serde::Deserialize;
use tokenizers::models::ModelWrapper;
use tokenizers::{Encoding, Tokenizer as HfTokenizer};

/// The special tokens of a tokenizer, and those added to its vocabulary at which generation stops.
pub(crate) struct ControlTokens {
    ids: BTreeSet<u32>,
    texts: Vec<String>,
}

impl ControlTokens {
    /// `json` is the content of `tokenizer.json`.
    pub fn of(tokenizer: &HfTokenizer, stop_ids: &BTreeSet<u32>, json: &[u8]) -> Self {
        let added = tokenizer.get_added_tokens_decoder();
        // A stop token that was not added is a word as any other, such as a line feed.
        let control = added
            .iter()
            .filter(|(id, token)| token.special || stop_ids.contains(id));
        let mut ids: BTreeSet<u32> = control.map(|(&id, _)| id).collect();
        let texts = ids.iter().filter_map(|&id| tokenizer.id_to_token(id));
        let texts = texts.filter(|text| !text.is_empty()).collect();
        // A character that the vocabulary does not have is text, whatever its token is called.
        if let Some(unknown) = unknown_id(tokenizer, json) {
            ids.remove(&unknown);
        }
        Self { ids, texts }
    }

    /// How they are written.
    pub fn texts(&self) -> &[String] {
        &self.texts
    }

    /// Whether a text became one; those that the tokenizer puts around every text do not count.
    pub fn are_in(&self, encoding: &Encoding) -> bool {
        let own = encoding.get_special_tokens_mask();
        let mut ids = encoding.get_ids().iter().zip(own);
        ids.any(|(id, &is_added)| is_added == 0 && self.ids.contains(id))
    }

    /// The text in pieces of which none spells a control token, but for one that overlaps itself.
    pub fn apart<'a>(&self, text: &'a str) -> Vec<&'a str> {
        let mut cuts = BTreeSet::from([0, text.len()]);
        for control in &self.texts {
            let first = control.chars().next().map_or(0, char::len_utf8);
            cuts.extend(text.match_indices(control.as_str()).map(|(at, _)| at + first));
        }
        let ends = cuts.iter().skip(1);
        cuts.iter()
            .zip(ends)
            .map(|(&start, &end)| &text[start..end])
            .collect()
    }
}

/// The token of characters that are not in the vocabulary.
fn unknown_id(tokenizer: &HfTokenizer, json: &[u8]) -> Option<u32> {
    let name = match tokenizer.get_model() {
        ModelWrapper::BPE(model) => model.unk_token.clone()?,
        ModelWrapper::WordPiece(model) => model.unk_token.clone(),
        ModelWrapper::WordLevel(model) => model.unk_token.clone(),
        ModelWrapper::Unigram(_) => {
            #[derive(Deserialize)]
            struct File {
                model: Model,
            }
            #[derive(Deserialize)]
            struct Model {
                unk_id: Option<u32>,
            }
            return serde_json::from_slice::<File>(json).ok()?.model.unk_id;
        }
    };
    tokenizer.token_to_id(&name)
}
