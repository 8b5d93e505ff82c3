//! A look over a data file before anything is trained on it.

use std::collections::HashSet;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;

use serde::Serialize;

use crate::encode::Encoder;
use crate::error::Result;
use crate::reader::{OnBadRow, ReadOptions, RowReader, SkipLog};
use crate::record::Record;

/// What [`check_file`] found.
#[derive(Debug, Clone, Serialize)]
pub struct CheckReport {
    /// The file.
    pub file: String,
    /// Usable rows.
    pub rows: u64,
    /// Rows that cannot be used.
    pub bad_rows: u64,
    /// The first of them, with the reasons.
    pub first_bad_rows: Vec<String>,
    /// Rows equal to an earlier one in question, history, answer and correction.
    pub duplicate_rows: u64,
    /// Rows whose question occurred before.
    pub repeated_questions: u64,
    /// Rows whose correction is the answer.
    pub identical: u64,
    /// Rows with earlier turns.
    pub with_history: u64,
    /// Unit of the lengths: `tokens`, or `characters` when there is no tokenizer.
    pub unit: &'static str,
    /// Length of the questions, without earlier turns.
    pub question: Lengths,
    /// Length of the answers.
    pub answer: Lengths,
    /// Length of the corrections.
    pub correction: Lengths,
    /// Length of prompt, correction and end of sequence together; tokens only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub whole: Option<Lengths>,
    /// The longest row that would be trained on, in tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_length: Option<usize>,
    /// Rows longer than that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub too_long: Option<u64>,
}

/// The distribution of a length.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Lengths {
    /// Shortest.
    pub min: usize,
    /// Median.
    pub p50: usize,
    /// 90th percentile.
    pub p90: usize,
    /// 95th percentile.
    pub p95: usize,
    /// 99th percentile.
    pub p99: usize,
    /// Longest.
    pub max: usize,
    /// Mean.
    pub mean: f64,
}

impl Lengths {
    /// The distribution of these values; percentiles by nearest rank.
    pub fn of(mut values: Vec<usize>) -> Self {
        values.sort_unstable();
        let Some(last) = values.len().checked_sub(1) else {
            return Self::default();
        };
        let rank = |percent: usize| values[(values.len() * percent).div_ceil(100).clamp(1, values.len()) - 1];
        Self {
            min: values[0],
            p50: rank(50),
            p90: rank(90),
            p95: rank(95),
            p99: rank(99),
            max: values[last],
            mean: values.iter().sum::<usize>() as f64 / values.len() as f64,
        }
    }
}

#[derive(Default)]
struct Tally {
    rows: HashSet<u64>,
    questions: HashSet<u64>,
    lengths: [Vec<usize>; 4],
}

/// Reads a whole file and reports on it; with an encoder lengths are tokens, without one characters.
///
/// # Errors
/// When the file cannot be read. Bad rows are part of the report.
pub fn check_file(path: &Path, options: &ReadOptions, encoder: Option<&Encoder>) -> Result<CheckReport> {
    let options = ReadOptions {
        on_bad_row: OnBadRow::Skip,
        ..options.clone()
    };
    let mut reader = RowReader::open(path, options)?;
    let mut report = CheckReport::empty(path, encoder);
    let mut tally = Tally::default();
    for record in reader.by_ref() {
        report.add(&record?, encoder, &mut tally)?;
    }
    report.finish(reader.skipped(), tally);
    Ok(report)
}

fn hash(value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

impl CheckReport {
    fn empty(path: &Path, encoder: Option<&Encoder>) -> Self {
        Self {
            file: path.display().to_string(),
            rows: 0,
            bad_rows: 0,
            first_bad_rows: Vec::new(),
            duplicate_rows: 0,
            repeated_questions: 0,
            identical: 0,
            with_history: 0,
            unit: if encoder.is_some() { "tokens" } else { "characters" },
            question: Lengths::default(),
            answer: Lengths::default(),
            correction: Lengths::default(),
            whole: None,
            max_length: encoder.map(Encoder::max_length),
            too_long: encoder.map(|_| 0),
        }
    }

    fn add(&mut self, record: &Record, encoder: Option<&Encoder>, tally: &mut Tally) -> Result<()> {
        let correction = record.correction.as_deref().unwrap_or_default();
        let history: Vec<(&str, &str)> = record
            .chat_history
            .iter()
            .map(|turn| (turn.question.as_str(), turn.answer.as_str()))
            .collect();
        self.rows += 1;
        self.identical += u64::from(record.answer.trim() == correction.trim());
        self.with_history += u64::from(!history.is_empty());
        self.duplicate_rows += u64::from(!tally.rows.insert(hash((
            &record.question,
            &history,
            &record.answer,
            correction,
        ))));
        self.repeated_questions += u64::from(!tally.questions.insert(hash((&record.question, &history))));
        for (text, lengths) in [&*record.question, &*record.answer, correction]
            .iter()
            .zip(&mut tally.lengths)
        {
            lengths.push(match encoder {
                Some(encoder) => encoder.tokenizer().encode_target(text)?.len(),
                None => text.chars().count(),
            });
        }
        if let Some(encoder) = encoder {
            let (ids, _) = encoder.encode_any_length(record)?;
            self.too_long = self
                .too_long
                .map(|count| count + u64::from(ids.len() > encoder.max_length()));
            tally.lengths[3].push(ids.len());
        }
        Ok(())
    }

    fn finish(&mut self, skipped: &SkipLog, tally: Tally) {
        let [question, answer, correction, whole] = tally.lengths;
        self.bad_rows = skipped.count();
        self.first_bad_rows = skipped.first().iter().map(ToString::to_string).collect();
        self.question = Lengths::of(question);
        self.answer = Lengths::of(answer);
        self.correction = Lengths::of(correction);
        self.whole = (!whole.is_empty()).then(|| Lengths::of(whole));
    }

    /// Whether every row can be trained on.
    pub fn is_clean(&self) -> bool {
        self.rows > 0 && self.bad_rows == 0 && self.too_long.unwrap_or(0) == 0
    }
}

impl fmt::Display for CheckReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let share = |count: u64| {
            format!(
                "{count} ({:.1} %)",
                100.0 * count as f64 / self.rows.max(1) as f64
            )
        };
        writeln!(f, "{}", self.file)?;
        writeln!(f, "  usable rows             {}", self.rows)?;
        writeln!(f, "  bad rows                {}", self.bad_rows)?;
        for row in self.first_bad_rows.iter().take(10) {
            writeln!(f, "    {row}")?;
        }
        writeln!(f, "  duplicate rows          {}", share(self.duplicate_rows))?;
        writeln!(f, "  repeated questions      {}", share(self.repeated_questions))?;
        writeln!(f, "  answer is correction    {}", share(self.identical))?;
        writeln!(f, "  with earlier turns      {}", share(self.with_history))?;
        if let (Some(max_length), Some(too_long)) = (self.max_length, self.too_long) {
            writeln!(f, "  longer than {max_length:<11} {}", share(too_long))?;
        }
        writeln!(
            f,
            "  {:<18}    min    p50    p90    p95    p99    max     mean",
            format!("length in {}", self.unit)
        )?;
        let lengths = [
            ("question", self.question),
            ("answer", self.answer),
            ("correction", self.correction),
        ];
        for (name, l) in lengths
            .into_iter()
            .chain(self.whole.map(|whole| ("whole row", whole)))
        {
            let Lengths {
                min,
                p50,
                p90,
                p95,
                p99,
                max,
                mean,
            } = l;
            writeln!(
                f,
                "    {name:<16} {min:>6} {p50:>6} {p90:>6} {p95:>6} {p99:>6} {max:>6} {mean:>8.1}"
            )?;
        }
        Ok(())
    }
}
