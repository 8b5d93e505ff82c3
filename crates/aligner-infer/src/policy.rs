//! How many tokens are drafted: as many as pay, by what was accepted and what passes cost.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::acceptance::{Acceptance, Guess, prior};
use crate::cost::PassTimes;
use crate::draft::Proposer;

/// The longest draft, in tokens.
pub(crate) const LONGEST_DRAFT: usize = 128;

/// What drafts may cost a request beyond what they gain it, as a share of its time without them. Costs are predicted: this is half of
/// the 3 % that a request may lose, and the rest is for predictions that were wrong.
const RISKED_SHARE: f64 = 0.015;

/// Passes after which one without a draft is measured, since drafts are compared with it.
const SINGLE_EVERY: u64 = 64;

/// What was seen in a request fades by this with each of its tokens, so that what did not pay is tried again.
const FADING: f64 = 0.99;

/// Tokens of one kind that are remembered across requests.
const REMEMBERED_TOKENS: f64 = 1000.0;

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
mod tests;
