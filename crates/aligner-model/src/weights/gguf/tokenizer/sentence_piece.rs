//! SentencePiece BPE (`tokenizer.ggml.model` = `llama`): merges from the tokens' scores.

use serde_json::{Value, json};

use super::byte_level::stored_merges;
use super::vocabulary::{Kind, Vocabulary};
use super::{Fallback, Parts, SpecialIds, bpe};
use crate::error::Result;
use crate::weights::gguf::GgufFile;

const SCORES: &str = "tokenizer.ggml.scores";
/// What SentencePiece writes a space as.
const SPACE: &str = "\u{2581}";
/// SentencePiece's own limit is 16 characters unless set; the longest known pieces are runs of 31 spaces.
const MAX_PIECE_BYTES: usize = 512;

/// The parts of `tokenizer.json` of a SentencePiece vocabulary, whose texts may be changed.
pub(super) fn parts(file: &GgufFile, vocabulary: &mut Vocabulary, ids: &SpecialIds) -> Result<Parts> {
    let is_gemma = file
        .text("general.architecture")?
        .is_some_and(|name| name.starts_with("gemma"));
    if is_gemma {
        as_gemma(vocabulary);
    }
    let prefixed = file.flag("tokenizer.ggml.add_space_prefix")?.unwrap_or(!is_gemma);
    let merges = match stored_merges(file, vocabulary)? {
        Some(merges) => merges,
        None => recovered(file, vocabulary, is_gemma)?,
    };
    let unknown = ids.unknown.and_then(|id| vocabulary.by_id(id));
    let fallback = Fallback {
        unknown: unknown.map(|token| token.text.clone()),
        bytes: vocabulary.tokens().iter().any(|token| token.kind == Kind::Byte),
        ignores_merges: false,
    };
    Ok(Parts {
        normalizer: normalizer(prefixed),
        pre_tokenizer: Value::Null,
        decoder: decoder(prefixed),
        model: bpe(vocabulary, merges, &fallback),
    })
}

/// Gemma's spellings in Hugging Face: runs of spaces are pieces like others, and so is the tabulator.
fn as_gemma(vocabulary: &mut Vocabulary) {
    vocabulary.respell(|token| match token.kind {
        Kind::UserDefined | Kind::Normal if token.text.bytes().all(|byte| byte == b' ') => {
            Some(SPACE.repeat(token.text.len()))
        }
        Kind::Byte if token.text == "<0x09>" => Some("\t".into()),
        _ => None,
    });
}

fn normalizer(prefixed: bool) -> Value {
    let spaces = json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE});
    if prefixed {
        json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": SPACE}, spaces]})
    } else {
        spaces
    }
}

fn decoder(prefixed: bool) -> Value {
    let mut steps = vec![
        json!({"type": "Replace", "pattern": {"String": SPACE}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if prefixed {
        steps.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    json!({"type": "Sequence", "decoders": steps})
}

/// A piece cut in two.
struct Cut {
    token: u32,
    /// Where, in bytes.
    at: u32,
    score: f64,
    /// Characters on each side.
    left: u32,
    right: u32,
}

/// SentencePiece merges whichever neighbours make the piece of the highest score. BPE has a list of pairs instead: all
/// ways to cut every piece into two, those of the highest score first, of one score those with the longer left part.
fn recovered(file: &GgufFile, vocabulary: &Vocabulary, is_gemma: bool) -> Result<Vec<[String; 2]>> {
    let scores = scores(file, vocabulary, is_gemma)?;
    let ids = vocabulary.ids();
    let of_text = |kind: Kind| !matches!(kind, Kind::Control | Kind::Unknown | Kind::Byte);
    let is_piece = |text: &str| {
        let token = ids.get(text).and_then(|&id| vocabulary.by_id(id));
        // A tabulator that was a byte is a piece: only its text was changed.
        token.is_some_and(|token| of_text(token.kind) || token.text == "\t")
    };
    let mut cuts = Vec::new();
    for (index, token) in vocabulary.tokens().iter().enumerate() {
        if !of_text(token.kind) {
            continue;
        }
        if token.text.len() > MAX_PIECE_BYTES {
            if token.kind == Kind::UserDefined {
                continue;
            }
            let (id, bytes) = (token.id, token.text.len());
            return Err(file.error(format!(
                "token {id} has {bytes} bytes, which no piece of text has"
            )));
        }
        let characters = token.text.chars().count();
        for (before, (at, _)) in token.text.char_indices().enumerate().skip(1) {
            if is_piece(&token.text[..at]) && is_piece(&token.text[at..]) {
                cuts.push(Cut {
                    token: index as u32,
                    at: at as u32,
                    score: scores[token.id as usize],
                    left: before as u32,
                    right: (characters - before) as u32,
                });
            }
        }
    }
    cuts.sort_by(|a, b| {
        let by_score = b.score.total_cmp(&a.score);
        by_score.then(b.left.cmp(&a.left)).then(b.right.cmp(&a.right))
    });
    let pair = |cut: Cut| {
        let (left, right) = vocabulary.tokens()[cut.token as usize]
            .text
            .split_at(cut.at as usize);
        [left.to_string(), right.to_string()]
    };
    Ok(cuts.into_iter().map(pair).collect())
}

/// A score for each token of the file. Gemma's order of merges is that of its tokens and not of their scores; so it is
/// where a converter had no scores and wrote one number for all.
fn scores(file: &GgufFile, vocabulary: &Vocabulary, is_gemma: bool) -> Result<Vec<f64>> {
    let tokens = vocabulary.tokens();
    let count = tokens.last().map_or(0, |token| token.id as usize + 1);
    let by_position = || (0..count).map(|id| -(id as f64)).collect();
    let Some(scores) = file.numbers(SCORES)? else {
        return Ok(by_position());
    };
    if scores.len() < count || scores.iter().any(|score| !score.is_finite()) {
        let found = scores.len();
        return Err(file.error(format!(
            "{SCORES} has {found} numbers for {count} tokens, or one is not finite"
        )));
    }
    let mut normal = tokens
        .iter()
        .filter(|token| token.kind == Kind::Normal)
        .map(|token| scores[token.id as usize]);
    let first = normal.next();
    let alike = normal.all(|score| Some(score) == first);
    Ok(if is_gemma || alike { by_position() } else { scores })
}
