//! The answers that were changed most and least.

mod excerpt;

use aligner_data::{Edit, EditOp, diff, edit_ratio, is_copy};
use aligner_report::kit::number::{grouped, percent};
use rayon::prelude::*;

use super::content::Names;
use super::input::Group;
use crate::row::Outcome;

pub(super) use excerpt::Piece;

/// Answers of each kind that are shown.
const SHOWN: usize = 10;
/// Characters of a question that are shown.
const QUESTION_CHARS: usize = 600;

/// An outcome with what was changed.
#[derive(Debug)]
pub(super) struct Changed<'a> {
    pub outcome: &'a Outcome,
    pub ratio: f64,
}

/// The ends of the order by edit ratio.
#[derive(Debug, Default)]
pub(super) struct Changes<'a> {
    /// The most changed, the most first.
    pub most: Vec<Changed<'a>>,
    /// The least changed, the least first; none of `most`.
    pub least: Vec<Changed<'a>>,
    pub copies: u64,
    /// Corrections that changed white space alone.
    pub spaces: u64,
}

impl<'a> Changes<'a> {
    pub fn of(outcomes: &'a [Outcome]) -> Self {
        let changed = outcomes.iter();
        let changed: Vec<_> = changed
            .filter(|outcome| !is_copy(&outcome.item.answer, &outcome.output))
            .collect();
        let copies = (outcomes.len() - changed.len()) as u64;
        let mut changed: Vec<Changed<'_>> = changed
            .into_par_iter()
            .map(|outcome| Changed {
                outcome,
                ratio: edit_ratio(&diff(&outcome.item.answer, &outcome.output)),
            })
            .collect();
        let before = changed.len();
        changed.retain(|row| row.ratio > 0.0);
        let spaces = (before - changed.len()) as u64;
        // Where there are too few for both ends, each gets half.
        let most = changed.len().div_ceil(2).min(SHOWN);
        let least = (changed.len() - most).min(SHOWN);
        changed.sort_by(|a, b| b.ratio.total_cmp(&a.ratio).then_with(|| key(a).cmp(&key(b))));
        let rest = changed.split_off(most);
        let most = std::mem::replace(&mut changed, rest);
        changed.sort_by(|a, b| a.ratio.total_cmp(&b.ratio).then_with(|| key(a).cmp(&key(b))));
        changed.truncate(least);
        Self {
            most,
            least: changed,
            copies,
            spaces,
        }
    }
}

/// What decides between equal ratios: the id, and whatever else makes a row one of its own.
fn key<'a>(row: &Changed<'a>) -> [&'a str; 6] {
    let Outcome {
        item,
        output,
        aligner,
        ..
    } = row.outcome;
    [
        &item.id,
        &item.dataset,
        &item.upstream,
        aligner,
        &item.answer,
        output,
    ]
}

/// A changed answer as it is shown.
#[derive(Debug)]
pub(super) struct Change<'a> {
    pub question: &'a str,
    /// Whether more was asked than is shown.
    pub question_is_cut: bool,
    pub pieces: Vec<Piece>,
    /// What else is known of it.
    pub chips: Vec<String>,
}

impl<'a> Change<'a> {
    pub fn of(row: &Changed<'a>, names: Names) -> Self {
        let item = &row.outcome.item;
        let group = Group {
            upstream: item.upstream.clone(),
            dataset: item.dataset.clone(),
            aligner: row.outcome.aligner.clone(),
        };
        let mut chips = vec![format!("{} changed", percent(row.ratio))];
        if !item.id.is_empty() {
            chips.push(format!("id {}", item.id));
        }
        chips.push(names.label(&group));
        chips.extend(item.category.clone());
        match item.chat_history.len() {
            0 => {}
            1 => chips.push("after 1 earlier turn".into()),
            turns => chips.push(format!("after {} earlier turns", grouped(turns as u64))),
        }
        if row.outcome.is_cut {
            chips.push("cut at the limit of its length".into());
        }
        chips.retain(|chip| !chip.is_empty());
        let question = excerpt::beginning(&item.question, QUESTION_CHARS);
        Self {
            question,
            question_is_cut: question.len() < item.question.len(),
            pieces: excerpt::pieces(&diff(&item.answer, &row.outcome.output)),
            chips,
        }
    }

    /// One side: without insertions the answer, without deletions the correction.
    pub fn side(&self, without: EditOp) -> impl Iterator<Item = &Piece> {
        self.pieces.iter().filter(move |piece| match piece {
            Piece::Text(Edit { op, .. }) | Piece::Gap { op, .. } => *op != without,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::Item;

    fn outcome(id: &str, answer: &str, output: &str) -> Outcome {
        Outcome {
            item: Item {
                id: id.into(),
                answer: answer.into(),
                ..Item::default()
            },
            output: output.into(),
            ..Outcome::default()
        }
    }

    fn ids(rows: &[Changed<'_>]) -> Vec<String> {
        rows.iter().map(|row| row.outcome.item.id.clone()).collect()
    }

    #[test]
    fn copies_are_aside_and_ids_decide_between_equals() {
        let outcomes = [
            outcome("c", "a b", "x y"),
            outcome("copy", "a b", " a b\n"),
            outcome("space", "a b", "a  b"),
            outcome("b", "a b c d", "a b c x"),
            outcome("a", "a b", "x y"),
            outcome("d", "a b c d", "a b x y"),
        ];
        let found = Changes::of(&outcomes);
        assert_eq!((found.copies, found.spaces), (1, 1));
        assert_eq!(ids(&found.most), ["a", "c"]);
        assert_eq!(ids(&found.least), ["b", "d"]);
    }

    #[test]
    fn of_many_ten_of_each_end_are_shown_and_one_alone_once() {
        let outcomes: Vec<Outcome> = (1..=100)
            .map(|kept| {
                let answer = "w ".repeat(kept);
                outcome(&format!("{kept:03}"), &answer, &format!("{answer} new"))
            })
            .collect();
        let found = Changes::of(&outcomes);
        assert_eq!(ids(&found.most)[0], "001");
        assert_eq!(ids(&found.least)[..2], ["100", "099"]);
        assert_eq!((found.most.len(), found.least.len()), (10, 10));
        let found = Changes::of(&outcomes[..1]);
        assert_eq!((found.most.len(), found.least.len()), (1, 0));
    }
}
