//! What is kept of all rows.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use super::CheckOptions;
use super::benchmark::Hit;
use super::findings;
use super::forecast::Forecast;
use super::identity::Sameness;
use super::leaks::{Leaks, Seen};
use super::length_bias::LengthBias;
use super::lengths::{Lengths, short};
use super::look::{Lens, Look};
use super::near;
use super::oddities::{Oddity, OddityKind};
use super::pairs::{PairTexts, Pairs};
use super::place::{Place, RowExample, RowRef, excerpt};
use super::report::{CheckReport, FileReport};
use crate::encode::Encoder;
use crate::error::Result;
use crate::reader::SkipLog;
use crate::record::Record;

/// Characters shown of a text's end.
const END: usize = 90;

#[derive(Debug)]
pub(super) struct Tally<'a> {
    options: &'a CheckOptions<'a>,
    /// Names of the files, the validation files last.
    paths: Vec<PathBuf>,
    report: CheckReport,
    rows: HashSet<u64>,
    questions: HashMap<u64, u32>,
    lengths: [Vec<u32>; 4],
    /// Lengths of answers and corrections of rows that correct.
    corrected: Vec<(u32, u32)>,
    near_questions: near::Questions,
    near_rows: near::Rows,
    seen: Seen,
    leaks: Leaks,
    skipped: SkipLog,
}

impl<'a> Tally<'a> {
    pub(super) fn new(files: &[PathBuf], options: &'a CheckOptions<'a>, lens: &Lens<'_>) -> Self {
        let report = CheckReport {
            unit: if options.encoder.is_some() {
                "tokens"
            } else {
                "characters"
            },
            max_length: options.encoder.map(Encoder::max_length),
            near_threshold: options.near_threshold,
            benchmarks: lens.benchmarks.empty_reports(),
            ..CheckReport::default()
        };
        Self {
            options,
            paths: files.iter().chain(&options.valid).cloned().collect(),
            report,
            rows: HashSet::new(),
            questions: HashMap::new(),
            lengths: Default::default(),
            corrected: Vec::new(),
            near_questions: near::Questions::default(),
            near_rows: near::Rows::default(),
            seen: Seen::default(),
            leaks: Leaks::default(),
            skipped: SkipLog::default(),
        }
    }

    pub(super) fn add(&mut self, file: usize, record: &Record, mut look: Look) {
        self.report.rows += 1;
        self.report.with_history += u64::from(!record.chat_history.is_empty());
        for (lengths, length) in self
            .lengths
            .iter_mut()
            .zip(look.lengths.into_iter().chain(look.whole))
        {
            lengths.push(short(length));
        }
        if look.sameness != Sameness::Exact {
            self.corrected
                .push((short(look.lengths[1]), short(look.lengths[2])));
        }
        self.report
            .identity
            .add(look.sameness, look.contains_answer, look.empty_answer);
        self.add_texts(record, &mut look);
        let place = Place::new(file, record.origin.row);
        if !self.options.valid.is_empty() {
            self.seen.add(place, &look);
        }
        self.add_near(place, look);
    }

    fn add_near(&mut self, place: Place, mut look: Look) {
        let question = match self.questions.get(&look.question_key) {
            Some(&known) => {
                self.report.repeated_questions += 1;
                known
            }
            None => {
                let key = look.question_key;
                let number = self.near_questions.add(place, &mut look);
                self.questions.insert(key, number);
                number
            }
        };
        if self.rows.insert(look.row_key) {
            self.near_rows.add(place, question, look);
        } else {
            self.report.duplicate_rows += 1;
        }
    }

    /// What a row's texts show by themselves.
    fn add_texts(&mut self, record: &Record, look: &mut Look) {
        self.add_refusals(record, look.refuses);
        self.add_cut_off(record, look.cut);
        self.add_oddities(record, std::mem::take(&mut look.oddities));
        self.add_overlap(record, look.hit.take().unwrap_or_default());
    }

    fn add_refusals(&mut self, record: &Record, refuses: [bool; 2]) {
        let report = &mut self.report.refusals;
        report.add(refuses);
        let (what, text) = match refuses {
            [true, true] => ("kept", correction(record)),
            [true, false] => ("removed", &*record.answer),
            [false, true] => ("added", correction(record)),
            [false, false] => return,
        };
        if report.examples.len() < self.options.examples {
            report.examples.push(example(record, what, excerpt(text, 0)));
        }
    }

    fn add_cut_off(&mut self, record: &Record, [answer, corrected]: [bool; 2]) {
        let report = &mut self.report.cut_off;
        report.answers += u64::from(answer);
        report.corrections += u64::from(corrected);
        if corrected && report.examples.len() < self.options.examples {
            let text = correction(record).trim_end();
            let start = text.chars().count().saturating_sub(END);
            report
                .examples
                .push(example(record, "ends", excerpt(text, start)));
        }
    }

    fn add_oddities(&mut self, record: &Record, found: Vec<Oddity>) {
        let mut counted: Vec<OddityKind> = Vec::new();
        for oddity in found {
            let report = self.report.oddities.entry(oddity.kind).or_default();
            if !counted.contains(&oddity.kind) {
                report.rows += 1;
                counted.push(oddity.kind);
            }
            if report.examples.len() < self.options.examples {
                report.examples.push(example(record, &oddity.what, oddity.text));
            }
        }
    }

    fn add_overlap(&mut self, record: &Record, hit: Hit) {
        let texts = [
            ("question", &*record.question),
            ("answer", &*record.answer),
            ("correction", correction(record)),
        ];
        for (report, fields) in self.report.benchmarks.iter_mut().zip(hit) {
            report.add(fields);
            let shown = texts.into_iter().zip(fields).find(|(_, hit)| *hit);
            if let Some(((field, text), _)) = shown
                && report.examples.len() < self.options.examples
            {
                report.examples.push(example(record, field, excerpt(text, 0)));
            }
        }
    }

    pub(super) fn add_valid(&mut self, file: usize, record: &Record, look: Look) {
        let place = Place::new(file, record.origin.row);
        self.leaks.add(place, look, &self.seen, self.options.examples);
    }

    pub(super) fn end_file(&mut self, file: &Path, skipped: &SkipLog) {
        let before: u64 = self.report.files.iter().map(|file| file.rows).sum();
        self.report.files.push(FileReport {
            file: file.display().to_string(),
            rows: self.report.rows - before,
            bad_rows: skipped.bad(),
            unsuitable_rows: skipped.unsuitable(),
        });
        self.skipped.extend(skipped);
    }

    pub(super) fn end_valid_file(&mut self, file: &Path, skipped: &SkipLog) {
        let leaks = &mut self.leaks.report;
        let before: u64 = leaks.files.iter().map(|file| file.rows).sum();
        leaks.files.push(FileReport {
            file: file.display().to_string(),
            rows: leaks.rows - before,
            bad_rows: skipped.bad(),
            unsuitable_rows: skipped.unsuitable(),
        });
    }

    pub(super) fn finish(mut self) -> Result<CheckReport> {
        let report = &mut self.report;
        report.bad_rows = self.skipped.bad();
        report.unsuitable_rows = self.skipped.unsuitable();
        report.first_bad_rows = self.skipped.first_bad().iter().map(ToString::to_string).collect();
        report.identical = report.identity.exact;
        let [question, answer, correction, whole] = &self.lengths;
        report.question = Lengths::of(question);
        report.answer = Lengths::of(answer);
        report.correction = Lengths::of(correction);
        report.length_bias = LengthBias::of(&self.corrected);
        if let Some(encoder) = self.options.encoder {
            let forecast = Forecast::of(whole, encoder.max_length(), self.options.micro_batch);
            report.whole = (!whole.is_empty()).then(|| Lengths::of(whole));
            report.too_long = Some(forecast.too_long_rows);
            report.forecast = Some(forecast);
        }
        self.compare()?;
        self.report.findings = findings::of(&self.report);
        Ok(self.report)
    }

    /// Near-duplicates and leaks, with the texts of the pairs that are shown.
    fn compare(&mut self) -> Result<()> {
        let (threshold, limit) = (self.options.near_threshold, self.options.examples);
        let questions = self.near_questions.joins(threshold);
        let rows = self.near_rows.joins(&self.near_questions, threshold);
        let placed = |pairs: &[(usize, usize, f64)], places: &[Place]| -> Pairs {
            pairs
                .iter()
                .take(limit)
                .map(|&(a, b, alike)| (places[a], places[b], alike))
                .collect()
        };
        let question_pairs = placed(&questions.pairs, &self.near_questions.places);
        let row_pairs = placed(&rows.pairs, &self.near_rows.places);
        let near_leaks = self.leaks.compare(&self.near_questions, threshold, limit);
        let all = [
            &question_pairs,
            &row_pairs,
            &self.leaks.equal_rows,
            &self.leaks.equal_questions,
            &near_leaks,
        ];
        let texts = PairTexts::read(&self.paths, &self.options.read, &all)?;
        self.report.near_questions = questions.report();
        self.report.near_questions.examples = texts.questions(&question_pairs);
        self.report.near_rows = rows.report();
        self.report.near_rows.examples = texts.rows(&row_pairs);
        if !self.options.valid.is_empty() {
            let mut leaks = std::mem::take(&mut self.leaks.report);
            leaks.equal_row_examples = texts.rows(&self.leaks.equal_rows);
            leaks.equal_question_examples = texts.questions(&self.leaks.equal_questions);
            leaks.near_question_examples = texts.questions(&near_leaks);
            self.report.leaks = Some(leaks);
        }
        Ok(())
    }
}

fn correction(record: &Record) -> &str {
    record.correction.as_deref().unwrap_or_default()
}

fn example(record: &Record, what: &str, text: String) -> RowExample {
    RowExample {
        place: RowRef {
            file: record.origin.path.display().to_string(),
            row: record.origin.row,
        },
        what: what.to_string(),
        text,
    }
}
