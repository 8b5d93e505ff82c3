//! How many tokens are drafted: as many as pay, by what was accepted and what passes cost.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::cost::PassTimes;
use crate::draft::{Evidence, Proposer};

/// The longest draft, in tokens.
pub(crate) const LONGEST_DRAFT: usize = 128;

/// What drafts may cost a request beyond what they gain it, as a share of its time without them.
const RISKED_SHARE: f64 = 0.02;

/// Passes after which one without a draft is measured, since drafts are compared with it.
const SINGLE_EVERY: u64 = 64;

/// Drafted tokens that say as much as what is known from elsewhere, within a request and across requests.
const PRIOR_TOKENS: f64 = 4.0;

/// What was seen in a request fades by this with each of its tokens, so that what did not pay is tried again.
const FADING: f64 = 0.99;

/// Tokens of one kind that are remembered across requests.
const REMEMBERED_TOKENS: f64 = 1000.0;

/// Lower ends of the ranges of matched tokens that are told apart.
const MATCHED: [usize; 10] = [0, 1, 2, 3, 4, 6, 9, 13, 21, 33];

/// Whether answers are corrected with drafts. What is written does not depend on it, only how fast.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Draft {
    /// As many tokens as pay, by measured times; none where drafts do not pay.
    #[default]
    Auto,
    /// Up to this many tokens wherever there is a guess, whatever it costs: for tests and measurements.
    Always(usize),
    /// One token at a time.
    Off,
}

/// How often drafted tokens were accepted, by what spoke for them.
#[derive(Debug, Clone, Default)]
struct Acceptance {
    tried: [[f64; MATCHED.len()]; Evidence::KINDS],
    accepted: [[f64; MATCHED.len()]; Evidence::KINDS],
}

impl Acceptance {
    fn probability(&self, prior: f64, evidence: Evidence, matched: usize) -> f64 {
        let (kind, range) = (evidence.index(), range(matched));
        let accepted = self.accepted[kind][range] + PRIOR_TOKENS * prior;
        accepted / (self.tried[kind][range] + PRIOR_TOKENS)
    }

    /// Notes a draft of which the first `accepted` tokens were right.
    fn record(&mut self, guess: Guess, accepted: usize) {
        let kind = guess.evidence.index();
        for index in 0..guess.tokens.min(accepted + 1) {
            let range = range(guess.matched + index);
            self.tried[kind][range] += 1.0;
            self.accepted[kind][range] += f64::from(u8::from(index < accepted));
        }
    }

    fn fade(&mut self, most: f64, by: f64) {
        let counts = self.tried.iter_mut().flatten();
        for (tried, accepted) in counts.zip(self.accepted.iter_mut().flatten()) {
            if *tried > most {
                *tried *= by;
                *accepted *= by;
            }
        }
    }
}

/// Before anything was seen: shares of right guesses in real corrections of real answers, rounded.
fn prior(evidence: Evidence, matched: usize) -> f64 {
    const NEAR: [f64; MATCHED.len()] = [0.5, 0.3, 0.5, 0.55, 0.7, 0.75, 0.85, 0.9, 0.97, 0.99];
    const FAR: [f64; MATCHED.len()] = [0.1, 0.2, 0.35, 0.4, 0.5, 0.6, 0.75, 0.8, 0.9, 0.95];
    match evidence {
        Evidence::Start | Evidence::Answer => NEAR[range(matched)],
        Evidence::Elsewhere | Evidence::Context | Evidence::Replaced => FAR[range(matched)],
    }
}

fn range(matched: usize) -> usize {
    MATCHED.iter().rposition(|&start| start <= matched).unwrap_or(0)
}

/// What a model was seen to do, kept from request to request: times of its passes, and which guesses were right.
#[derive(Debug, Default)]
pub struct DraftMemory(Mutex<Learned>);

#[derive(Debug, Default)]
struct Learned {
    times: PassTimes,
    acceptance: Acceptance,
}

impl DraftMemory {
    /// Notes a pass over part of a prompt.
    pub(crate) fn record_prefill(&self, rows: usize, seconds: f64) {
        self.learned().times.record_prefill(rows, seconds);
    }

    /// Notes a pass that gave scores for all of its rows.
    pub(crate) fn record_pass(&self, rows: usize, seconds: f64) {
        self.learned().times.record(rows, seconds);
    }

    /// It holds numbers that are right or wrong by themselves: a panic elsewhere does not spoil them.
    fn learned(&self) -> MutexGuard<'_, Learned> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A draft and what spoke for it.
#[derive(Debug, Clone, Copy)]
struct Guess {
    evidence: Evidence,
    matched: usize,
    tokens: usize,
}

/// What goes through the model in the same pass.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Company {
    /// Rows of other requests.
    pub rows: usize,
    /// Other requests that get a token.
    pub requests: usize,
}

impl Company {
    /// No other request.
    pub const ALONE: Self = Self { rows: 0, requests: 0 };
}

/// Seconds that a draft is weighed by.
struct Weights {
    /// Requests that get a token without it.
    requests: usize,
    /// A pass with a row for each of them.
    step: f64,
    /// What `n + 1` drafted tokens add to the pass, at index `n`.
    added: Vec<f64>,
    /// Tokens of which that was measured; of more it is a guess.
    measured: usize,
    /// Tokens that are tried at most.
    tried: usize,
}

impl Weights {
    /// For up to `tokens` behind `own` rows of the request; `None` as long as too little is known.
    fn new(times: &PassTimes, company: Company, own: usize, tokens: usize) -> Option<Self> {
        let (rows, requests) = (company.rows + own, company.requests + 1);
        let table = times.table(rows + tokens);
        let without = *table.get(rows - 1)?;
        // Behind a part of a prompt, rows are some more of many.
        let largest = if own > 1 { usize::MAX } else { times.measured() };
        Some(Self {
            requests,
            step: *table.get(requests - 1)?,
            added: table[rows..].iter().map(|with| with - without).collect(),
            measured: largest.saturating_sub(rows),
            tried: largest.saturating_mul(2).saturating_sub(rows),
        })
    }

    /// What so many drafted tokens may add at worst. Kernels change with the number of rows: a size that was never tried may
    /// take much longer than those below it.
    fn risk(&self, tokens: usize) -> f64 {
        let added = self.added.get(tokens - 1).copied().unwrap_or(f64::INFINITY);
        match tokens {
            _ if tokens <= self.measured => added,
            _ if tokens <= self.tried => 2.0 * added + self.step,
            _ => f64::INFINITY,
        }
    }
}

/// Drafts for one request.
#[derive(Debug)]
pub(crate) struct Drafter {
    mode: Draft,
    proposer: Proposer,
    memory: Arc<DraftMemory>,
    acceptance: Acceptance,
    /// The draft that is being verified.
    ids: Vec<u32>,
    guess: Option<Guess>,
    company: Company,
    /// Rows of the request in the pass that is under way, without the draft.
    own: usize,
    /// Seconds that drafts may cost.
    credit: f64,
}

impl Drafter {
    pub fn new(mode: Draft, proposer: Proposer, memory: Arc<DraftMemory>) -> Self {
        Self {
            mode,
            proposer,
            memory,
            acceptance: Acceptance::default(),
            ids: Vec::new(),
            guess: None,
            company: Company::ALONE,
            own: 1,
            credit: 0.0,
        }
    }

    /// Notes tokens of the prompt, whose time a share of may be risked.
    pub fn spend(&mut self, prompt_tokens: usize) {
        self.credit += RISKED_SHARE * self.memory.learned().times.prefill(prompt_tokens);
    }

    /// Notes a token that was written.
    pub fn push(&mut self, token: u32) {
        self.proposer.push(token);
        self.acceptance.fade(0.0, FADING);
    }

    /// The tokens to verify in the next pass, at most `most`, behind `own` rows of the request.
    pub fn draft(&mut self, most: usize, own: usize, company: Company) -> &[u32] {
        (self.company, self.own) = (company, own);
        let most = match self.mode {
            Draft::Off => 0,
            Draft::Always(tokens) => most.min(tokens),
            Draft::Auto => most.min(LONGEST_DRAFT),
        };
        let proposed = self.proposer.propose(most, &mut self.ids);
        self.guess = proposed.map(|(evidence, matched)| {
            let guess = Guess {
                evidence,
                matched,
                tokens: self.ids.len(),
            };
            match self.mode {
                Draft::Auto => Guess {
                    tokens: self.paying(guess),
                    ..guess
                },
                _ => guess,
            }
        });
        self.ids.truncate(self.guess.map_or(0, |guess| guess.tokens));
        &self.ids
    }

    /// The length of a draft that gives most tokens a second, as long as the request could bear it if none were right.
    fn paying(&self, guess: Guess) -> usize {
        let learned = self.memory.learned();
        let is_single_known = matches!(learned.times.since_single(), Some(passes) if passes < SINGLE_EVERY);
        if self.company.requests == 0 && !is_single_known {
            return 0;
        }
        let Some(weights) = Weights::new(&learned.times, self.company, self.own, guess.tokens) else {
            return 0;
        };
        let (mut reached, mut expected) = (1.0, weights.requests as f64);
        let (mut best, mut best_rate) = (0, expected / weights.step);
        for (index, added) in weights.added.iter().enumerate() {
            let (evidence, matched) = (guess.evidence, guess.matched + index);
            let known = learned
                .acceptance
                .probability(prior(evidence, matched), evidence, matched);
            reached *= self.acceptance.probability(known, evidence, matched);
            expected += reached;
            if weights.risk(index + 1) > self.credit {
                break;
            }
            let rate = expected / (weights.step + added);
            if rate > best_rate {
                (best, best_rate) = (index + 1, rate);
            }
        }
        best
    }

    /// Notes how many tokens of the draft were right, once the pass was recorded.
    pub fn settle(&mut self, accepted: usize) {
        let drafted = self.ids.len();
        let mut learned = self.memory.learned();
        if let Some(guess) = self.guess.take().filter(|guess| guess.tokens > 0) {
            self.acceptance.record(guess, accepted);
            learned.acceptance.record(guess, accepted);
            learned.acceptance.fade(REMEMBERED_TOKENS, 0.5);
        }
        if let Some(weights) = Weights::new(&learned.times, self.company, self.own, drafted) {
            let token = weights.step / weights.requests as f64;
            let cost = weights.added.last().copied().unwrap_or(0.0);
            self.credit += token * (accepted as f64 + RISKED_SHARE * (accepted + 1) as f64) - cost;
        }
        self.ids.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
