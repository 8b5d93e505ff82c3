//! Which drafted tokens stay.

use std::ops::ControlFlow;

use crate::error::Result;
use crate::sampler::Sampler;

/// What a pass over a token and the draft behind it gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verified<R> {
    /// Drafted tokens that were right.
    pub accepted: usize,
    /// Why `on_token` ended it.
    pub ended: Option<R>,
}

/// Chooses the tokens that a pass gave scores for, as if each had been computed by itself: `scores[i]` stand behind
/// `draft[..i]`, and the first that counts no more is the one behind a drafted token that was not chosen.
///
/// Each token is drawn from the model's own distribution, filters and penalty included, and the draft is right where it is the
/// token that was drawn. That is rejection sampling with a draft that is certain (Leviathan et al. 2023, algorithm 1, for a
/// proposal q that is 1 at one token): the drafted token stays with probability p, and where it does not, the token comes from p
/// without it. Drawn in this order, with one random number a token, the result is not only distributed as without a draft: for
/// a seed it is the same text.
///
/// `seen` are the tokens of prompt and output; chosen ones are added. `on_token` is called with each and may end it.
///
/// # Shapes
/// - `scores`: `[draft.len() + 1, vocab_size]`, row-major; used as scratch space
///
/// # Errors
/// When scores that count are not numbers, or `on_token` fails.
pub fn verify<R>(
    sampler: &mut Sampler,
    scores: &mut [f32],
    draft: &[u32],
    seen: &mut Vec<u32>,
    mut on_token: impl FnMut(u32) -> Result<ControlFlow<R>>,
) -> Result<Verified<R>> {
    let vocab_size = scores.len() / (draft.len() + 1);
    let mut accepted = 0;
    for row in scores.chunks_mut(vocab_size.max(1)) {
        let token = sampler.sample(row, seen)?;
        seen.push(token);
        let is_right = draft.get(accepted) == Some(&token);
        accepted += usize::from(is_right);
        if let ControlFlow::Break(reason) = on_token(token)? {
            return Ok(Verified {
                accepted,
                ended: Some(reason),
            });
        }
        if !is_right {
            break;
        }
    }
    Ok(Verified {
        accepted,
        ended: None,
    })
}
