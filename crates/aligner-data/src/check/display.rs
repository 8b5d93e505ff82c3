//! The report as people read it.

use std::fmt::{Display, Formatter, Result};

use super::findings::Level;
use super::lengths::Lengths;
use super::near::NearReport;
use super::place::{PairExample, RowExample};
use super::report::CheckReport;

/// Bad rows that are shown.
const BAD_ROWS: usize = 10;

impl Display for CheckReport {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        for file in &self.files {
            writeln!(f, "{}", file.file)?;
            if self.files.len() > 1 {
                line(f, "  usable rows", file.rows)?;
            }
        }
        self.counts(f)?;
        self.lengths(f)?;
        self.length_bias(f)?;
        self.refusals(f)?;
        self.near(f)?;
        self.oddities(f)?;
        self.forecast(f)?;
        self.leaks(f)?;
        self.benchmarks(f)?;
        self.findings(f)
    }
}

/// A name and its value, aligned.
fn line(f: &mut Formatter<'_>, name: &str, value: impl Display) -> Result {
    writeln!(f, "  {name:<25} {value}")
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

impl CheckReport {
    fn share(&self, count: u64) -> String {
        format!("{count} ({})", percent(count as f64 / self.rows.max(1) as f64))
    }

    fn counts(&self, f: &mut Formatter<'_>) -> Result {
        line(f, "usable rows", self.rows)?;
        line(f, "bad rows", self.bad_rows)?;
        for row in self.first_bad_rows.iter().take(BAD_ROWS) {
            writeln!(f, "    {row}")?;
        }
        if self.unsuitable_rows > 0 {
            line(f, "left out, without a pair", self.unsuitable_rows)?;
        }
        line(f, "duplicate rows", self.share(self.duplicate_rows))?;
        line(f, "repeated questions", self.share(self.repeated_questions))?;
        line(f, "with earlier turns", self.share(self.with_history))?;
        line(f, "answer is correction", self.share(self.identity.exact))?;
        line(
            f,
            "  but for case and space",
            self.share(self.identity.case_or_space_only),
        )?;
        line(
            f,
            "answer is in correction",
            self.share(self.identity.contains_answer),
        )?;
        line(f, "empty answers", self.share(self.identity.empty_answers))?;
        if let (Some(max_length), Some(too_long)) = (self.max_length, self.too_long) {
            line(f, &format!("longer than {max_length}"), self.share(too_long))?;
        }
        Ok(())
    }

    fn lengths(&self, f: &mut Formatter<'_>) -> Result {
        let head = format!("length in {}", self.unit);
        writeln!(
            f,
            "  {head:<20}    min    p50    p90    p95    p99    max     mean"
        )?;
        let lengths = [
            ("question", self.question),
            ("answer", self.answer),
            ("correction", self.correction),
        ];
        let whole = self.whole.map(|whole| ("whole row", whole));
        for (name, lengths) in lengths.into_iter().chain(whole) {
            let Lengths {
                min,
                p50,
                p90,
                p95,
                p99,
                max,
                mean,
            } = lengths;
            writeln!(
                f,
                "    {name:<18} {min:>6} {p50:>6} {p90:>6} {p95:>6} {p99:>6} {max:>6} {mean:>8.1}"
            )?;
        }
        Ok(())
    }

    fn length_bias(&self, f: &mut Formatter<'_>) -> Result {
        let bias = &self.length_bias;
        let quartiles = format!(
            "median {:.2}, quartiles {:.2} and {:.2}; {} longer, {} shorter",
            bias.ratio_p50,
            bias.ratio_p25,
            bias.ratio_p75,
            percent(bias.longer),
            percent(bias.shorter)
        );
        line(f, "correction / answer", quartiles)?;
        match bias.correlation {
            Some(correlation) => line(f, "  correlation of lengths", format!("{correlation:.2}")),
            None => Ok(()),
        }
    }

    fn refusals(&self, f: &mut Formatter<'_>) -> Result {
        let refusals = &self.refusals;
        let counts = format!(
            "{} answers, {} corrections",
            self.share(refusals.answers),
            self.share(refusals.corrections)
        );
        line(f, "refusals", counts)?;
        let table = format!(
            "kept {}, removed {}, added {}, in neither {}",
            refusals.kept, refusals.removed, refusals.added, refusals.none
        );
        line(f, "  answer → correction", table)?;
        rows(f, &refusals.examples)?;
        let cut = format!(
            "{} answers, {} corrections",
            self.share(self.cut_off.answers),
            self.share(self.cut_off.corrections)
        );
        line(f, "end unfinished", cut)?;
        rows(f, &self.cut_off.examples)
    }

    fn near(&self, f: &mut Formatter<'_>) -> Result {
        for (name, near) in [
            ("near-duplicate questions", &self.near_questions),
            ("near-duplicate rows", &self.near_rows),
        ] {
            let NearReport {
                distinct,
                clusters,
                in_clusters,
                extra,
                ..
            } = near;
            let text = format!("{extra} of {distinct} different ones ({in_clusters} in {clusters} groups)");
            line(f, name, text)?;
            pairs(f, &near.examples)?;
        }
        Ok(())
    }

    fn oddities(&self, f: &mut Formatter<'_>) -> Result {
        for (kind, oddity) in &self.oddities {
            let name = format!("{kind:?}").chars().fold(String::new(), |name, letter| {
                let blank = if letter.is_uppercase() && !name.is_empty() {
                    " "
                } else {
                    ""
                };
                name + blank + &letter.to_lowercase().to_string()
            });
            line(f, &name, self.share(oddity.rows))?;
            rows(f, &oddity.examples)?;
        }
        Ok(())
    }

    fn forecast(&self, f: &mut Formatter<'_>) -> Result {
        let Some(forecast) = &self.forecast else {
            return Ok(());
        };
        let lost = format!(
            "{} tokens in {} rows",
            forecast.too_long_tokens, forecast.too_long_rows
        );
        line(f, "too long to train on", lost)?;
        let keeps: Vec<String> = forecast
            .keeps
            .iter()
            .map(|keeps| format!("{} keeps {} %", keeps.max_length, keeps.percent))
            .collect();
        line(f, "  --max-length", keeps.join(", "))?;
        let padding = format!(
            "{} of {} tokens, {} rows at a time (train has none)",
            percent(forecast.padding),
            forecast.padded_tokens,
            forecast.micro_batch
        );
        line(f, "padding in other programs", padding)?;
        let packed = format!(
            "{} ({} rows of {} tokens)",
            percent(forecast.packed_padding),
            forecast.packed_rows,
            forecast.max_length
        );
        line(f, "  if packed", packed)
    }

    fn leaks(&self, f: &mut Formatter<'_>) -> Result {
        let Some(leaks) = &self.leaks else { return Ok(()) };
        let of_all = |count: u64| format!("{count} ({})", percent(count as f64 / leaks.rows.max(1) as f64));
        for file in &leaks.files {
            line(f, "validation", format!("{}: {} rows", file.file, file.rows))?;
        }
        line(f, "  rows in training", of_all(leaks.equal_rows))?;
        pairs(f, &leaks.equal_row_examples)?;
        line(f, "  questions in training", of_all(leaks.equal_questions))?;
        pairs(f, &leaks.equal_question_examples)?;
        line(f, "  nearly in training", of_all(leaks.near_questions))?;
        pairs(f, &leaks.near_question_examples)
    }

    fn benchmarks(&self, f: &mut Formatter<'_>) -> Result {
        for benchmark in &self.benchmarks {
            line(
                f,
                "benchmark",
                format!("{}: {} texts", benchmark.file, benchmark.texts),
            )?;
            let fields = format!(
                "{} ({} in the question, {} in the answer, {} in the correction)",
                self.share(benchmark.rows),
                benchmark.in_question,
                benchmark.in_answer,
                benchmark.in_correction
            );
            line(f, &format!("  {} words in common", benchmark.ngram), fields)?;
            rows(f, &benchmark.examples)?;
        }
        Ok(())
    }

    fn findings(&self, f: &mut Formatter<'_>) -> Result {
        for finding in &self.findings {
            let level = match finding.level {
                Level::Error => "ERROR",
                Level::Warning => "WARN ",
            };
            writeln!(
                f,
                "{level} {}: {} [{}]",
                finding.message, finding.advice, finding.code
            )?;
        }
        Ok(())
    }
}

fn rows(f: &mut Formatter<'_>, examples: &[RowExample]) -> Result {
    for example in examples {
        writeln!(f, "    {} {}: {}", example.place, example.what, example.text)?;
    }
    Ok(())
}

fn pairs(f: &mut Formatter<'_>, examples: &[PairExample]) -> Result {
    for example in examples {
        writeln!(
            f,
            "    {:.2}  {}: {}",
            example.similarity, example.first, example.first_text
        )?;
        writeln!(f, "          {}: {}", example.second, example.second_text)?;
    }
    Ok(())
}
