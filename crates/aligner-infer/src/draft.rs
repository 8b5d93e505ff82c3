//! Guesses the next tokens of a correction: much of it stands in the answer already.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::ops::Range;

/// Stands between the texts, and matches nothing that a model writes.
const BARRIER: u32 = u32::MAX;

/// The longest match that is counted, in tokens.
const LONGEST_MATCH: usize = 32;

/// Occurrences that are compared on each side of the place where the answer was left, and in the text so far.
const CANDIDATES: usize = 8;

/// How far ahead of the place where it was left the answer is taken up again by a single token.
const SKIPPED: usize = 24;

/// How far ahead a match is still likely to be the continuation and not a repetition.
const NEAR: usize = 48;

/// What speaks for a guess.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evidence {
    /// Nothing was written yet: the correction may begin as the answer does.
    Start,
    /// The answer (or the prediction) goes on behind tokens that were just written, close ahead of where it was left.
    Answer,
    /// The same, at some other place of it.
    Elsewhere,
    /// The prompt or the output so far goes on behind such tokens.
    Context,
    /// The answer goes on behind as many tokens as were written in their place.
    Replaced,
}

impl Evidence {
    /// Number of kinds.
    pub const KINDS: usize = 5;

    /// A number below [`KINDS`](Self::KINDS).
    pub fn index(self) -> usize {
        match self {
            Self::Start => 0,
            Self::Answer => 1,
            Self::Elsewhere => 2,
            Self::Context => 3,
            Self::Replaced => 4,
        }
    }
}

/// A place of the known texts that is followed.
#[derive(Debug, Clone, Copy)]
struct Lead {
    /// Position of the token that is guessed.
    next: usize,
    /// Tokens before it that were written too.
    matched: usize,
    evidence: Evidence,
}

/// Guesses what comes next from the texts that a correction is made of.
///
/// It follows one place in them. Where the correction departs from it, the longest suffix of what was written is looked up:
/// first in the answer, near the place where it was left, then in the prompt and the output. A step costs constant time while a
/// place is followed, and a bounded number of comparisons where one is looked for.
#[derive(Debug, Clone)]
pub struct Proposer {
    /// Prompt, prediction, answer and output, each behind a barrier.
    text: Vec<u32>,
    /// The pairs of tokens before `output`, each with the position behind it, sorted.
    pairs: Vec<(u64, u32)>,
    /// The position behind the last occurrence of each pair in the output.
    last_pair: HashMap<u64, u32>,
    /// The position behind the occurrence before that, for each position of the output.
    earlier: Vec<u32>,
    /// The text that is copied most: the prediction where there is one, otherwise the answer.
    home: Range<usize>,
    /// Prediction and answer.
    sources: Range<usize>,
    /// Where the output begins.
    output: usize,
    lead: Option<Lead>,
    /// Where the sources were left.
    left_at: usize,
    /// Tokens written since.
    away: usize,
}

impl Proposer {
    /// Guesses from a prompt, the answer and perhaps a prediction of the correction, the last two with the token that ends a
    /// text.
    pub fn new(prompt: &[u32], answer: &[u32], prediction: &[u32]) -> Self {
        let mut text = Vec::with_capacity(prompt.len() + 2 * (answer.len() + prediction.len()) + 8);
        text.push(BARRIER);
        text.extend(prompt);
        text.push(BARRIER);
        let start = text.len();
        if !prediction.is_empty() {
            text.extend(prediction);
            text.push(BARRIER);
        }
        let answer_start = text.len();
        text.extend(answer);
        let end = text.len();
        text.push(BARRIER);
        let home = if prediction.is_empty() {
            answer_start..end
        } else {
            start..start + prediction.len()
        };
        let mut pairs: Vec<(u64, u32)> = (2..text.len())
            .filter(|&at| text[at] != BARRIER)
            .map(|at| (pair(text[at - 2], text[at - 1]), at as u32))
            .collect();
        pairs.sort_unstable();
        let lead = (!home.is_empty()).then_some(Lead {
            next: home.start,
            matched: 0,
            evidence: Evidence::Start,
        });
        Self {
            output: text.len(),
            text,
            pairs,
            last_pair: HashMap::new(),
            earlier: Vec::new(),
            left_at: home.start,
            home,
            sources: start..end,
            lead,
            away: 0,
        }
    }

    /// Notes a token that was written.
    pub fn push(&mut self, token: u32) {
        let followed = self.lead.filter(|lead| self.text.get(lead.next) == Some(&token));
        self.append(token);
        // A match that nothing confirmed yet may be chance: the place where the answer was left is kept.
        match followed.filter(|lead| self.sources.contains(&lead.next)) {
            Some(lead) => (self.left_at, self.away) = (lead.next + 1, 0),
            None => self.away += 1,
        }
        self.lead = match followed {
            Some(lead) => self.go_on(lead),
            None => self.look_up(),
        };
    }

    /// Up to `limit` tokens that may come next, into `ids`; what speaks for them, and behind how many matching tokens.
    pub fn propose(&self, limit: usize, ids: &mut Vec<u32>) -> Option<(Evidence, usize)> {
        ids.clear();
        let lead = self.lead?;
        if lead.next < self.output {
            let known = self.text[lead.next..self.output].iter().take(limit);
            ids.extend(known.take_while(|&&id| id != BARRIER));
        } else {
            // What the output repeats may be repeated once more.
            let period = &self.text[lead.next..];
            ids.extend(period.iter().cycle().take(limit));
        }
        (!ids.is_empty()).then_some((lead.evidence, lead.matched))
    }

    fn append(&mut self, token: u32) {
        let at = self.text.len();
        if at > self.output {
            let key = pair(self.text[at - 2], self.text[at - 1]);
            let before = self.last_pair.insert(key, at as u32);
            self.earlier.push(before.unwrap_or(0));
        } else {
            self.earlier.push(0);
        }
        self.text.push(token);
    }

    /// A lead whose token was written.
    fn go_on(&self, lead: Lead) -> Option<Lead> {
        let next = lead.next + 1;
        // The end of a text is no place to go on from, and a text may not be followed into the next one.
        if self.text.get(next).is_none_or(|&id| id == BARRIER) {
            return self.look_up();
        }
        let evidence = match lead.evidence {
            Evidence::Start | Evidence::Replaced => Evidence::Answer,
            other => other,
        };
        Some(Lead {
            next,
            matched: lead.matched + 1,
            evidence,
        })
    }

    /// The best place behind what was written last.
    fn look_up(&self) -> Option<Lead> {
        let end = self.text.len();
        let key = pair(self.text[end - 2], self.text[end - 1]);
        let leads = self
            .known(key)
            .chain(self.repeated(key))
            .map(|next| self.lead_at(next));
        let best = leads.max_by_key(|lead| self.merit(lead));
        best.or_else(|| self.skipped()).or_else(|| self.replaced())
    }

    /// Positions behind a pair in the known texts: some near the place where the sources were left, and the last.
    fn known(&self, key: u64) -> impl Iterator<Item = usize> + '_ {
        let at = self
            .pairs
            .partition_point(|&pair| pair < (key, self.left_at as u32));
        let same = move |pair: &&(u64, u32)| pair.0 == key;
        let ahead = self.pairs[at..].iter().take(CANDIDATES).take_while(same);
        let behind = self.pairs[..at].iter().rev().take(CANDIDATES).take_while(same);
        ahead.chain(behind).map(|pair| pair.1 as usize)
    }

    /// The last positions behind a pair in the output.
    fn repeated(&self, key: u64) -> impl Iterator<Item = usize> + '_ {
        let next = |at: &usize| Some(self.earlier[at - self.output] as usize).filter(|&before| before > 0);
        let first = self.last_pair.get(&key).map(|&at| at as usize);
        std::iter::successors(first, next).take(CANDIDATES)
    }

    fn lead_at(&self, next: usize) -> Lead {
        let before = self.text[..next].iter().rev();
        let matched = before.zip(self.text.iter().rev()).take(LONGEST_MATCH);
        let evidence = if !self.sources.contains(&next) {
            Evidence::Context
        } else if (self.left_at..self.left_at + NEAR).contains(&next) {
            Evidence::Answer
        } else {
            Evidence::Elsewhere
        };
        Lead {
            next,
            matched: matched.take_while(|(a, b)| a == b).count(),
            evidence,
        }
    }

    /// Which of two leads is followed: the longer match, where being close ahead counts as much as another token.
    fn merit(&self, lead: &Lead) -> (usize, bool, Reverse<usize>) {
        let distance = lead.next.abs_diff(self.left_at);
        let is_near = lead.evidence == Evidence::Answer;
        (
            lead.matched + usize::from(is_near),
            self.home.contains(&lead.next),
            Reverse(distance),
        )
    }

    /// The answer behind the last token, when that token follows soon: some of it was left out.
    fn skipped(&self) -> Option<Lead> {
        let last = self.text.last()?;
        let end = (self.left_at + SKIPPED).min(self.sources.end);
        let ahead = self.text.get(self.left_at..end)?;
        let next = self.left_at + ahead.iter().position(|id| id == last)? + 1;
        let is_inside = self.sources.contains(&next) && self.text[next] != BARRIER;
        is_inside.then_some(Lead {
            next,
            matched: 1,
            evidence: Evidence::Answer,
        })
    }

    /// The answer behind as many tokens as were written in their place.
    fn replaced(&self) -> Option<Lead> {
        let next = self.left_at + self.away;
        let is_inside = self.away <= 2 && self.sources.contains(&next) && self.text[next] != BARRIER;
        is_inside.then_some(Lead {
            next,
            matched: 0,
            evidence: Evidence::Replaced,
        })
    }
}

fn pair(a: u32, b: u32) -> u64 {
    u64::from(a) << 32 | u64::from(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tokens of words, one a word.
    fn ids(text: &str) -> Vec<u32> {
        text.split_whitespace()
            .map(|word| {
                word.bytes()
                    .fold(7u32, |hash, byte| hash.wrapping_mul(31) ^ u32::from(byte))
                    & 0xffff
            })
            .collect()
    }

    /// What is guessed behind each prefix of `written`, as right (`+`), wrong (`-`) or not at all (`.`).
    fn guesses(answer: &str, written: &str) -> String {
        let mut proposer = Proposer::new(&ids("correct this"), &ids(answer), &[]);
        let mut proposed = Vec::new();
        let marks = ids(written).into_iter().map(|token| {
            let mark = match proposer.propose(1, &mut proposed) {
                None => '.',
                Some(_) if proposed == [token] => '+',
                Some(_) => '-',
            };
            proposer.push(token);
            mark
        });
        marks.collect()
    }

    const ANSWER: &str = "one two three four five six seven eight nine ten";

    #[test]
    fn a_copy_is_guessed_from_the_first_token_to_the_last() {
        assert_eq!(guesses(ANSWER, ANSWER), "++++++++++");
    }

    #[test]
    fn a_replaced_token_costs_one_wrong_guess() {
        assert_eq!(guesses(ANSWER, "one two three 4 five six seven"), "+++-+++");
        assert_eq!(guesses(ANSWER, "1 two three four five"), "-++++");
    }

    #[test]
    fn a_token_that_is_left_out_costs_one_wrong_guess() {
        assert_eq!(guesses(ANSWER, "one two three six seven eight"), "+++-++");
    }

    #[test]
    fn inserted_tokens_cost_wrong_guesses_until_the_answer_is_met_again() {
        assert_eq!(guesses(ANSWER, "one two new three four five"), "++--++");
        assert_eq!(
            guesses(ANSWER, "one two some new words three four five"),
            "++---.++"
        );
    }

    #[test]
    fn a_long_replacement_is_followed_again_behind_two_tokens() {
        let written = "one two a b c d e f g h seven eight nine ten";
        assert!(
            guesses(ANSWER, written).ends_with("++"),
            "{}",
            guesses(ANSWER, written)
        );
    }

    #[test]
    fn what_the_output_repeats_is_guessed_from_it() {
        let marks = guesses("nothing alike", "a b c d a b c d a b c d");
        assert!(marks.ends_with("++++++"), "{marks}");
    }

    #[test]
    fn a_draft_ends_with_the_text_and_repeats_a_period() {
        let mut proposer = Proposer::new(&[1], &[5, 6, 7, 0], &[]);
        let mut proposed = Vec::new();
        assert_eq!(proposer.propose(10, &mut proposed), Some((Evidence::Start, 0)));
        assert_eq!(proposed, [5, 6, 7, 0]);
        for token in [8, 9, 8, 9, 8, 9] {
            proposer.push(token);
        }
        assert!(matches!(
            proposer.propose(5, &mut proposed),
            Some((Evidence::Context, 2..))
        ));
        assert_eq!(proposed, [8, 9, 8, 9, 8]);
    }

    #[test]
    fn one_token_over_and_over_takes_no_time_that_grows() {
        const TOKENS: usize = 200_000;
        let answer = vec![3; TOKENS];
        let mut proposer = Proposer::new(&answer, &answer, &answer);
        let mut proposed = Vec::new();
        // Each token is looked up: what is written never follows the guess.
        for index in 0..TOKENS {
            proposer.push(if index % 3 == 2 { 4 } else { 3 });
            proposer.propose(1, &mut proposed);
        }
        assert!(!proposed.is_empty());
    }

    #[test]
    fn without_texts_there_is_no_guess_and_no_harm() {
        let mut proposer = Proposer::new(&[], &[], &[]);
        let mut proposed = vec![1];
        assert_eq!(proposer.propose(4, &mut proposed), None);
        assert!(proposed.is_empty());
        proposer.push(1);
        assert_eq!(proposer.propose(4, &mut proposed), None);
    }
}
