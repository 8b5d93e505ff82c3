//! A model without weights that is asked by many at once.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use aligner_infer::{CausalLm, Result, Run};

use super::{MockCache, MockLm};

/// A [`MockLm`] whose caches can be copied and cost a byte a token, that counts what goes through it together, and that can be
/// made to wait, to fail and to panic.
pub struct BatchLm {
    pub lm: MockLm,
    pub can_fork: bool,
    pub seen: Arc<Seen>,
}

pub struct Seen {
    /// Rows of each run of each pass.
    passes: Mutex<Vec<Vec<usize>>>,
    /// Bytes of caches that exist.
    pub bytes: AtomicUsize,
    pub most_bytes: AtomicUsize,
    /// Passes until the next waits, and the signal that it need not any more.
    gate: (Mutex<usize>, Condvar),
}

impl Default for Seen {
    fn default() -> Self {
        Self {
            passes: Mutex::default(),
            bytes: AtomicUsize::new(0),
            most_bytes: AtomicUsize::new(0),
            gate: (Mutex::new(usize::MAX), Condvar::new()),
        }
    }
}

impl Seen {
    pub fn passes(&self) -> Vec<Vec<usize>> {
        self.passes.lock().unwrap().clone()
    }

    pub fn close(&self) {
        self.close_after(0);
    }

    pub fn open(&self) {
        self.close_after(usize::MAX);
    }

    /// Lets so many passes through; the next waits.
    pub fn close_after(&self, passes: usize) {
        *self.gate.0.lock().unwrap() = passes;
        self.gate.1.notify_all();
    }

    fn wait(&self) {
        let left = self.gate.0.lock().unwrap();
        *self.gate.1.wait_while(left, |left| *left == 0).unwrap() -= 1;
    }
}

/// A cache that is counted as long as it exists.
pub struct Counted {
    cache: MockCache,
    bytes: usize,
    seen: Arc<Seen>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.seen.bytes.fetch_sub(self.bytes, Ordering::SeqCst);
    }
}

impl BatchLm {
    pub fn new(lm: MockLm) -> Self {
        Self {
            lm,
            can_fork: true,
            seen: Arc::default(),
        }
    }
}

impl CausalLm for BatchLm {
    type Cache = Counted;

    fn vocab_size(&self) -> usize {
        self.lm.vocab_size()
    }

    fn max_positions(&self) -> usize {
        self.lm.max_positions()
    }

    fn new_cache(&self, capacity: usize) -> Result<Counted> {
        let bytes = self.seen.bytes.fetch_add(capacity, Ordering::SeqCst) + capacity;
        self.seen.most_bytes.fetch_max(bytes, Ordering::SeqCst);
        Ok(Counted {
            cache: self.lm.new_cache(capacity)?,
            bytes: capacity,
            seen: Arc::clone(&self.seen),
        })
    }

    fn cache_bytes(&self, capacity: usize) -> usize {
        capacity
    }

    fn fork(&self, cache: &Counted, len: usize, capacity: usize) -> Result<Option<Counted>> {
        if !self.can_fork {
            return Ok(None);
        }
        let mut copy = self.new_cache(capacity)?;
        copy.cache = cache.cache.fork(len, capacity);
        Ok(Some(copy))
    }

    fn cache_len(&self, cache: &Counted) -> usize {
        self.lm.cache_len(&cache.cache)
    }

    fn truncate(&self, cache: &mut Counted, len: usize) {
        self.lm.truncate(&mut cache.cache, len);
    }

    fn forward(&self, ids: &[u32], cache: &mut Counted, keep: usize) -> Result<Vec<f32>> {
        self.lm.forward(ids, &mut cache.cache, keep)
    }

    fn forward_batch(&self, runs: &mut [Run<'_, Counted>]) -> Result<Vec<Vec<f32>>> {
        self.seen.wait();
        let rows = runs.iter().map(|run| run.ids.len()).collect();
        self.seen.passes.lock().unwrap().push(rows);
        runs.iter_mut()
            .map(|run| self.forward(run.ids, run.cache, run.keep))
            .collect()
    }
}
