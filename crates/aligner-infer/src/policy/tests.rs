//! The policy on machines of known speed.

use super::*;
use crate::draft::Evidence;

/// Seconds of a pass: something for the weights, and something for each row.
#[derive(Debug, Clone, Copy)]
struct Machine {
    weights: f64,
    row: f64,
    /// What a pass of more than four rows takes beyond that: other kernels.
    step: f64,
}

impl Machine {
    fn pass(self, rows: usize) -> f64 {
        self.weights + self.row * rows as f64 + if rows > 4 { self.step } else { 0.0 }
    }
}

/// Seconds of a request with drafts and without, and tokens proposed.
#[derive(Debug, Clone, Copy)]
struct Cost {
    with: f64,
    without: f64,
    proposed: usize,
}

/// Corrects `answer` into a text of `length` tokens: behind so many of them and with this draft comes what `next` says.
fn write(
    machine: Machine,
    answer: &[u32],
    memory: &Arc<DraftMemory>,
    (length, mut next): (usize, impl FnMut(usize, &[u32]) -> u32),
) -> Cost {
    let prompt: Vec<u32> = (5_000..5_050).chain(answer.iter().copied()).collect();
    let proposer = Proposer::new(&prompt, answer, &[]);
    let mut drafter = Drafter::new(Draft::Auto, proposer, Arc::clone(memory));
    let mut cost = Cost {
        with: 0.0,
        without: machine.pass(prompt.len()) + machine.pass(1) * (length - 1) as f64,
        proposed: 0,
    };
    let mut at = 0;
    while at < length {
        let own = if at == 0 { prompt.len() } else { 1 };
        if at == 0 {
            drafter.spend(own);
        }
        let draft = drafter.draft(length - at - 1, own, Company::ALONE).to_vec();
        let seconds = machine.pass(own + draft.len());
        if at == 0 {
            memory.record_prefill(own + draft.len(), seconds);
        } else {
            memory.record_pass(own + draft.len(), seconds);
        }
        cost.with += seconds;
        cost.proposed += draft.len();
        let mut right = 0;
        loop {
            let token = next(at, &draft[right..]);
            drafter.push(token);
            at += 1;
            if draft.get(right) != Some(&token) {
                break;
            }
            right += 1;
        }
        drafter.settle(right);
    }
    cost
}

/// Writes a known text.
fn text(written: &[u32]) -> (usize, impl FnMut(usize, &[u32]) -> u32) {
    (written.len(), |at, _: &[u32]| written[at])
}

fn tokens(count: u32, step: u32) -> Vec<u32> {
    (0..count).map(|index| index * step % 1_009).collect()
}

const FLAT: Machine = Machine {
    weights: 15e-3,
    row: 0.1e-3,
    step: 0.0,
};
const STEEP: Machine = Machine {
    weights: 0.0,
    row: 15e-3,
    step: 0.0,
};
const BETWEEN: Machine = Machine {
    weights: 10e-3,
    row: 1e-3,
    step: 0.0,
};
const STEPPED: Machine = Machine {
    weights: 40e-3,
    row: 4e-3,
    step: 60e-3,
};

#[test]
fn a_copy_is_drafted_in_few_passes_where_rows_are_cheap() {
    let (memory, answer) = (Arc::default(), tokens(400, 7));
    write(FLAT, &answer, &memory, text(&answer));
    let cost = write(FLAT, &answer, &memory, text(&answer));
    assert!(cost.without / cost.with > 20.0, "{cost:?}");
}

#[test]
fn nothing_is_drafted_where_a_row_costs_what_a_pass_costs() {
    let (memory, answer) = (Arc::default(), tokens(400, 7));
    write(STEEP, &answer, &memory, text(&answer));
    let cost = write(STEEP, &answer, &memory, text(&answer));
    assert!(cost.with / cost.without < 1.03, "{cost:?}");
}

/// Runs of the answer that are long enough to be followed, each broken off.
#[test]
fn no_text_takes_three_percent_longer() {
    for machine in [FLAT, STEEP, BETWEEN, STEPPED] {
        for run in [1, 2, 3, 5, 8, 13, 21, 40] {
            let (memory, answer) = (Arc::default(), tokens(600, 7));
            let mut written = Vec::new();
            for start in 0..answer.len() / 40 {
                written.extend(&answer[start * 40..start * 40 + run]);
                written.extend([2_000 + start as u32, 3_000 + start as u32]);
            }
            // The first request is the one that finds out what passes take.
            for request in 0..3 {
                let cost = write(machine, &answer, &memory, text(&written));
                let ratio = cost.with / cost.without;
                assert!(
                    ratio < 1.03,
                    "{machine:?}, run {run}, request {request}: {cost:?}"
                );
            }
        }
    }
}

/// A text that goes on as the answer might but never as was guessed, after requests that were copies.
#[test]
fn no_text_that_knows_the_guesses_takes_three_percent_longer() {
    for machine in [FLAT, STEEP, BETWEEN, STEPPED] {
        for copies in 0..3 {
            for length in [2, 3, 5, 10, 30, 100, 300] {
                let memory = Arc::default();
                let answer: Vec<u32> = tokens(300, 7).iter().map(|token| token * token % 7).collect();
                for _ in 0..copies {
                    write(machine, &answer, &memory, text(&answer));
                }
                let contrary = |at: usize, draft: &[u32]| match draft.first() {
                    Some(guess) => (guess + 1) % 7,
                    None => answer[at],
                };
                let cost = write(machine, &answer, &memory, (length, contrary));
                let ratio = cost.with / cost.without;
                assert!(
                    ratio < 1.03,
                    "{machine:?}, {length} tokens behind {copies} copies: {cost:?}"
                );
            }
        }
    }
}

#[test]
fn sizes_that_were_never_tried_are_tried_in_small_steps_and_only_with_credit() {
    let memory = Arc::<DraftMemory>::default();
    memory.record_prefill(100, 0.1);
    memory.record_pass(1, 0.0100);
    memory.record_pass(2, 0.0101);
    let drafted = |credit| {
        let proposer = Proposer::new(&[1], &[2; 50], &[]);
        let mut drafter = Drafter::new(Draft::Auto, proposer, Arc::clone(&memory));
        drafter.credit = credit;
        let right = Guess {
            evidence: Evidence::Start,
            matched: 0,
            tokens: 40,
        };
        (0..30).for_each(|_| drafter.acceptance.record(right, 40));
        drafter.draft(40, 1, Company::ALONE).len()
    };
    assert_eq!([0.00005, 0.012, 0.5].map(drafted), [0, 1, 3]);
    memory.record_pass(64, 0.0102);
    assert!(drafted(0.5) > 3);
}

#[test]
fn the_first_request_finds_out_what_a_pass_costs_before_it_drafts() {
    let memory = Arc::<DraftMemory>::default();
    let mut drafter = Drafter::new(
        Draft::Auto,
        Proposer::new(&[1], &[2; 50], &[]),
        Arc::clone(&memory),
    );
    assert!(drafter.draft(20, 1, Company::ALONE).is_empty());
    let mut bold = Drafter::new(Draft::Always(9), Proposer::new(&[1], &[2; 50], &[]), memory);
    assert_eq!(bold.draft(20, 1, Company::ALONE), [2; 9]);
    assert_eq!(bold.draft(4, 1, Company::ALONE), [2; 4]);
}

#[test]
fn what_was_right_before_is_expected_again_and_what_was_wrong_is_not() {
    let guess = |tokens| Guess {
        evidence: Evidence::Answer,
        matched: 2,
        tokens,
    };
    let mut seen = Acceptance::default();
    (0..50).for_each(|_| seen.record(guess(1), 0));
    assert!(seen.probability(0.5, Evidence::Answer, 2) < 0.1);
    assert_eq!(seen.probability(0.5, Evidence::Answer, 3), 0.5);
    (0..400).for_each(|_| seen.fade(0.0, FADING));
    assert!(
        seen.probability(0.5, Evidence::Answer, 2) > 0.3,
        "it is tried again"
    );
    seen.record(guess(3), 3);
    assert!(seen.probability(0.5, Evidence::Answer, 4) > 0.5);
}
