//! From counts to what should be looked at.

use serde::Serialize;

use super::oddities::OddityKind;
use super::report::CheckReport;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Training on it fails, or its validation says nothing.
    Error,
    /// It should be known, and may be meant.
    Warning,
}

/// Something to look at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// Its name, the same in every version.
    pub code: &'static str,
    /// What was found.
    pub message: String,
    /// What to do about it.
    pub advice: &'static str,
}

/// Shares above which something is warned of.
const REPEATED_ROWS: f64 = 0.01;
const NEAR_QUESTIONS: f64 = 0.05;
const NEAR_ROWS: f64 = 0.01;
const IDENTITY: f64 = 0.5;
const REFUSALS_ADDED: f64 = 0.05;
const CUT_OFF: f64 = 0.01;

/// The findings of a report, errors first.
pub(super) fn of(report: &CheckReport) -> Vec<Finding> {
    let mut findings = Findings {
        rows: report.rows,
        list: Vec::new(),
    };
    findings.rows_to_use(report);
    findings.leaks(report);
    findings.duplicates(report);
    findings.corrections(report);
    findings.refusals_and_ends(report);
    findings.texts(report);
    findings.benchmarks(report);
    findings.list.sort_by_key(|finding| finding.level);
    findings.list
}

struct Findings {
    rows: u64,
    list: Vec<Finding>,
}

impl Findings {
    fn add(&mut self, level: Level, code: &'static str, message: String, advice: &'static str) {
        self.list.push(Finding {
            level,
            code,
            message,
            advice,
        });
    }

    fn error(&mut self, code: &'static str, message: String, advice: &'static str) {
        self.add(Level::Error, code, message, advice);
    }

    fn warn(&mut self, code: &'static str, message: String, advice: &'static str) {
        self.add(Level::Warning, code, message, advice);
    }

    fn share(&self, count: u64) -> f64 {
        count as f64 / self.rows.max(1) as f64
    }

    fn percent(&self, count: u64) -> String {
        format!("{:.1} %", 100.0 * self.share(count))
    }

    fn rows_to_use(&mut self, report: &CheckReport) {
        if report.rows == 0 {
            self.error(
                "no_rows",
                "there is no usable row".into(),
                "name files with question, answer and correction",
            );
        }
        if report.bad_rows > 0 {
            let message = format!("{} rows cannot be read", report.bad_rows);
            self.error(
                "bad_rows",
                message,
                "repair them, map their columns, or train with --on-bad-row skip",
            );
        }
        if let (Some(long @ 1..), Some(max_length)) = (report.too_long, report.max_length) {
            let message =
                format!("{long} rows are too long to be trained on (more than {max_length} tokens)");
            self.error(
                "too_long",
                message,
                "raise --max-length, or train with --on-long-row skip",
            );
        }
    }

    fn leaks(&mut self, report: &CheckReport) {
        let Some(leaks) = &report.leaks else { return };
        let bad: u64 = leaks.files.iter().map(|file| file.bad_rows).sum();
        if bad > 0 {
            let message = format!("{bad} validation rows cannot be read");
            self.error(
                "bad_validation_rows",
                message,
                "check the validation files by themselves",
            );
        }
        if leaks.equal_rows > 0 {
            let message = format!(
                "{} of {} validation rows are training rows",
                leaks.equal_rows, leaks.rows
            );
            self.error(
                "leaked_rows",
                message,
                "remove them from one side: the validation loss is too good",
            );
        }
        if leaks.equal_questions > 0 {
            let count = leaks.equal_questions;
            let message = format!(
                "{count} of {} validation rows ask a training row's question",
                leaks.rows
            );
            self.error("leaked_questions", message, "split by question, not by row");
        }
        if leaks.near_questions > 0 {
            let count = leaks.near_questions;
            let message = format!(
                "{count} of {} validation rows ask nearly what a training row asks",
                leaks.rows
            );
            self.warn(
                "near_leaks",
                message,
                "read the pairs; put such questions on one side",
            );
        }
    }

    fn duplicates(&mut self, report: &CheckReport) {
        if self.share(report.duplicate_rows) > REPEATED_ROWS {
            let count = report.duplicate_rows;
            let message = format!("{count} rows ({}) are there already", self.percent(count));
            self.warn(
                "duplicate_rows",
                message,
                "remove them: a repeated row counts as often as it occurs",
            );
        }
        let near = &report.near_rows;
        if self.share(near.extra) > NEAR_ROWS {
            let message = format!(
                "{} rows ({}) are nearly an earlier one",
                near.extra,
                self.percent(near.extra)
            );
            self.warn(
                "near_duplicate_rows",
                message,
                "read the pairs; keep one of each group where the difference means nothing",
            );
        }
        let near = &report.near_questions;
        let share = near.extra as f64 / near.distinct.max(1) as f64;
        if share > NEAR_QUESTIONS {
            let message = format!(
                "{} of {} different questions ({:.1} %) are nearly an earlier one",
                near.extra,
                near.distinct,
                100.0 * share
            );
            self.warn(
                "near_duplicate_questions",
                message,
                "split into training and validation by group, not by row",
            );
        }
    }

    fn corrections(&mut self, report: &CheckReport) {
        let identity = &report.identity;
        let same = identity.exact + identity.case_or_space_only;
        if self.share(same) > IDENTITY {
            let message = format!("{} of the corrections are the answer", self.percent(same));
            self.warn(
                "mostly_identity",
                message,
                "fine for a warm-up; to learn correcting, mix in rows that correct",
            );
        }
        let bias = &report.length_bias;
        if bias.is_longer_as_a_rule() {
            let message = format!(
                "corrections are longer as a rule: {:.0} % are, median ratio {:.2}",
                100.0 * bias.longer,
                bias.ratio_p50
            );
            let advice = "a model learns to write more, and a judge rewards it: add short corrections, report a length-controlled score";
            self.warn("longer_corrections", message, advice);
        } else if bias.is_shorter_as_a_rule() {
            let message = format!(
                "corrections are shorter as a rule: {:.0} % are, median ratio {:.2}",
                100.0 * bias.shorter,
                bias.ratio_p50
            );
            self.warn(
                "shorter_corrections",
                message,
                "a model learns to leave things out: check that nothing needed is lost",
            );
        }
    }

    fn refusals_and_ends(&mut self, report: &CheckReport) {
        let refusals = &report.refusals;
        if self.share(refusals.added) > REFUSALS_ADDED && refusals.added > refusals.removed {
            let message = format!(
                "{} corrections ({}) decline where the answer did not; {} do the opposite",
                refusals.added,
                self.percent(refusals.added),
                refusals.removed
            );
            self.warn(
                "refusals_added",
                message,
                "read some: a model learns to decline where it should help",
            );
        }
        if self.share(report.cut_off.corrections) > CUT_OFF {
            let cut = report.cut_off.corrections;
            let message = format!(
                "{cut} corrections ({}) end unfinished, in mid-sentence or without their full stop",
                self.percent(cut)
            );
            self.warn(
                "cut_off_corrections",
                message,
                "generate them anew with a higher limit, or leave them out",
            );
        }
    }

    fn texts(&mut self, report: &CheckReport) {
        for (kind, oddity) in &report.oddities {
            let (code, what, advice) = described(*kind);
            let message = format!("{} rows {what}", oddity.rows);
            self.warn(code, message, advice);
        }
    }

    fn benchmarks(&mut self, report: &CheckReport) {
        for benchmark in report.benchmarks.iter().filter(|benchmark| benchmark.rows > 0) {
            let message = format!(
                "{} rows ({}) share {} words in a row, or a whole short text, with {}",
                benchmark.rows,
                self.percent(benchmark.rows),
                benchmark.ngram,
                benchmark.file
            );
            self.warn(
                "benchmark_overlap",
                message,
                "leave them out, or do not report on this benchmark",
            );
        }
    }
}

/// Code, what such rows do, and advice.
fn described(kind: OddityKind) -> (&'static str, &'static str, &'static str) {
    match kind {
        OddityKind::ControlCharacter => (
            "control_characters",
            "have control characters",
            "remove them where they mean nothing",
        ),
        OddityKind::ReplacementCharacter => (
            "replacement_characters",
            "have U+FFFD, where bytes were lost",
            "read the source again in its right encoding",
        ),
        OddityKind::Mojibake => (
            "mojibake",
            "have UTF-8 that was read as Windows-1252",
            "repair them (ftfy does), or read the source again",
        ),
        OddityKind::InvisibleCharacter => (
            "invisible_characters",
            "have characters that cannot be seen",
            "remove them: they cost tokens and hide text",
        ),
        OddityKind::TemplateMarker => (
            "template_markers",
            "have a marker of the prompt template in their text",
            "the model cannot tell it from the template's own: remove it, or use another template",
        ),
        OddityKind::SpecialToken => (
            "special_tokens",
            "have a chat format's token written out",
            "cut the text there: it is a remnant of generation",
        ),
        OddityKind::NextTurn => (
            "next_turns",
            "go on with the next turn of a dialogue",
            "cut the text there: a model learns to speak for the user",
        ),
        OddityKind::NoWord => (
            "no_words",
            "have an answer or correction without a letter or digit",
            "leave them out unless they are meant",
        ),
    }
}
