//! Byte-level BPE (`tokenizer.ggml.model` = `gpt2`): how text is split before merges apply, and the merges.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::vocabulary::Vocabulary;
use crate::error::Result;
use crate::weights::gguf::GgufFile;

const PRE: &str = "tokenizer.ggml.pre";
const MERGES: &str = "tokenizer.ggml.merges";

/// How a family's text is split, and what else its tokenizer does that a GGUF file says by one name alone.
#[derive(Debug)]
pub(super) struct PreTokenizer {
    /// The values of `tokenizer.ggml.pre` that mean it.
    names: &'static [&'static str],
    splits: Splits,
    /// Whether a piece that is a token is that token, whatever the merges say.
    ignores_merges: bool,
    /// Whether a sequence begins with the beginning token where the file does not say so.
    pub adds_bos: bool,
    /// Whether text is composed (NFC) first.
    composes: bool,
}

#[derive(Debug)]
enum Splits {
    /// GPT-2's expression, which the `ByteLevel` step has built in.
    Gpt2,
    /// Every digit alone, then GPT-2's.
    DigitsThenGpt2,
    /// Expressions, one after the other on what the one before left whole or cut out.
    Patterns(&'static [&'static str]),
}

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Llama 3's with single digits.
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const SEED_CODER: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const DEEPSEEK_V3: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;
const CJK: &str = "[\u{4e00}-\u{9fa5}\u{800}-\u{4e00}\u{ac00}-\u{d7ff}]+";
/// DeepSeek LLM's letters that have case; written as code points because several look alike.
const CASED: &str = concat!(
    "\\s?[A-Za-z\u{b5}\u{c0}-\u{d6}\u{d8}-\u{f6}\u{f8}-\u{1ba}\u{1bc}-\u{1bf}\u{1c4}-\u{293}\u{295}-\u{2af}",
    "\u{370}-\u{373}\u{376}\u{377}\u{37b}-\u{37d}\u{37f}\u{386}\u{388}-\u{38a}\u{38c}\u{38e}-\u{3a1}",
    "\u{3a3}-\u{3f5}\u{3f7}-\u{481}\u{48a}-\u{52f}\u{531}-\u{556}\u{10a0}-\u{10c5}\u{13a0}-\u{13f5}",
    "\u{13f8}-\u{13fd}\u{1c90}-\u{1cba}\u{1cbd}-\u{1cbf}\u{1d00}-\u{1d2b}\u{1d6b}-\u{1d77}\u{1d79}-\u{1d9a}",
    "\u{1e00}-\u{1f15}\u{1f18}-\u{1f1d}\u{1f20}-\u{1f45}\u{1f48}-\u{1f4d}\u{1f50}-\u{1f57}\u{1f59}\u{1f5b}",
    "\u{1f5d}\u{1f5f}-\u{1f7d}\u{1f80}-\u{1fb4}\u{1fb6}-\u{1fbc}\u{1fbe}\u{1fc2}-\u{1fc4}\u{1fc6}-\u{1fcc}",
    "\u{1fd0}-\u{1fd3}\u{1fd6}-\u{1fdb}\u{1fe0}-\u{1fec}\u{1ff2}-\u{1ff4}\u{1ff6}-\u{1ffc}\u{2102}\u{2107}",
    "\u{210a}-\u{2113}\u{2115}\u{2119}-\u{211d}\u{2124}\u{2126}\u{2128}\u{212a}-\u{212d}\u{212f}-\u{2134}",
    "\u{2139}\u{213c}-\u{213f}\u{2145}-\u{2149}\u{214e}\u{2183}\u{2184}\u{2c00}-\u{2c7b}\u{2c7e}-\u{2ce4}",
    "\u{2ceb}-\u{2cee}\u{2cf2}\u{2cf3}\u{a640}-\u{a66d}\u{a680}-\u{a69b}\u{a722}-\u{a76f}\u{a771}-\u{a787}",
    "\u{a78b}-\u{a78e}\u{ab70}-\u{abbf}\u{fb00}-\u{fb06}\u{fb13}-\u{fb17}\u{ff21}-\u{ff3a}\u{ff41}-\u{ff5a}",
    "\u{10400}-\u{1044f}\u{104b0}-\u{104d3}\u{104d8}-\u{104fb}\u{10c80}-\u{10cb2}\u{10cc0}-\u{10cf2}",
    "\u{118a0}-\u{118df}\u{1e900}-\u{1e943}]+",
);
const PUNCTUATION: &str = "\\s?[!-/:-~\u{ff01}-\u{ff0f}\u{ff1a}-\u{ff5e}\u{2018}-\u{201f}\u{3000}-\u{3002}]+";

const PLAIN: PreTokenizer = PreTokenizer {
    names: &[],
    splits: Splits::Gpt2,
    ignores_merges: false,
    adds_bos: false,
    composes: false,
};

/// The names that llama.cpp gives to the pre-tokenizers of Llama-, Qwen- and Gemma-shaped models.
const ALL: [PreTokenizer; 14] = [
    // What llama.cpp does when a converter did not recognise the tokenizer.
    PreTokenizer {
        names: &["default"],
        splits: Splits::Patterns(&[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"]),
        ..PLAIN
    },
    PreTokenizer {
        names: &[
            "gpt-2",
            "mpt",
            "olmo",
            "jais",
            "trillion",
            "exaone4",
            "a.x-4.0",
            "mellum",
            "gigachat",
            "granite-docling",
        ],
        ..PLAIN
    },
    PreTokenizer {
        names: &[
            "smollm",
            "starcoder",
            "refact",
            "command-r",
            "codeshell",
            "exaone",
            "minerva-7b",
            "mellum2",
        ],
        splits: Splits::DigitsThenGpt2,
        ..PLAIN
    },
    PreTokenizer {
        names: &[
            "llama-bpe",
            "llama3",
            "llama-v3",
            "falcon3",
            "falcon-h1",
            "pixtral",
            "midm-2.0",
            "lfm2",
        ],
        splits: Splits::Patterns(&[LLAMA3]),
        ignores_merges: true,
        adds_bos: true,
        ..PLAIN
    },
    PreTokenizer {
        names: &["dbrx", "smaug-bpe", "chatglm-bpe", "glm4"],
        splits: Splits::Patterns(&[LLAMA3]),
        ..PLAIN
    },
    PreTokenizer {
        names: &["qwen2"],
        splits: Splits::Patterns(&[QWEN2]),
        composes: true,
        ..PLAIN
    },
    PreTokenizer {
        names: &[
            "deepseek-r1-qwen",
            "megrez",
            "stablelm2",
            "hunyuan",
            "kormo",
            "solar-open",
        ],
        splits: Splits::Patterns(&[QWEN2]),
        ..PLAIN
    },
    PreTokenizer {
        names: &["minicpm5"],
        splits: Splits::Patterns(&[r"\p{N}{1,3}", LLAMA3]),
        ignores_merges: true,
        ..PLAIN
    },
    PreTokenizer {
        names: &["deepseek-llm"],
        splits: Splits::Patterns(&[r"[\r\n]", CASED, PUNCTUATION, r"\s+$", CJK, r"\p{N}+"]),
        ..PLAIN
    },
    PreTokenizer {
        names: &["deepseek-coder"],
        splits: Splits::Patterns(&[r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", CJK, r"\p{N}"]),
        ..PLAIN
    },
    PreTokenizer {
        names: &["deepseek-v3", "hunyuan-dense"],
        splits: Splits::Patterns(&[
            r"\p{N}{1,3}",
            "[\u{4e00}-\u{9fa5}\u{3040}-\u{309f}\u{30a0}-\u{30ff}]+",
            DEEPSEEK_V3,
        ]),
        ..PLAIN
    },
    PreTokenizer {
        names: &["seed-coder"],
        splits: Splits::Patterns(&[SEED_CODER]),
        ..PLAIN
    },
    PreTokenizer {
        names: &["tekken"],
        splits: Splits::Patterns(&[TEKKEN]),
        ignores_merges: true,
        adds_bos: true,
        ..PLAIN
    },
    PreTokenizer {
        names: &["gpt-4o", "llama4", "kanana2"],
        splits: Splits::Patterns(&[GPT4O]),
        ..PLAIN
    },
];

impl PreTokenizer {
    /// The one that a file names; llama.cpp's default when it names none.
    pub fn of(file: &GgufFile) -> Result<&'static Self> {
        let named = file.text(PRE)?;
        if named.is_none() {
            tracing::warn!(path = %file.path().display(), "no {PRE}: text is split as llama.cpp does then, \
                which is most likely not what the model was trained with; convert it again");
        }
        let name = named.unwrap_or("default");
        let found = ALL.iter().find(|known| known.names.contains(&name));
        found.ok_or_else(|| {
            let known: Vec<&str> = ALL.iter().flat_map(|known| known.names).copied().collect();
            let known = known.join(", ");
            file.error(format!(
                "has {PRE} = {name:?}, which is not read; read are {known}"
            ))
        })
    }

    fn step(&self) -> Value {
        let bytes = |use_regex: bool| {
            json!({
                "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex
            })
        };
        match self.splits {
            Splits::Gpt2 => bytes(true),
            Splits::DigitsThenGpt2 => json!({
                "type": "Sequence",
                "pretokenizers": [{"type": "Digits", "individual_digits": true}, bytes(true)],
            }),
            Splits::Patterns(patterns) => {
                let split = |pattern: &&str| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
                let steps: Vec<Value> = patterns.iter().map(split).chain([bytes(false)]).collect();
                json!({"type": "Sequence", "pretokenizers": steps})
            }
        }
    }

    /// The parts of `tokenizer.json` that a pre-tokenizer and a vocabulary determine.
    pub fn parts(&self, file: &GgufFile, vocabulary: &Vocabulary) -> Result<super::Parts> {
        Ok(super::Parts {
            normalizer: if self.composes {
                json!({"type": "NFC"})
            } else {
                Value::Null
            },
            pre_tokenizer: self.step(),
            decoder: json!({
                "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true
            }),
            model: super::bpe(
                vocabulary,
                merges(file, vocabulary)?,
                &super::Fallback {
                    unknown: None,
                    bytes: false,
                    ignores_merges: self.ignores_merges,
                },
            ),
        })
    }
}

/// Pairs of tokens, the first to be merged first; `None` when the file has none.
pub(super) fn stored_merges(file: &GgufFile, vocabulary: &Vocabulary) -> Result<Option<Vec<[String; 2]>>> {
    let Some(lines) = file.strings(MERGES)? else {
        return Ok(None);
    };
    let known: HashSet<&str> = vocabulary
        .tokens()
        .iter()
        .map(|token| token.text.as_str())
        .collect();
    let mut merges = Vec::with_capacity(lines.len());
    for (rank, line) in lines.iter().enumerate() {
        // A first character that is a space belongs to the left part.
        let space = line
            .char_indices()
            .skip(1)
            .find(|(_, character)| *character == ' ');
        let pair = space.map(|(at, _)| (&line[..at], &line[at + 1..]));
        let valid = |(left, right): &(&str, &str)| {
            known.contains(left) && known.contains(right) && known.contains(format!("{left}{right}").as_str())
        };
        let pair = pair.filter(valid).ok_or_else(|| {
            let reason = format!("merge {rank}, {line:?}, does not join two tokens to a third");
            file.error(reason)
        })?;
        merges.push([pair.0.to_string(), pair.1.to_string()]);
    }
    Ok(Some(merges))
}

fn merges(file: &GgufFile, vocabulary: &Vocabulary) -> Result<Vec<[String; 2]>> {
    stored_merges(file, vocabulary)?.ok_or_else(|| file.missing(MERGES))
}
