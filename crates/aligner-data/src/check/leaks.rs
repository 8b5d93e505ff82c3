//! Leaks: validation rows that training has seen.
//!
//! A validation row leaks when its words (question with earlier turns, answer and correction; case, punctuation and spacing
//! aside) are those of a training row, or its question's words are those of a training question. Either makes the validation
//! loss too good. A near-duplicate question (see `near`) is a sign of the same and reported apart: whether it is a leak needs
//! a look. Memory: 16 to 32 bytes for a distinct training question and as much for a row, beside the sketches.

use std::collections::HashMap;

use serde::Serialize;

use super::look::Look;
use super::near::Questions;
use super::place::{PairExample, Place};
use super::report::FileReport;

/// What validation files share with the training files.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct LeakReport {
    /// The validation files.
    pub files: Vec<FileReport>,
    /// Their usable rows.
    pub rows: u64,
    /// Rows whose words are those of a training row.
    pub equal_rows: u64,
    /// Rows whose question's words are those of a training question; the equal rows are among them.
    pub equal_questions: u64,
    /// Rows whose question is a near-duplicate of a training question, the equal ones not counted.
    pub near_questions: u64,
    /// Some of the equal rows.
    pub equal_row_examples: Vec<PairExample>,
    /// Some of the equal questions, each once.
    pub equal_question_examples: Vec<PairExample>,
    /// Some of the near-duplicate questions, each once.
    pub near_question_examples: Vec<PairExample>,
}

/// Training rows by their words.
#[derive(Debug, Default)]
pub(super) struct Seen {
    questions: HashMap<u64, Place>,
    rows: HashMap<u64, Place>,
}

impl Seen {
    pub(super) fn add(&mut self, place: Place, look: &Look) {
        self.questions.entry(look.question_words_key).or_insert(place);
        self.rows.entry(look.row_words_key).or_insert(place);
    }
}

/// What was found so far.
#[derive(Debug, Default)]
pub(super) struct Leaks {
    pub(super) report: LeakReport,
    pub(super) equal_rows: Vec<(Place, Place, f64)>,
    pub(super) equal_questions: Vec<(Place, Place, f64)>,
    /// Validation questions that no training question equals.
    others: Questions,
    /// Their numbers, or `None` where a training question equals it.
    known: HashMap<u64, Option<u32>>,
}

impl Leaks {
    pub(super) fn add(&mut self, place: Place, mut look: Look, seen: &Seen, examples: usize) {
        self.report.rows += 1;
        if let Some(&first) = seen.rows.get(&look.row_words_key) {
            self.report.equal_rows += 1;
            if self.equal_rows.len() < examples {
                self.equal_rows.push((first, place, 1.0));
            }
        }
        let equal = seen.questions.get(&look.question_words_key).copied();
        self.report.equal_questions += u64::from(equal.is_some());
        match (self.known.get(&look.question_words_key), equal) {
            (Some(Some(number)), _) => self.others.rows[*number as usize] += 1,
            (Some(None), _) => {}
            (None, Some(first)) => {
                self.known.insert(look.question_words_key, None);
                if self.equal_questions.len() < examples {
                    self.equal_questions.push((first, place, 1.0));
                }
            }
            (None, None) => {
                let key = look.question_words_key;
                let number = self.others.add(place, &mut look);
                self.known.insert(key, Some(number));
            }
        }
    }

    /// Compares the questions that are not equal; gives near-duplicates, the first `examples` of them.
    pub(super) fn compare(
        &mut self,
        training: &Questions,
        threshold: f64,
        examples: usize,
    ) -> Vec<(Place, Place, f64)> {
        let mut pairs = Vec::new();
        for (other, found) in training
            .closest_to(&self.others, threshold)
            .into_iter()
            .enumerate()
        {
            let Some((ours, similarity)) = found else { continue };
            self.report.near_questions += u64::from(self.others.rows[other]);
            if pairs.len() < examples {
                pairs.push((training.places[ours], self.others.places[other], similarity));
            }
        }
        pairs
    }
}
