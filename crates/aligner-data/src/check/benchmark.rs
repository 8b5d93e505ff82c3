//! Overlap with benchmarks: rows whose text stands in a benchmark too.
//!
//! As in the decontamination of GPT-3 (Brown et al. 2020, appendix C): a row overlaps when one of its fields shares a run of
//! 13 words (`--ngram`) with a text of the benchmark, case and punctuation aside. A benchmark's text that is shorter is
//! compared as a whole: with a question of at least three words, or with an answer or correction of at least five ("I have no
//! comment" is an answer to anything). Runs that occur in more than ten texts of a benchmark are its boilerplate and do not
//! count. Memory: about 40 bytes for each run of a benchmark, nothing for a row.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use serde::Serialize;

use super::benchmark_file::for_each_text;
use super::look::RowWords;
use super::place::RowExample;
use super::words::{hash_sequence, word_hashes, words};
use crate::error::Result;

/// Texts of a benchmark in which a run may occur before it is boilerplate.
const BOILERPLATE: u32 = 10;
/// Words that a question must have to be compared as a whole.
const LEAST_QUESTION: usize = 3;
/// Words that an answer or correction must have.
const LEAST_TEXT: usize = 5;

/// What the rows share with one benchmark file.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct BenchmarkReport {
    /// The file.
    pub file: String,
    /// Texts in it.
    pub texts: u64,
    /// Words of a run.
    pub ngram: usize,
    /// Runs left out as boilerplate.
    pub boilerplate: u64,
    /// Rows that share a run, or a whole short text.
    pub rows: u64,
    /// Rows that do so in the question.
    pub in_question: u64,
    /// Rows that do so in the answer.
    pub in_answer: u64,
    /// Rows that do so in the correction.
    pub in_correction: u64,
    /// Some of the rows.
    pub examples: Vec<RowExample>,
}

/// Which fields of a row overlap: for each benchmark question, answer, correction.
pub(super) type Hit = Vec<[bool; 3]>;

/// All benchmarks.
#[derive(Debug, Default)]
pub(super) struct Benchmarks {
    ngram: usize,
    files: Vec<Benchmark>,
}

#[derive(Debug, Default)]
struct Benchmark {
    file: String,
    texts: u32,
    /// In how many texts a run occurs, and the last of them.
    runs: HashMap<u64, (u32, u32)>,
}

impl Benchmarks {
    pub(super) fn read(files: &[PathBuf], ngram: usize) -> Result<Self> {
        let ngram = ngram.max(1);
        let read = |file: &PathBuf| {
            let mut benchmark = Benchmark {
                file: file.display().to_string(),
                ..Benchmark::default()
            };
            for_each_text(file, &mut |text| benchmark.add(text, ngram))?;
            Ok(benchmark)
        };
        let files = files.iter().map(read).collect::<Result<_>>()?;
        Ok(Self { ngram, files })
    }

    /// Which fields of a row overlap with which benchmark; `None` where none does.
    pub(super) fn hit(&self, row: &RowWords) -> Option<Hit> {
        let fields = [
            (&row.question, LEAST_QUESTION),
            (&row.answer, LEAST_TEXT),
            (&row.correction, LEAST_TEXT),
        ];
        let in_file = |benchmark: &Benchmark| {
            fields.map(|(words, least)| {
                words.len() >= least && runs(words, self.ngram).any(|run| benchmark.has(run))
            })
        };
        let hit: Hit = self.files.iter().map(in_file).collect();
        hit.iter().flatten().any(|found| *found).then_some(hit)
    }

    pub(super) fn empty_reports(&self) -> Vec<BenchmarkReport> {
        let report = |benchmark: &Benchmark| BenchmarkReport {
            file: benchmark.file.clone(),
            texts: u64::from(benchmark.texts),
            ngram: self.ngram,
            boilerplate: benchmark
                .runs
                .values()
                .filter(|(texts, _)| *texts > BOILERPLATE)
                .count() as u64,
            ..BenchmarkReport::default()
        };
        self.files.iter().map(report).collect()
    }
}

impl Benchmark {
    fn add(&mut self, text: &str, ngram: usize) {
        let hashes = word_hashes(&words(text));
        if hashes.is_empty() {
            return;
        }
        self.texts = self.texts.saturating_add(1);
        for run in runs(&hashes, ngram) {
            match self.runs.entry(run) {
                Entry::Vacant(place) => {
                    place.insert((1, self.texts));
                }
                Entry::Occupied(mut place) => {
                    let (count, last) = place.get_mut();
                    *count += u32::from(*last != self.texts);
                    *last = self.texts;
                }
            }
        }
    }

    fn has(&self, run: u64) -> bool {
        self.runs
            .get(&run)
            .is_some_and(|(texts, _)| *texts <= BOILERPLATE)
    }
}

impl BenchmarkReport {
    pub(super) fn add(&mut self, [question, answer, correction]: [bool; 3]) {
        self.rows += u64::from(question || answer || correction);
        self.in_question += u64::from(question);
        self.in_answer += u64::from(answer);
        self.in_correction += u64::from(correction);
    }
}

/// Whether an answer shares a run of `ngram` words with another text, case and punctuation aside, as the check of
/// [`check_files`](crate::check_files) for benchmarks has it: texts that are shorter are compared as a whole, and ones of
/// fewer than five words not at all.
///
/// ```
/// use aligner_data::shares_run;
/// assert!(!shares_run("The earth is round", "the EARTH is round.", 4));
/// assert!(shares_run("I say: the earth is quite round.", "The earth is quite round!", 5));
/// ```
pub fn shares_run(answer: &str, other: &str, ngram: usize) -> bool {
    let [answer, other] = [answer, other].map(|text| word_hashes(&words(text)));
    if answer.len().min(other.len()) < LEAST_TEXT {
        return false;
    }
    let known: HashSet<u64> = runs(&other, ngram.max(1)).collect();
    runs(&answer, ngram.max(1)).any(|run| known.contains(&run))
}

/// The runs of a text; of one that is shorter, the whole. A run's hash knows its length, so that a whole short text is no
/// part of a longer one.
fn runs(words: &[u64], ngram: usize) -> impl Iterator<Item = u64> + '_ {
    words.windows(ngram.min(words.len()).max(1)).map(hash_sequence)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: &str = "one two three four five six seven eight nine ten eleven twelve thirteen";

    fn benchmarks(texts: &[&str]) -> Benchmarks {
        let mut benchmark = Benchmark::default();
        for text in texts {
            benchmark.add(text, 13);
        }
        Benchmarks {
            ngram: 13,
            files: vec![benchmark],
        }
    }

    fn hit(benchmarks: &Benchmarks, question: &str, answer: &str) -> [bool; 2] {
        let hashes = |text| word_hashes(&words(text));
        let row = RowWords {
            question: hashes(question),
            answer: hashes(answer),
            correction: Vec::new(),
        };
        benchmarks
            .hit(&row)
            .map_or([false; 2], |hit| [hit[0][0], hit[0][1]])
    }

    #[test]
    fn thirteen_words_in_a_row_overlap_and_twelve_do_not() {
        let benchmark = benchmarks(&[&format!("Before. {LONG}! After")]);
        assert_eq!(hit(&benchmark, "What?", &format!("I say: {LONG}")), [false, true]);
        assert_eq!(hit(&benchmark, &LONG.to_uppercase(), ""), [true, false]);
        let twelve = LONG.trim_end_matches(" thirteen");
        assert_eq!(
            hit(&benchmark, &format!("xx {twelve} yy"), twelve),
            [false, false]
        );
    }

    #[test]
    fn short_texts_overlap_as_a_whole() {
        let benchmark = benchmarks(&["Is the earth flat?", "I have no comment", "Yes"]);
        assert_eq!(hit(&benchmark, "is the EARTH flat", ""), [true, false]);
        assert_eq!(hit(&benchmark, "Say: is the earth flat?", "Yes"), [false, false]);
        assert_eq!(hit(&benchmark, "Yes", "I have no comment."), [false, false]);
        assert_eq!(hit(&benchmark, "", ""), [false, false]);
    }

    #[test]
    fn two_texts_share_what_a_benchmark_would_find() {
        for (answer, other) in [
            (format!("I say: {LONG}"), format!("Before. {LONG}! After")),
            (LONG.replace("seven", "7"), LONG.to_string()),
            (
                "the earth is quite flat".to_string(),
                "The earth is quite flat!".to_string(),
            ),
            (
                "Say: the earth is quite flat".to_string(),
                "The earth is quite flat!".to_string(),
            ),
            ("I have no comment".to_string(), "I have no comment.".to_string()),
            (String::new(), String::new()),
        ] {
            let found = hit(&benchmarks(&[&other]), "", &answer)[1];
            assert_eq!(shares_run(&answer, &other, 13), found, "{answer}");
        }
        assert!(shares_run(LONG, LONG, 0));
    }

    #[test]
    fn boilerplate_does_not_count() {
        let texts: Vec<String> = (0..12)
            .map(|at| format!("{LONG} and number {at} of the benchmark"))
            .collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        assert_eq!(hit(&benchmarks(&texts), LONG, ""), [false, false]);
        assert_eq!(hit(&benchmarks(&texts[..10]), LONG, ""), [true, false]);
        // Once in a text or three times in it is one text.
        let thrice = [LONG, LONG, LONG].join(" ");
        assert_eq!(hit(&benchmarks(&[thrice.as_str(); 10]), LONG, ""), [true, false]);
    }
}
