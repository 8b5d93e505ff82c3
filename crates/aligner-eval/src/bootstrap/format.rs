//! How a row looks.
//!
//! The shapes are those of TRL's dataset formats. Conversational rows get the trained model's own chat template from the
//! trainer; texts are taken as they are. Nothing but these columns is written: a column more is in the way of some trainers.

use std::fmt;
use std::str::FromStr;

use aligner_data::Turn;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::error::EvalError;
use crate::row::Outcome;
use aligner_data::Random;

/// How a row looks, and so what it can train.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BootstrapFormat {
    /// `{prompt: [messages], completion: [message]}`: supervised fine-tuning with the loss on the completion.
    #[default]
    Sft,
    /// `{messages: [messages]}`: supervised fine-tuning; trainers put the loss on the question too unless told otherwise.
    SftMessages,
    /// `{prompt, completion}` as texts: for models without a chat template. There is no place for earlier turns.
    SftText,
    /// `{prompt: [messages], chosen: [message], rejected: [message]}`: preference pairs.
    Dpo,
    /// `{prompt: [messages], completion: [message], label}`: two rows for each pair.
    Kto,
    /// `{question, answer, correction}`, with `chat_history` where there is one: rows to train an Aligner on.
    Qac,
}

impl BootstrapFormat {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Sft,
        Self::SftMessages,
        Self::SftText,
        Self::Dpo,
        Self::Kto,
        Self::Qac,
    ];

    /// The name by which it is chosen.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sft => "sft",
            Self::SftMessages => "sft-messages",
            Self::SftText => "sft-text",
            Self::Dpo => "dpo",
            Self::Kto => "kto",
            Self::Qac => "qac",
        }
    }

    /// The rows of some corrections, in the order in which they are written.
    pub(super) fn rows<'a>(self, kept: &'a [&'a Outcome], seed: u64) -> Box<dyn Iterator<Item = Value> + 'a> {
        match self {
            Self::Kto => Box::new(kto_order(kept.len(), seed).into_iter().map(|(at, label)| {
                let outcome = kept[at];
                let text = if label {
                    &outcome.output
                } else {
                    &outcome.item.answer
                };
                json!({"prompt": prompt(outcome), "completion": [assistant(text)], "label": label})
            })),
            _ => Box::new(kept.iter().map(move |outcome| self.row(outcome))),
        }
    }

    fn row(self, outcome: &Outcome) -> Value {
        let (item, output) = (&outcome.item, &outcome.output);
        match self {
            Self::SftMessages => {
                let mut messages = prompt(outcome);
                messages.push(assistant(output));
                json!({ "messages": messages })
            }
            Self::SftText => json!({"prompt": item.question, "completion": output}),
            Self::Dpo => json!({
                "prompt": prompt(outcome), "chosen": [assistant(output)], "rejected": [assistant(&item.answer)],
            }),
            Self::Qac => {
                let mut row = json!({"question": item.question, "answer": item.answer, "correction": output});
                if !item.chat_history.is_empty() {
                    let turns = item.chat_history.iter();
                    row["chat_history"] = turns.map(|turn| json!([turn.question, turn.answer])).collect();
                }
                row
            }
            Self::Sft | Self::Kto => json!({"prompt": prompt(outcome), "completion": [assistant(output)]}),
        }
    }
}

/// Which pair a row of KTO is of, and whether it is the correction.
///
/// TRL reads these rows in the order of the file and estimates its KL term by giving each prompt the completion of the row
/// before it, which has to be one of another question. So labels alternate, and a correction and the answer that it
/// corrects stand half the file apart. The pairs themselves are shuffled, since nobody does it later.
fn kto_order(pairs: usize, seed: u64) -> Vec<(usize, bool)> {
    let mut order: Vec<usize> = (0..pairs).collect();
    let mut random = Random(seed);
    for end in (1..pairs).rev() {
        order.swap(end, random.index(end + 1));
    }
    // One apart would make neighbours of them; of two pairs nothing else is possible.
    let apart = (pairs / 2).max(2);
    (0..pairs)
        .flat_map(|at| [(order[at], true), (order[(at + apart) % pairs], false)])
        .collect()
}

/// Earlier turns and the question.
fn prompt(outcome: &Outcome) -> Vec<Value> {
    let turn = |turn: &Turn| [user(&turn.question), assistant(&turn.answer)];
    let mut messages: Vec<Value> = outcome.item.chat_history.iter().flat_map(turn).collect();
    messages.push(user(&outcome.item.question));
    messages
}

fn user(content: &str) -> Value {
    json!({"role": "user", "content": content})
}

fn assistant(content: &str) -> Value {
    json!({"role": "assistant", "content": content})
}

impl fmt::Display for BootstrapFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for BootstrapFormat {
    type Err = EvalError;

    fn from_str(text: &str) -> Result<Self, EvalError> {
        let found = Self::ALL.into_iter().find(|format| format.name() == text);
        found.ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            EvalError::Invalid(format!("{text:?} is no format of rows; formats are {names}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_kto_rows_no_prompt_follows_its_own_pair() {
        for pairs in 3..40 {
            let order = kto_order(pairs, 7);
            assert_eq!(order.len(), 2 * pairs);
            for label in [true, false] {
                let mut of_label: Vec<usize> = order
                    .iter()
                    .filter(|row| row.1 == label)
                    .map(|row| row.0)
                    .collect();
                of_label.sort_unstable();
                assert_eq!(of_label, (0..pairs).collect::<Vec<_>>());
            }
            for rows in order.windows(2) {
                assert_ne!(rows[0].0, rows[1].0, "{pairs}: {order:?}");
                assert_ne!(rows[0].1, rows[1].1);
            }
        }
        assert_ne!(kto_order(9, 1), kto_order(9, 2));
        assert!(kto_order(0, 1).is_empty());
    }

    #[test]
    fn a_format_has_the_name_it_is_written_with() {
        for format in BootstrapFormat::ALL {
            assert_eq!(format.name().parse::<BootstrapFormat>().unwrap(), format);
            assert_eq!(serde_json::to_value(format).unwrap(), format.name());
        }
        let error = "rlhf".parse::<BootstrapFormat>().unwrap_err().to_string();
        assert!(error.contains("sft-messages"), "{error}");
    }
}
