//! Rows of a file and their corrections, one after the other or many at once, in the order of the file.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::time::Instant;

use aligner_data::Record;
use aligner_infer::{
    Batcher, CorrectOptions, Correction, CorrectionStream, Corrector, FinishReason, Input, part_seed,
};
use serde_json::{Map, Value};

use crate::args::CorrectArgs;
use crate::error::{CliError, Result};

/// Fields that a corrected row has and its input has not.
pub const ADDED: [&str; 5] = ["corrected", "finish_reason", "usage", "timings", "seconds"];

/// How many rows are read ahead for each that is corrected, so that a long one does not hold up those behind it.
const AHEAD: usize = 3;

/// Corrects rows; those that come out may be behind those that go in.
pub struct Rows<'a> {
    corrector: &'a Corrector,
    options: &'a CorrectOptions,
    /// Where more than one is corrected at once.
    batcher: Option<Batcher>,
    ahead: usize,
    pending: VecDeque<(Record, CorrectionStream)>,
}

impl<'a> Rows<'a> {
    pub fn new(corrector: &'a Corrector, args: &CorrectArgs, options: &'a CorrectOptions) -> Self {
        Self {
            corrector,
            options,
            batcher: (args.parallel > 1).then(|| corrector.batcher(args.batch())),
            ahead: args.parallel.saturating_mul(AHEAD),
            pending: VecDeque::new(),
        }
    }

    /// Takes a row, which has this place in the file; gives the first of those that went in, when there are many.
    pub fn take(&mut self, record: Record, index: u64) -> Result<Option<Map<String, Value>>> {
        let input = Input {
            question: &record.question,
            answer: &record.answer,
            chat_history: &record.chat_history,
        };
        let mut options = self.options.clone();
        options.sampling.seed = part_seed(options.sampling.seed, index);
        let Some(batcher) = &self.batcher else {
            let started = Instant::now();
            let correction = self
                .corrector
                .correct_with(input, &options, |_| ControlFlow::Continue(()))
                .map_err(|error| CliError::Failed(format!("{}: {error}", record.origin)))?;
            return corrected(&record, correction, started.elapsed().as_secs_f64()).map(Some);
        };
        let stream = batcher.stream(input, &options);
        self.pending.push_back((record, stream));
        if self.pending.len() < self.ahead {
            return Ok(None);
        }
        self.next()
    }

    /// The first of the rows that went in and did not come out.
    pub fn next(&mut self) -> Result<Option<Map<String, Value>>> {
        let Some((record, stream)) = self.pending.pop_front() else {
            return Ok(None);
        };
        let correction = stream
            .wait()
            .map_err(|error| CliError::Failed(format!("{}: {error}", record.origin)))?;
        let seconds = correction.timings.prefill_seconds + correction.timings.decode_seconds;
        corrected(&record, correction, seconds).map(Some)
    }
}

/// The row with its correction.
fn corrected(record: &Record, correction: Correction, seconds: f64) -> Result<Map<String, Value>> {
    if correction.finish_reason == FinishReason::Cancelled {
        return Err(CliError::Failed(
            "cancelled; run the same command again to go on".into(),
        ));
    }
    let added = serde_json::json!({
        "corrected": correction.text,
        "finish_reason": correction.finish_reason,
        "usage": correction.usage,
        "timings": correction.timings,
        "seconds": (seconds * 1e6).round() / 1e6,
    });
    let mut row = record.raw.clone();
    if let Value::Object(added) = added {
        row.extend(added);
    }
    Ok(row)
}
