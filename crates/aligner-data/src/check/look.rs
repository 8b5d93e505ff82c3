//! What is computed of one row by itself, in parallel with others.

use super::benchmark::{Benchmarks, Hit};
use super::cut_off;
use super::identity::{self, Sameness};
use super::near::KEPT_OF_TEXT;
use super::oddities::{self, Markers, Oddity};
use super::refusal;
use super::sketch::{BANDS, KEPT, Sketch, bands, question_shingles, text_shingles};
use super::words::{hash_exact, hash_sequence, mix, word_hashes, words};
use crate::encode::Encoder;
use crate::error::Result;
use crate::record::{Record, Turn};

/// What a row is looked at with.
#[derive(Debug)]
pub(super) struct Lens<'a> {
    pub(super) encoder: Option<&'a Encoder>,
    pub(super) markers: Markers,
    pub(super) benchmarks: Benchmarks,
}

/// What one row shows.
#[derive(Debug)]
pub(super) struct Look {
    /// Hash of question and history as they are.
    pub(super) question_key: u64,
    /// Hash of the whole row as it is.
    pub(super) row_key: u64,
    /// Hash of the words of question and history.
    pub(super) question_words_key: u64,
    /// Hash of the words of the whole row.
    pub(super) row_words_key: u64,
    /// Lengths of question, answer and correction.
    pub(super) lengths: [usize; 3],
    /// Tokens of the whole row.
    pub(super) whole: Option<usize>,
    pub(super) question_bands: [u32; BANDS],
    pub(super) question_sketch: Sketch,
    pub(super) row_bands: [u32; BANDS],
    pub(super) answer_sketch: Sketch,
    pub(super) correction_sketch: Sketch,
    pub(super) sameness: Sameness,
    pub(super) contains_answer: bool,
    pub(super) empty_answer: bool,
    /// Whether answer and correction refuse.
    pub(super) refuses: [bool; 2],
    /// Whether answer and correction end unfinished.
    pub(super) cut: [bool; 2],
    pub(super) oddities: Vec<Oddity>,
    pub(super) hit: Option<Hit>,
}

/// The words of a row's fields, as hashes.
#[derive(Debug)]
pub(super) struct RowWords {
    /// Of earlier turns and the question.
    pub(super) question: Vec<u64>,
    pub(super) answer: Vec<u64>,
    pub(super) correction: Vec<u64>,
}

impl Look {
    pub(super) fn at(record: &Record, lens: &Lens<'_>) -> Result<Self> {
        let correction = record.correction.as_deref().unwrap_or_default();
        let asked = asked(&record.chat_history, &record.question);
        let question_words = words(&asked);
        let row = RowWords {
            question: hashes(&asked, &question_words),
            answer: hashes(&record.answer, &words(&record.answer)),
            correction: hashes(correction, &words(correction)),
        };
        let shingles = [
            question_shingles(&question_words, &row.question),
            text_shingles(&row.answer),
            text_shingles(&row.correction),
        ];
        let (lengths, whole) = lengths(record, correction, lens.encoder)?;
        Ok(Self {
            question_key: question_key(record),
            row_key: hash_exact((question_key(record), &record.answer, correction)),
            question_words_key: hash_sequence(&row.question),
            row_words_key: hash_sequence(
                &[&row.question, &row.answer, &row.correction].map(|field| hash_sequence(field)),
            ),
            lengths,
            whole,
            question_bands: bands(&shingles[0]),
            question_sketch: Sketch::of(&shingles[0], KEPT),
            row_bands: row_bands(&shingles),
            answer_sketch: Sketch::of(&shingles[1], KEPT_OF_TEXT),
            correction_sketch: Sketch::of(&shingles[2], KEPT_OF_TEXT),
            sameness: Sameness::of(&record.answer, correction),
            contains_answer: identity::contains(&row.answer, &row.correction),
            empty_answer: record.answer.trim().is_empty(),
            refuses: [&record.answer, correction].map(refusal::refuses),
            cut: [&record.answer, correction].map(cut_off::ends_unfinished),
            oddities: oddities::of(record, &lens.markers),
            hit: lens.benchmarks.hit(&row),
        })
    }
}

/// What was asked, earlier turns first.
pub(super) fn asked(chat_history: &[Turn], question: &str) -> String {
    let mut asked = String::new();
    for turn in chat_history {
        asked.extend([&*turn.question, "\n", &*turn.answer, "\n"]);
    }
    asked + question
}

fn question_key(record: &Record) -> u64 {
    let history: Vec<(&str, &str)> = record
        .chat_history
        .iter()
        .map(|turn| (turn.question.as_str(), turn.answer.as_str()))
        .collect();
    hash_exact((&record.question, &history))
}

/// The words' hashes; of a text without a word (`?!`), the hash of the text.
pub(super) fn hashes(text: &str, words: &[String]) -> Vec<u64> {
    match (words.is_empty(), text.trim()) {
        (true, "") => Vec::new(),
        (true, text) => vec![hash_exact(text)],
        (false, _) => word_hashes(words),
    }
}

/// The bands of all fields together: where each field is alike, so is their union, because its share of common shingles lies
/// between theirs.
fn row_bands(fields: &[Vec<u64>; 3]) -> [u32; BANDS] {
    let tagged = fields
        .iter()
        .zip(1_u64..)
        .flat_map(|(shingles, tag)| shingles.iter().map(move |shingle| mix(shingle ^ tag)));
    bands(&tagged.collect::<Vec<_>>())
}

fn lengths(
    record: &Record,
    correction: &str,
    encoder: Option<&Encoder>,
) -> Result<([usize; 3], Option<usize>)> {
    let texts = [&*record.question, &*record.answer, correction];
    let Some(encoder) = encoder else {
        return Ok((texts.map(|text| text.chars().count()), None));
    };
    let mut lengths = [0; 3];
    for (text, length) in texts.iter().zip(&mut lengths) {
        *length = encoder.tokenizer().encode_target(text)?.len();
    }
    Ok((lengths, Some(encoder.encode_any_length(record)?.0.len())))
}
