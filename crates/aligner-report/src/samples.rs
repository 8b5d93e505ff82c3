//! `samples.jsonl`: what the model made of answers in the last validation.

use std::path::Path;

use aligner_data::{diff, edit_ratio};
use serde_json::{Map, Value};

use crate::error::Result;
use crate::kit::shortened;
use crate::lines::objects;

/// Samples that are shown.
const SHOWN: usize = 12;
/// Characters of a text that are shown, and that a diff is made of.
const MOST_CHARS: usize = 3000;
/// Bars of the histogram.
pub const BINS: usize = 20;

/// One sample.
#[derive(Debug, Default)]
pub struct Sample {
    /// The question.
    pub question: String,
    /// The answer that was to be corrected.
    pub answer: String,
    /// What the model wrote.
    pub correction: String,
    /// What the data say.
    pub reference: String,
    /// Share of the words that changed.
    pub edit_ratio: f64,
    /// Whether a text was longer than is shown.
    pub is_cut: bool,
}

/// The samples of one validation.
#[derive(Debug, Default)]
pub struct Samples {
    /// After which step.
    pub step: u64,
    /// The first of them.
    pub shown: Vec<Sample>,
    /// How many there were.
    pub count: u64,
    /// How many have an edit ratio of `index / BINS` and more.
    pub histogram: [u64; BINS],
    /// How many are copies of their answer.
    pub unchanged: u64,
}

impl Samples {
    /// Reads the last validation's; none where there is no file.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read(path: &Path) -> Result<Self> {
        let mut samples = Self::default();
        objects(path, |object| samples.take(&object))?;
        Ok(samples)
    }

    fn take(&mut self, object: &Map<String, Value>) {
        let step = object.get("step").and_then(Value::as_u64).unwrap_or(0);
        if self.count == 0 || step > self.step {
            *self = Self {
                step,
                ..Self::default()
            };
        } else if step < self.step {
            return;
        }
        let sample = Sample::of(object);
        self.count += 1;
        self.unchanged += u64::from(sample.edit_ratio == 0.0);
        let bin = (sample.edit_ratio.clamp(0.0, 1.0) * BINS as f64) as usize;
        self.histogram[bin.min(BINS - 1)] += 1;
        if self.shown.len() < SHOWN {
            self.shown.push(sample);
        }
    }
}

impl Sample {
    fn of(object: &Map<String, Value>) -> Self {
        let mut is_cut = false;
        let mut text = |key: &str| {
            let whole = object.get(key).and_then(Value::as_str).unwrap_or_default();
            let (text, more) = shortened(whole, MOST_CHARS);
            is_cut |= more;
            text.to_string()
        };
        let mut sample = Self {
            question: text("question"),
            answer: text("answer"),
            correction: text("correction"),
            reference: text("reference"),
            ..Self::default()
        };
        sample.is_cut = is_cut;
        let recorded = object.get("edit_ratio").and_then(Value::as_f64);
        sample.edit_ratio = recorded.unwrap_or_else(|| edit_ratio(&diff(&sample.answer, &sample.correction)));
        sample
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_validation_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("samples.jsonl");
        let mut text = String::new();
        for (step, ratio) in [(10, "0.9"), (20, "0"), (20, "0.26"), (20, "1"), (20, "null")] {
            text += &format!(
                "{{\"step\":{step},\"question\":\"q\",\"answer\":\"a b\",\"correction\":\"a c\",\"edit_ratio\":{ratio}}}\n"
            );
        }
        std::fs::write(&path, text).unwrap();
        let samples = Samples::read(&path).unwrap();
        assert_eq!(
            (
                samples.step,
                samples.count,
                samples.unchanged,
                samples.shown.len()
            ),
            (20, 4, 1, 4)
        );
        let bins: Vec<usize> = (0..BINS).filter(|&bin| samples.histogram[bin] > 0).collect();
        assert_eq!(bins, [0, 5, 10, 19]);
        assert_eq!(
            samples.shown[3].edit_ratio, 0.5,
            "computed where it is not recorded"
        );
    }
}
