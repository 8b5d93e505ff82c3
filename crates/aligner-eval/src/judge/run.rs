//! Asking all that is not known yet, several calls at a time.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use super::cache::{Cache, Kept};
use super::client::Client;
use super::config::JudgeConfig;
use super::pace::Pace;
use super::plan::{Call, Plan};
use super::reply::Reply;
use crate::error::{EvalError, Result};
use crate::row::{Judgement, Outcome};

/// How far a run is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Calls of this run that were answered.
    pub done: u64,
    /// Calls that this run makes.
    pub calls: u64,
    /// Calls that earlier runs made.
    pub cached: u64,
    /// Tries that failed and were repeated.
    pub retries: u64,
    /// Tokens of the prompts of this run, as the server counts them; 0 where it does not.
    pub prompt_tokens: u64,
    /// Tokens of the replies of this run.
    pub completion_tokens: u64,
}

/// Asks the judge about each pair, dimension and order that `cache_path` holds no reply for. The judgements are in the
/// order of the outcomes, the dimensions, and the original first. `progress` is called at the start and after each reply.
///
/// # Errors
/// When a setting makes no sense, an outcome is there twice, the cache cannot be used, or the endpoint gives no good answer
/// after all retries. What was answered until then is in the cache, and the next run goes on from there.
pub fn judge(
    outcomes: &[Outcome],
    config: &JudgeConfig,
    cache_path: &Path,
    mut progress: impl FnMut(Progress),
) -> Result<Vec<Judgement>> {
    let plan = Plan::new(outcomes, config)?;
    let client = Client::new(config)?;
    let mut cache = Cache::open(cache_path)?;
    let missing: Vec<&Call> = plan
        .calls
        .iter()
        .filter(|call| !cache.replies.contains_key(&call.key))
        .collect();
    let run = Run {
        plan: &plan,
        model: &config.model,
        missing: &missing,
        client,
        pace: Pace::new(config.requests_per_minute),
        next: AtomicUsize::new(0),
    };
    let state = Progress {
        calls: missing.len() as u64,
        cached: (plan.calls.len() - missing.len()) as u64,
        ..Progress::default()
    };
    progress(state);
    run.all(config.parallel, &mut cache, state, &mut progress)?;
    plan.judgements(&cache.replies)
}

/// A call's place among those that are missing, and what came of it.
type Answered = (usize, Result<Reply, String>);

struct Run<'a> {
    plan: &'a Plan<'a>,
    model: &'a str,
    missing: &'a [&'a Call],
    client: Client,
    pace: Pace,
    next: AtomicUsize,
}

impl Run<'_> {
    fn all(
        &self,
        parallel: usize,
        cache: &mut Cache,
        state: Progress,
        progress: &mut impl FnMut(Progress),
    ) -> Result<()> {
        std::thread::scope(|scope| {
            let (sender, answered) = channel();
            for _ in 0..parallel.min(self.missing.len()) {
                let sender = sender.clone();
                scope.spawn(move || self.work(&sender));
            }
            drop(sender);
            self.collect(&answered, cache, state, progress)
        })
    }

    /// One thread: asks until nothing is left, or something failed anywhere.
    fn work(&self, sender: &Sender<Answered>) {
        loop {
            let at = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(call) = self.missing.get(at) else {
                return;
            };
            let answer = match self.client.ask(&self.plan.body(call), &self.pace) {
                Ok(Some(reply)) => Ok(reply),
                Ok(None) => return,
                Err(reason) => {
                    self.pace.stop();
                    Err(reason)
                }
            };
            if sender.send((at, answer)).is_err() {
                return;
            }
        }
    }

    /// Keeps replies as they come, those too that are still on their way when a call failed: they were paid for.
    fn collect(
        &self,
        answered: &Receiver<Answered>,
        cache: &mut Cache,
        mut state: Progress,
        progress: &mut impl FnMut(Progress),
    ) -> Result<()> {
        let mut failed: Option<(usize, String)> = None;
        for (at, answer) in answered {
            match answer {
                Ok(reply) => {
                    state.done += 1;
                    state.retries += u64::from(reply.retries);
                    state.prompt_tokens += reply.prompt_tokens;
                    state.completion_tokens += reply.completion_tokens;
                    let kept = Kept {
                        said: reply.said,
                        is_cut: reply.is_cut,
                    };
                    let added = cache.add(&self.missing[at].key, self.model, kept);
                    added.inspect_err(|_| self.pace.stop())?;
                    progress(state);
                }
                Err(reason) if failed.as_ref().is_none_or(|(earlier, _)| at < *earlier) => {
                    failed = Some((at, reason));
                }
                Err(_) => {}
            }
        }
        match failed {
            None => Ok(()),
            Some((at, reason)) => Err(EvalError::Judge {
                url: self.client.shown.clone(),
                row: self.plan.name(self.missing[at]),
                reason,
            }),
        }
    }
}
