//! What an evaluation file is.

use std::fmt;
use std::str::FromStr;

use super::fields::Raw;
use crate::error::EvalError;

/// What an evaluation file is.
///
/// ```
/// use aligner_eval::input::InputFormat;
/// assert_eq!("truthfulqa".parse::<InputFormat>()?, InputFormat::TruthfulQa);
/// # Ok::<(), aligner_eval::EvalError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum InputFormat {
    /// Question/answer rows of any format that `aligner-data` reads. A correction counts as a right answer.
    Rows,
    /// Our own [`Item`](crate::Item)s and [`Outcome`](crate::Outcome)s; of the latter the original answer is read.
    Items,
    /// AlpacaEval's `model_outputs.json`: `instruction`, `output`, `generator`, and in `dataset` the part of the set, which
    /// becomes the category. The outputs of an Aligner have `original_output`; they are read where the upstream is named,
    /// since `generator` names the Aligner. Source: `results/*/model_outputs.json` in github.com/tatsu-lab/alpaca_eval.
    AlpacaEval,
    /// BeaverTails-Evaluation: `prompt`, `category`, `category_id`; no answers. Source: the card of the data set
    /// `PKU-Alignment/BeaverTails-Evaluation`, whose columns `walledai/BeaverTailsEval` repeats.
    BeaverTailsEval,
    /// HarmfulQA: `id`, `topic`, `subtopic`, `question`, and conversations, which are not read; no answers. Source: the
    /// card of the data set `declare-lab/HarmfulQA` (Bhardwaj & Poria 2023, arXiv 2308.09662).
    HarmfulQa,
    /// TruthfulQA as CSV (`Type`, `Category`, `Question`, `Best Answer`, `Correct Answers`, `Incorrect Answers`, `Source`;
    /// answers with semicolons between them) or as rows of `question`, `best_answer`, `correct_answers`,
    /// `incorrect_answers`; answers only where a column `answer` has them. Source: github.com/sylinrl/TruthfulQA. As its
    /// `metrics.py` does, "I have no comment." is added to the right answers.
    TruthfulQa,
    /// DialogSum: `fname`, `dialogue`, `summary` (or `summary1` to `summary3`) and `topic`. Source: `DialogSum_Data` in
    /// github.com/cylnlp/dialogsum. Summaries are right answers; an instruction stands before the dialogue.
    DialogSum,
    /// EmpatheticDialogues, from which E-Dialogue is drawn: a CSV of utterances without quotes, `conv_id`, `utterance_idx`,
    /// `context`, `prompt`, `speaker_idx`, `utterance`, `selfeval`, `tags`, with `_comma_` for a comma; or rows of the same
    /// columns. Every reply of the listener is a right answer to what was said before. Source: `empchat.py` of
    /// github.com/facebookresearch/EmpatheticDialogues, with its `reactonly` (Rashkin et al. 2019).
    EmpatheticDialogues,
    /// Any other questions: `question`, `instruction` or `prompt`, and perhaps `id` and `category`; no answers.
    Questions,
}

impl InputFormat {
    /// Every format.
    pub fn all() -> impl Iterator<Item = Self> {
        [
            Self::Rows,
            Self::Items,
            Self::AlpacaEval,
            Self::BeaverTailsEval,
            Self::HarmfulQa,
            Self::TruthfulQa,
            Self::DialogSum,
            Self::EmpatheticDialogues,
            Self::Questions,
        ]
        .into_iter()
    }

    /// Its name, as it is typed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rows => "rows",
            Self::Items => "items",
            Self::AlpacaEval => "alpaca-eval",
            Self::BeaverTailsEval => "beavertails-eval",
            Self::HarmfulQa => "harmfulqa",
            Self::TruthfulQa => "truthfulqa",
            Self::DialogSum => "dialogsum",
            Self::EmpatheticDialogues => "empathetic-dialogues",
            Self::Questions => "questions",
        }
    }

    /// The data set that a published file is of.
    pub(super) fn dataset(self) -> Option<&'static str> {
        match self {
            Self::Rows | Self::Items | Self::Questions => None,
            _ => Some(self.name()),
        }
    }

    /// What a file is whose first row this is.
    pub(super) fn detect(raw: &Raw) -> Self {
        let has = |columns: &[&str]| columns.iter().all(|column| raw.contains_key(*column));
        let any = |columns: &[&str]| columns.iter().any(|column| raw.contains_key(*column));
        let is_answered = any(&[
            "answer",
            "output",
            "response",
            "completion",
            "response_0",
            "chosen",
            "rejected",
            "prefix",
        ]);
        let signs = [
            (
                has(&["id", "dataset", "instruction", "original_output", "upstream"]),
                Self::Items,
            ),
            (has(&["instruction", "output", "generator"]), Self::AlpacaEval),
            (has(&["conv_id", "utterance"]), Self::EmpatheticDialogues),
            (
                has(&["dialogue"]) && any(&["fname", "summary", "summary1"]),
                Self::DialogSum,
            ),
            (has(&["Question", "Correct Answers"]), Self::TruthfulQa),
            (
                has(&["question", "correct_answers"]) && (raw.contains_key("best_answer") || !is_answered),
                Self::TruthfulQa,
            ),
            (has(&["question", "subtopic"]) && !is_answered, Self::HarmfulQa),
            (
                has(&["prompt", "category"]) && !is_answered,
                Self::BeaverTailsEval,
            ),
            (
                any(&["question", "instruction", "prompt"]) && !is_answered,
                Self::Questions,
            ),
        ];
        let found = signs.iter().find(|(is, _)| *is);
        found.map_or(Self::Rows, |(_, format)| *format)
    }
}

impl fmt::Display for InputFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for InputFormat {
    type Err = EvalError;

    fn from_str(name: &str) -> Result<Self, EvalError> {
        Self::all().find(|format| format.name() == name).ok_or_else(|| {
            let known: Vec<&str> = Self::all().map(Self::name).collect();
            EvalError::Invalid(format!(
                "{name:?} is not a format of evaluation files; formats are {}",
                known.join(", ")
            ))
        })
    }
}
