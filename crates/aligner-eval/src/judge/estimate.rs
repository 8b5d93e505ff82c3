//! What a run will ask and cost, before it does.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::cache::Cache;
use super::config::JudgeConfig;
use super::plan::Plan;
use crate::error::Result;
use crate::row::Outcome;

/// Characters that are taken for a token. English prose has about four with the vocabularies of large models; code and
/// other scripts have fewer, down to one.
pub const CHARS_PER_TOKEN: u64 = 4;

/// What a run will ask and cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// Pairs of an original and a correction.
    pub pairs: u64,
    /// Pairs of the same text, about which nobody is asked.
    pub identical: u64,
    /// Calls that will be made.
    pub calls: u64,
    /// Calls whose replies are in the cache.
    pub cached: u64,
    /// Tokens of the prompts, by [`CHARS_PER_TOKEN`]: an approximation, because the judge's tokenizer is not known.
    pub prompt_tokens: u64,
    /// Tokens of the replies if every one is as long as it may be; `None` where the request sets no limit.
    pub most_completion_tokens: Option<u64>,
    /// The least time, in seconds, that the limit of requests a minute leaves.
    pub least_secs: Option<f64>,
    /// What the prompts cost, where prices are known.
    pub prompt_cost: Option<f64>,
    /// What prompts and replies cost, if every reply is as long as it may be; `None` where that is not known. Retries are not in it.
    pub most_cost: Option<f64>,
}

/// Counts what [`judge`](super::judge()) would ask, and asks nothing. The cache is read, and need not be there.
///
/// # Errors
/// When a setting makes no sense, an outcome is there twice, or the cache cannot be read.
pub fn estimate(outcomes: &[Outcome], config: &JudgeConfig, cache_path: &Path) -> Result<Estimate> {
    let plan = Plan::new(outcomes, config)?;
    let replies = Cache::look(cache_path)?;
    let missing = plan.calls.iter().filter(|call| !replies.contains_key(&call.key));
    let mut estimate = Estimate {
        pairs: outcomes.len() as u64,
        identical: plan.identical,
        ..Estimate::default()
    };
    for call in missing {
        estimate.calls += 1;
        estimate.prompt_tokens += (call.prompt_chars as u64).div_ceil(CHARS_PER_TOKEN);
    }
    let most_of_one = config.most_completion_tokens();
    estimate.most_completion_tokens = most_of_one.map(|most| most.saturating_mul(estimate.calls));
    estimate.cached = plan.calls.len() as u64 - estimate.calls;
    estimate.least_secs = config
        .requests_per_minute
        .map(|count| estimate.calls.saturating_sub(1) as f64 * 60.0 / f64::from(count));
    if let Some(price) = config.price {
        let of = |tokens: u64, per_million: f64| tokens as f64 * per_million / 1e6;
        let prompt = of(estimate.prompt_tokens, price.prompt_per_million);
        estimate.prompt_cost = Some(prompt);
        estimate.most_cost = estimate
            .most_completion_tokens
            .map(|most| prompt + of(most, price.completion_per_million));
    }
    Ok(estimate)
}
impl std::fmt::Display for Estimate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} pairs, {} of them identical and ties without a call; {} calls",
            self.pairs, self.identical, self.calls
        )?;
        if self.cached > 0 {
            write!(f, ", {} more were answered before", self.cached)?;
        }
        write!(f, "; about {} tokens of prompts, ", self.prompt_tokens)?;
        match self.most_completion_tokens {
            Some(most) => write!(f, "at most {most} of replies")?,
            None => write!(f, "those of replies without a limit")?,
        }
        match (self.prompt_cost, self.most_cost) {
            (Some(least), Some(most)) => {
                write!(f, "; {least:.2} to {most:.2} in the currency of the prices")?
            }
            (Some(least), None) => write!(f, "; {least:.2} in the currency of the prices, and the replies")?,
            _ => {}
        }
        if let Some(secs) = self.least_secs {
            write!(
                f,
                "; at least {:.0} minutes by the limit of calls",
                (secs / 60.0).ceil()
            )?;
        }
        Ok(())
    }
}
