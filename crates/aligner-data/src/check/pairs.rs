//! The texts of pairs that are shown: read a second time, because none are kept.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;

use super::look::asked;
use super::place::{PairExample, Place, excerpts};
use crate::error::Result;
use crate::reader::{OnBadRow, ReadOptions, RowReader};

/// Earlier row, later row, similarity.
pub(super) type Pairs = Vec<(Place, Place, f64)>;

/// The texts of some rows.
#[derive(Debug)]
pub(super) struct PairTexts {
    files: Vec<String>,
    /// Question, and what the row says to it.
    texts: HashMap<Place, (String, String)>,
}

impl PairTexts {
    pub(super) fn read(paths: &[PathBuf], read: &ReadOptions, pairs: &[&Pairs]) -> Result<Self> {
        let wanted: BTreeSet<Place> = pairs
            .iter()
            .flat_map(|pairs| pairs.iter().flat_map(|&(first, second, _)| [first, second]))
            .collect();
        let mut texts = HashMap::new();
        for (number, path) in paths.iter().enumerate() {
            let in_file = |place: &&Place| place.file as usize == number;
            let last = wanted.iter().rfind(in_file);
            // A pipe has given its rows already.
            let (Some(last), true) = (last, path.is_file()) else {
                continue;
            };
            let read = ReadOptions {
                on_bad_row: OnBadRow::Skip,
                ..read.clone()
            };
            for record in RowReader::open(path, read)? {
                let record = record?;
                let place = Place::new(number, record.origin.row);
                if wanted.contains(&place) {
                    let correction = record.correction.as_deref().unwrap_or_default();
                    let reply = format!("{} → {correction}", record.answer);
                    texts.insert(place, (asked(&record.chat_history, &record.question), reply));
                }
                if place >= *last {
                    break;
                }
            }
        }
        let files = paths.iter().map(|path| path.display().to_string()).collect();
        Ok(Self { files, texts })
    }

    /// Pairs with their questions.
    pub(super) fn questions(&self, pairs: &Pairs) -> Vec<PairExample> {
        self.examples(pairs, |(question, _)| question.clone())
    }

    /// Pairs with their whole rows.
    pub(super) fn rows(&self, pairs: &Pairs) -> Vec<PairExample> {
        self.examples(pairs, |(question, reply)| format!("{question} | {reply}"))
    }

    fn examples(&self, pairs: &Pairs, text: impl Fn(&(String, String)) -> String) -> Vec<PairExample> {
        let text = |place: &Place| self.texts.get(place).map(&text).unwrap_or_default();
        let example = |&(first, second, similarity): &(Place, Place, f64)| {
            let (first_text, second_text) = excerpts(&text(&first), &text(&second));
            PairExample {
                first: first.named(&self.files),
                second: second.named(&self.files),
                similarity,
                first_text,
                second_text,
            }
        };
        pairs.iter().map(example).collect()
    }
}
