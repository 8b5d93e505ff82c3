//! What is to be asked, each thing once, and what becomes of the replies.

use std::collections::{HashMap, HashSet};

use sha2::{Digest, Sha256};

use super::cache::Replies;
use super::config::JudgeConfig;
use super::prompt::Prompt;
use super::verdict::{Choice, read_choice};
use crate::error::{EvalError, Result};
use crate::row::{Dimension, Judgement, Outcome, Verdict};

/// What stands for a reply where the original and the correction are the same and nobody was asked.
pub const IDENTICAL: &str = "identical";

/// A call that has to be made, or was.
#[derive(Debug)]
pub(super) struct Call {
    pub outcome: usize,
    pub dimension: Dimension,
    pub correction_first: bool,
    /// Hash of the request's body, which holds the model, the prompt and the settings, but not the URL.
    pub key: String,
    pub prompt_chars: usize,
}

/// All calls of an evaluation.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    outcomes: &'a [Outcome],
    config: &'a JudgeConfig,
    /// For each outcome, dimension and order the key of its call; `None` where nobody is asked.
    keys: Vec<Option<String>>,
    /// Calls with different keys, in the order of the outcomes.
    pub calls: Vec<Call>,
    /// Pairs of an original and a correction that are the same.
    pub identical: u64,
}

impl<'a> Plan<'a> {
    /// # Errors
    /// When a setting makes no sense, or an outcome is there twice.
    pub fn new(outcomes: &'a [Outcome], config: &'a JudgeConfig) -> Result<Self> {
        config.check()?;
        refuse_repeated(outcomes)?;
        let mut plan = Self {
            outcomes,
            config,
            keys: Vec::new(),
            calls: Vec::new(),
            identical: 0,
        };
        let mut known = HashSet::new();
        for at in 0..outcomes.len() {
            plan.add(at, &mut known);
        }
        Ok(plan)
    }

    fn add(&mut self, at: usize, known: &mut HashSet<String>) {
        let outcome = &self.outcomes[at];
        let is_identical = outcome.item.answer.trim() == outcome.output.trim();
        self.identical += u64::from(is_identical);
        for (dimension, correction_first) in asked(self.config) {
            if is_identical {
                self.keys.push(None);
                continue;
            }
            let prompt = Prompt::new(outcome, dimension, correction_first);
            let key = hex(&Sha256::digest(prompt.body(self.config).as_bytes()));
            self.keys.push(Some(key.clone()));
            // Two Aligners that make the same of an answer are one question to the judge.
            if known.insert(key.clone()) {
                self.calls.push(Call {
                    outcome: at,
                    dimension,
                    correction_first,
                    key,
                    prompt_chars: prompt.chars(),
                });
            }
        }
    }

    /// The request of a call. It is made anew, because all of them at once are a multiple of the outcomes.
    pub fn body(&self, call: &Call) -> String {
        let outcome = &self.outcomes[call.outcome];
        Prompt::new(outcome, call.dimension, call.correction_first).body(self.config)
    }

    /// How a call is named in an error.
    pub fn name(&self, call: &Call) -> String {
        let order = match call.correction_first {
            true => "correction first",
            false => "original first",
        };
        let dimension = call.dimension;
        format!(
            "{}, asked whether it is {dimension}, {order}",
            row_name(self.outcomes, call.outcome)
        )
    }

    /// The judgements, in the order of the outcomes, the dimensions, and the original first.
    ///
    /// # Errors
    /// When a call was not answered.
    pub fn judgements(&self, replies: &Replies) -> Result<Vec<Judgement>> {
        let slots = self
            .outcomes
            .iter()
            .flat_map(|outcome| asked(self.config).map(move |asked| (outcome, asked)));
        slots
            .zip(&self.keys)
            .map(|((outcome, (dimension, correction_first)), key)| {
                let (verdict, said) = match key {
                    None => (Verdict::Tie, IDENTICAL.to_string()),
                    Some(key) => {
                        let reply = replies.get(key).ok_or_else(|| {
                            let id = &outcome.item.id;
                            EvalError::Invalid(format!("the judge was not asked about {id:?}: run it again"))
                        })?;
                        let choice = if reply.is_cut {
                            None
                        } else {
                            read_choice(&reply.said)
                        };
                        (verdict(choice, correction_first), reply.said.clone())
                    }
                };
                Ok(Judgement {
                    id: outcome.item.id.clone(),
                    dataset: outcome.item.dataset.clone(),
                    upstream: outcome.item.upstream.clone(),
                    aligner: outcome.aligner.clone(),
                    fingerprint: outcome.fingerprint(),
                    dimension,
                    correction_first,
                    verdict,
                    judge: self.config.model.clone(),
                    said,
                })
            })
            .collect()
    }
}

/// What a choice between two places says of the correction.
fn verdict(choice: Option<Choice>, correction_first: bool) -> Verdict {
    match (choice, correction_first) {
        (None, _) => Verdict::Unread,
        (Some(Choice::Neither), _) => Verdict::Tie,
        (Some(Choice::First), true) | (Some(Choice::Second), false) => Verdict::Win,
        (Some(Choice::First), false) | (Some(Choice::Second), true) => Verdict::Loss,
    }
}

/// What is asked about each pair.
fn asked(config: &JudgeConfig) -> impl Iterator<Item = (Dimension, bool)> {
    let both = |dimension: &Dimension| [(*dimension, false), (*dimension, true)];
    config.dimensions.iter().flat_map(both)
}

/// # Errors
/// When two outcomes have the same data set, upstream, Aligner and id: their judgements could not be told apart.
fn refuse_repeated(outcomes: &[Outcome]) -> Result<()> {
    let mut seen = HashMap::new();
    for (at, outcome) in outcomes.iter().enumerate() {
        let item = &outcome.item;
        let key = (&item.dataset, &item.upstream, &outcome.aligner, &item.id);
        if let Some(earlier) = seen.insert(key, at) {
            return Err(EvalError::Invalid(format!(
                "{} is there already as row {}: keep one of them, or give each row an id of its own",
                row_name(outcomes, at),
                earlier + 1,
            )));
        }
    }
    Ok(())
}

fn row_name(outcomes: &[Outcome], at: usize) -> String {
    let outcome = &outcomes[at];
    let item = &outcome.item;
    format!(
        "row {} (data set {:?}, upstream {:?}, Aligner {:?}, id {:?})",
        at + 1,
        item.dataset,
        item.upstream,
        outcome.aligner,
        item.id
    )
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
