//! Many corrections at once: which of them go through the model in a pass, and in which memory.
//!
//! A round takes what was asked, gives a cache to those that fit, sends a pass for each adapter through the model and hands out
//! what came of it. Requests are admitted in the order in which they came, and the first that waits is never overtaken; adapters
//! take turns at reading prompts. So none starves. Nothing here knows of threads or channels: [`Reply`] is where results go.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use crate::causal_lm::{CausalLm, Run};
use crate::corrector::Correction;
use crate::engine::{FinishReason, Generated, PREFILL_CHUNK, Timings};
use crate::error::{InferError, Result};
use crate::policy::Company;
use crate::sequence::Sequence;
use crate::voice::{Transcript, Voice};

/// The shortest beginning that prompts share and that is worth a cache.
const SHORTEST_PREFIX: usize = 8;

/// How much goes through the model at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchOptions {
    /// Requests that are computed together at most; others wait.
    pub max_running: usize,
    /// Bytes that keys and values of all of them may take; others wait.
    pub kv_memory_bytes: usize,
    /// Tokens of prompts in a pass beside which other requests wait for their next token.
    pub prefill_tokens: usize,
}

impl Default for BatchOptions {
    fn default() -> Self {
        Self {
            max_running: 32,
            kv_memory_bytes: 2_000_000_000,
            prefill_tokens: 128,
        }
    }
}

/// Where a request's text and its end go; each returns whether somebody still listens.
pub(crate) trait Reply: Send {
    /// More text.
    fn text(&mut self, piece: &str) -> bool;
    /// The end.
    fn done(&mut self, result: Result<Correction>);
}

/// A request that was accepted.
pub(crate) struct Job<L: CausalLm> {
    pub voice: Arc<Voice<L>>,
    pub sequence: Sequence,
    pub transcript: Transcript,
    pub reply: Box<dyn Reply>,
}

impl<L: CausalLm> Job<L> {
    /// Bytes of keys and values when it is as long as it may become.
    pub fn bytes(&self) -> usize {
        self.voice.model.cache_bytes(self.sequence.capacity())
    }
}

/// A request that has a cache.
struct Running<L: CausalLm> {
    job: Job<L>,
    cache: L::Cache,
    bytes: usize,
    timings: Timings,
    /// Since when it is in its prompt, or behind it.
    since: Instant,
    is_in_prompt: bool,
    /// How it ended, once it did.
    end: Option<Result<FinishReason>>,
}

/// What the prompts of a template begin with, computed once.
struct Prefix<L: CausalLm> {
    voice: Arc<Voice<L>>,
    ids: Vec<u32>,
    /// `None` where it is not worth one.
    cache: Option<L::Cache>,
    bytes: usize,
}

/// All requests that wait or are computed.
pub(crate) struct Scheduler<L: CausalLm> {
    options: BatchOptions,
    waiting: VecDeque<Job<L>>,
    running: Vec<Running<L>>,
    prefixes: Vec<Prefix<L>>,
}

impl<L: CausalLm> Scheduler<L> {
    pub fn new(options: BatchOptions) -> Self {
        Self {
            options,
            waiting: VecDeque::new(),
            running: Vec::new(),
            prefixes: Vec::new(),
        }
    }

    /// Takes a request behind those that wait.
    pub fn push(&mut self, job: Job<L>) {
        self.waiting.push_back(job);
    }

    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// Bytes reserved for keys and values.
    pub fn kv_bytes(&self) -> usize {
        let prefixes: usize = self.prefixes.iter().map(|prefix| prefix.bytes).sum();
        prefixes + self.running.iter().map(|running| running.bytes).sum::<usize>()
    }

    /// Admits what fits, sends one pass for each adapter through the model, and retires what ended.
    pub fn round(&mut self) {
        self.drop_cancelled();
        self.admit();
        let mut chunk = self.prefill_chunk();
        let mut first = 0;
        while first < self.running.len() {
            let end = self.group_end(first);
            let voice = Arc::clone(&self.running[first].job.voice);
            pass(&voice, &mut self.running[first..end], &mut chunk);
            first = end;
        }
        // The first come last in the next round: an adapter that always has prompts to read would leave others no tokens.
        if !self.running.is_empty() {
            let end = self.group_end(0);
            self.running.rotate_left(end);
        }
        self.retire();
    }

    /// Where the requests of one adapter end that begin at `first`: they lie side by side, in the order of admission.
    fn group_end(&self, first: usize) -> usize {
        let voice = &self.running[first].job.voice;
        let of_other = |running: &Running<L>| !Arc::ptr_eq(&running.job.voice, voice);
        let length = self.running[first..].iter().position(of_other);
        length.map_or(self.running.len(), |length| first + length)
    }

    /// Tokens of prompts in this round: many when nobody waits for a next token meanwhile.
    fn prefill_chunk(&self) -> usize {
        let is_someone_behind = self.running.iter().any(|running| !running.is_in_prompt);
        if is_someone_behind {
            self.options.prefill_tokens.max(1)
        } else {
            PREFILL_CHUNK
        }
    }

    fn drop_cancelled(&mut self) {
        for running in &mut self.running {
            if running.job.sequence.is_cancelled() {
                running.end = Some(Ok(FinishReason::Cancelled));
            }
        }
        self.retire();
        let (cancelled, waiting) = self
            .waiting
            .drain(..)
            .partition::<Vec<_>, _>(|job| job.sequence.is_cancelled());
        self.waiting = waiting.into();
        for job in cancelled {
            finish(job, FinishReason::Cancelled, Timings::default());
        }
    }

    /// Gives caches to requests in the order in which they came, as long as there is room.
    fn admit(&mut self) {
        while let Some(job) = self.waiting.front()
            && self.running.len() < self.options.max_running.max(1)
        {
            let bytes = job.bytes();
            if bytes > self.options.kv_memory_bytes.saturating_sub(self.kv_bytes()) && !self.make_room(bytes)
            {
                break;
            }
            let Some(mut job) = self.waiting.pop_front() else {
                break;
            };
            let since = Instant::now();
            match self.cache(&mut job) {
                Ok(cache) => {
                    let voice = Arc::clone(&job.voice);
                    let running = Running {
                        job,
                        cache,
                        bytes,
                        timings: Timings::default(),
                        since,
                        is_in_prompt: true,
                        end: None,
                    };
                    let of_same = |other: &Running<L>| Arc::ptr_eq(&other.job.voice, &voice);
                    let last = self.running.iter().rposition(of_same);
                    let at = last.map_or(self.running.len(), |last| last + 1);
                    self.running.insert(at, running);
                }
                Err(error) => job.reply.done(Err(error)),
            }
        }
    }

    /// Forgets the shared beginnings, when a request fits without them and nothing else runs.
    fn make_room(&mut self, bytes: usize) -> bool {
        let is_enough = self.running.is_empty() && bytes <= self.options.kv_memory_bytes;
        if is_enough {
            self.prefixes.clear();
        }
        is_enough
    }

    /// A cache for a request, with what its prompt shares with others where that is known.
    fn cache(&mut self, job: &mut Job<L>) -> Result<L::Cache> {
        guarded(|| {
            let model = &job.voice.model;
            let capacity = job.sequence.capacity();
            if let Some(Prefix { ids, cache, .. }) = self.prefix(&job.voice, job.bytes())?
                && job.sequence.prompt().starts_with(ids)
                && let Some(cache) = cache
                && let Some(cache) = model.fork(cache, ids.len(), capacity)?
            {
                job.sequence.skip(ids.len());
                return Ok(cache);
            }
            model.new_cache(capacity)
        })
    }

    /// What prompts of this template begin with; `None` where there is no room for it beside `bytes`.
    fn prefix(&mut self, voice: &Arc<Voice<L>>, bytes: usize) -> Result<Option<&Prefix<L>>> {
        let known = |prefix: &Prefix<L>| Arc::ptr_eq(&prefix.voice, voice);
        if let Some(index) = self.prefixes.iter().position(known) {
            return Ok(Some(&self.prefixes[index]));
        }
        let ids = voice.shared_prompt()?;
        let own = voice.model.cache_bytes(ids.len());
        let left = self.options.kv_memory_bytes.saturating_sub(self.kv_bytes());
        if own.saturating_add(bytes) > left {
            return Ok(None);
        }
        let cache = if ids.len() < SHORTEST_PREFIX {
            None
        } else {
            prefix_cache(&voice.model, &ids)?
        };
        self.prefixes.push(Prefix {
            voice: Arc::clone(voice),
            bytes: if cache.is_some() { own } else { 0 },
            ids,
            cache,
        });
        Ok(self.prefixes.last())
    }

    fn retire(&mut self) {
        let (ended, running) = std::mem::take(&mut self.running)
            .into_iter()
            .partition::<Vec<_>, _>(|running| running.end.is_some());
        self.running = running;
        // Their caches are given back before anybody is told: who is may ask for the next at once.
        let ended: Vec<_> = ended.into_iter().map(Running::end).collect();
        for (mut job, end, timings) in ended {
            match end {
                Some(Ok(reason)) => finish(job, reason, timings),
                Some(Err(error)) => job.reply.done(Err(error)),
                None => {}
            }
        }
    }
}

impl<L: CausalLm> Running<L> {
    /// Gives the cache back.
    fn end(mut self) -> (Job<L>, Option<Result<FinishReason>>, Timings) {
        self.note_time();
        (self.job, self.end, self.timings)
    }

    fn note_time(&mut self) {
        let seconds = self.since.elapsed().as_secs_f64();
        if self.is_in_prompt {
            self.timings.prefill_seconds = seconds;
        } else {
            self.timings.decode_seconds = seconds;
        }
    }

    /// Takes the scores of a pass and hands out the text that came of them.
    fn take(&mut self, mut scores: Vec<f32>) {
        let has_scores = self.job.sequence.run().1 > 0;
        if has_scores && self.is_in_prompt {
            self.note_time();
            (self.is_in_prompt, self.since) = (false, Instant::now());
        }
        let Job {
            sequence,
            transcript,
            reply,
            voice,
        } = &mut self.job;
        let taken = sequence.take(&mut scores, |token| {
            transcript.push(token, |piece| match reply.text(piece) {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            })
        });
        self.end = taken.transpose();
        voice.model.truncate(&mut self.cache, sequence.cached());
    }
}

/// Ends a request with what there is of it.
fn finish<L: CausalLm>(job: Job<L>, finish_reason: FinishReason, timings: Timings) {
    let Job {
        sequence,
        transcript,
        mut reply,
        ..
    } = job;
    let counts = sequence.draft_counts();
    let generated = Generated {
        ids: sequence.output().to_vec(),
        finish_reason,
        draft_proposed: counts.proposed,
        draft_accepted: counts.accepted,
        timings,
    };
    let done = transcript.finish(sequence.prompt().len(), generated, |rest| {
        reply.text(rest);
        ControlFlow::Continue(())
    });
    reply.done(done);
}

/// One pass of one model for all of these requests; at most `chunk` tokens of prompts, which are counted down.
fn pass<L: CausalLm>(voice: &Arc<Voice<L>>, group: &mut [Running<L>], chunk: &mut usize) {
    let mut parts = plan(group, chunk);
    if parts.is_empty() {
        return;
    }
    let rows: usize = parts
        .iter()
        .map(|running| running.job.sequence.run().0.len())
        .sum();
    let in_prompt = parts.iter().filter(|running| running.is_in_prompt).count();
    let mut runs: Vec<Run<'_, L::Cache>> = parts
        .iter_mut()
        .map(|Running { job, cache, .. }| {
            let (ids, keep) = job.sequence.run();
            Run { ids, cache, keep }
        })
        .collect();
    let started = Instant::now();
    let scores = guarded(|| voice.model.forward_batch(&mut runs));
    let seconds = started.elapsed().as_secs_f64();
    drop(runs);
    match scores {
        Ok(scores) => {
            if in_prompt == parts.len() {
                voice.memory.record_prefill(rows, seconds);
            } else if in_prompt == 0 {
                voice.memory.record_pass(rows, seconds);
            }
            for (running, scores) in parts.into_iter().zip(scores) {
                running.take(scores);
            }
        }
        Err(error) => {
            let error = Arc::new(error);
            for running in parts {
                running.end = Some(Err(InferError::Pass(Arc::clone(&error))));
            }
        }
    }
}

/// Decides what each request computes, and gives those that compute something.
fn plan<'a, L: CausalLm>(group: &'a mut [Running<L>], chunk: &mut usize) -> Vec<&'a mut Running<L>> {
    let (prompts, behind) = group
        .iter_mut()
        .partition::<Vec<_>, _>(|running| running.is_in_prompt);
    let requests = behind.len();
    let mut parts = Vec::with_capacity(prompts.len() + behind.len());
    // Each of those behind their prompts has one row, and perhaps a draft.
    let mut rows = requests;
    for running in prompts {
        if *chunk == 0 {
            break;
        }
        running.job.sequence.plan(*chunk, Company { rows, requests });
        let own = running.job.sequence.run().0.len();
        *chunk -= own.min(*chunk);
        rows += own;
        parts.push(running);
    }
    for running in behind {
        let others = Company {
            rows: rows - 1,
            requests: requests - 1,
        };
        running.job.sequence.plan(0, others);
        rows += running.job.sequence.run().0.len() - 1;
        parts.push(running);
    }
    parts
}

/// A cache with these tokens; `None` when the model cannot copy it, so that it would be of no use.
fn prefix_cache<L: CausalLm>(model: &L, ids: &[u32]) -> Result<Option<L::Cache>> {
    let mut cache = model.new_cache(ids.len())?;
    if model.fork(&cache, 0, 1)?.is_none() {
        return Ok(None);
    }
    model.forward(ids, &mut cache, 0)?;
    Ok(Some(cache))
}

/// Turns a panic of a model into an error of the requests that it was computing.
fn guarded<R>(work: impl FnOnce() -> Result<R>) -> Result<R> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or(Err(InferError::BrokenOff))
}

#[cfg(test)]
mod tests;
