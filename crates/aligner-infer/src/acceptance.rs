//! How often guesses were right.

use crate::draft::Evidence;

/// Drafted tokens that say as much as what is known from elsewhere, within a request and across requests.
const PRIOR_TOKENS: f64 = 4.0;

/// Lower ends of the ranges of matched tokens that are told apart.
const MATCHED: [usize; 10] = [0, 1, 2, 3, 4, 6, 9, 13, 21, 33];

/// A draft and what spoke for it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Guess {
    pub evidence: Evidence,
    pub matched: usize,
    pub tokens: usize,
}

/// How often drafted tokens were accepted, by what spoke for them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Acceptance {
    tried: [[f64; MATCHED.len()]; Evidence::KINDS],
    accepted: [[f64; MATCHED.len()]; Evidence::KINDS],
}

impl Acceptance {
    /// How probable it is that a token is right, by what was seen here and, as far as that is little, by `prior`.
    pub fn probability(&self, prior: f64, evidence: Evidence, matched: usize) -> f64 {
        let (kind, range) = (evidence.index(), range(matched));
        let accepted = self.accepted[kind][range] + PRIOR_TOKENS * prior;
        accepted / (self.tried[kind][range] + PRIOR_TOKENS)
    }

    /// Notes a draft of which the first `accepted` tokens were right.
    pub fn record(&mut self, guess: Guess, accepted: usize) {
        let kind = guess.evidence.index();
        for index in 0..guess.tokens.min(accepted + 1) {
            let range = range(guess.matched + index);
            self.tried[kind][range] += 1.0;
            self.accepted[kind][range] += f64::from(u8::from(index < accepted));
        }
    }

    /// Makes counts above `most` count less.
    pub fn fade(&mut self, most: f64, by: f64) {
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
pub(crate) fn prior(evidence: Evidence, matched: usize) -> f64 {
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
