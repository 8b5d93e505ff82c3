//! A model without weights and a tokenizer of bytes, shared by the tests of this crate.
#![allow(dead_code)]

pub mod batch;

use std::sync::{Arc, Mutex};

use aligner_data::synthetic::train_tokenizer;
use aligner_data::{PromptTemplate, Tokenizer};
use aligner_infer::{CausalLm, Corrector, Result};

/// Ends the prompts of [`template`]; [`MockLm::writing`] writes its text behind the last one.
pub const PROMPT_END: char = '\u{1e}';

/// Size of [`byte_tokenizer`]: 256 bytes, `<pad>` and `<eos>`.
pub const BYTES_VOCAB: usize = 258;

type Scores = dyn Fn(&[u32]) -> Result<Vec<f32>> + Send + Sync;

/// One call of [`CausalLm::forward`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    pub ids: usize,
    pub keep: usize,
}

/// What a [`MockLm`] was asked, also after it moved into a corrector.
#[derive(Debug, Clone, Default)]
pub struct Log {
    calls: Arc<Mutex<Vec<Call>>>,
    seen: Arc<Mutex<Vec<u32>>>,
    caches: Arc<Mutex<Vec<usize>>>,
}

impl Log {
    pub fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap().clone()
    }

    /// Every id that went in, in order.
    pub fn seen(&self) -> Vec<u32> {
        self.seen.lock().unwrap().clone()
    }

    /// Capacities of the caches that were made.
    pub fn caches(&self) -> Vec<usize> {
        self.caches.lock().unwrap().clone()
    }
}

/// A model whose scores are a function of all tokens in its cache, so that a wrong cache gives wrong scores.
pub struct MockLm {
    pub max_positions: usize,
    pub log: Log,
    vocab_size: usize,
    scores: Box<Scores>,
}

pub struct MockCache {
    ids: Vec<u32>,
    capacity: usize,
}

impl MockCache {
    /// A cache of its own that begins with the first `len` tokens of this one.
    pub fn fork(&self, len: usize, capacity: usize) -> Self {
        Self {
            ids: self.ids[..len].to_vec(),
            capacity,
        }
    }
}

impl MockLm {
    pub fn new(
        vocab_size: usize,
        scores: impl Fn(&[u32]) -> Result<Vec<f32>> + Send + Sync + 'static,
    ) -> Self {
        Self {
            max_positions: 4096,
            log: Log::default(),
            vocab_size,
            scores: Box::new(scores),
        }
    }

    /// Every token has its own score after every sequence.
    pub fn hashed(vocab_size: usize) -> Self {
        Self::new(vocab_size, move |ids| Ok(hashed_scores(ids, vocab_size)))
    }

    /// Writes `text`, byte by byte, and then the end of sequence, over and over.
    pub fn writing(text: &str, tokenizer: &Tokenizer) -> Self {
        let mut script = tokenizer.encode_target(text).unwrap();
        script.push(tokenizer.eos_id());
        let end = tokenizer.encode_target(&PROMPT_END.to_string()).unwrap()[0];
        Self::new(tokenizer.vocab_size(), move |ids| {
            let start = ids.iter().rposition(|&id| id == end).map_or(0, |at| at + 1);
            let next = script[(ids.len() - start) % script.len()];
            Ok(one_hot(next, BYTES_VOCAB))
        })
    }

    /// Scores of what follows these tokens.
    pub fn scores(&self, ids: &[u32]) -> Result<Vec<f32>> {
        (self.scores)(ids)
    }

    pub fn with_max_positions(mut self, max_positions: usize) -> Self {
        self.max_positions = max_positions;
        self
    }
}

pub fn one_hot(id: u32, vocab_size: usize) -> Vec<f32> {
    let mut scores = vec![0.0; vocab_size];
    scores[id as usize] = 20.0;
    scores
}

/// Scores in 0..4 from a hash of the sequence and the token.
pub fn hashed_scores(ids: &[u32], vocab_size: usize) -> Vec<f32> {
    let sequence = ids
        .iter()
        .fold(ids.len() as u64, |hash, &id| mix(hash ^ u64::from(id)));
    (0..vocab_size as u64)
        .map(|id| (mix(sequence ^ (id << 32)) >> 40) as f32 / (1u64 << 22) as f32)
        .collect()
}

/// MurmurHash3's finaliser, here only to spread bits.
pub fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 33))
        .wrapping_add(1)
        .wrapping_mul(0xff51_afd7_ed55_8ccd);
    x = (x ^ (x >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ (x >> 33)
}

impl CausalLm for MockLm {
    type Cache = MockCache;

    fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    fn max_positions(&self) -> usize {
        self.max_positions
    }

    fn new_cache(&self, capacity: usize) -> Result<MockCache> {
        self.log.caches.lock().unwrap().push(capacity);
        assert!(
            capacity <= self.max_positions,
            "a cache for {capacity} tokens, but the context ends before"
        );
        Ok(MockCache {
            ids: Vec::new(),
            capacity,
        })
    }

    fn cache_len(&self, cache: &MockCache) -> usize {
        cache.ids.len()
    }

    fn truncate(&self, cache: &mut MockCache, len: usize) {
        cache.ids.truncate(len);
    }

    fn forward(&self, ids: &[u32], cache: &mut MockCache, keep: usize) -> Result<Vec<f32>> {
        self.log.calls.lock().unwrap().push(Call { ids: ids.len(), keep });
        self.log.seen.lock().unwrap().extend(ids);
        assert!(
            ids.iter().all(|&id| (id as usize) < self.vocab_size),
            "an id that the model does not have"
        );
        assert!(!ids.is_empty() && keep <= ids.len());
        let mut scores = Vec::new();
        for (index, &id) in ids.iter().enumerate() {
            cache.ids.push(id);
            if index + keep >= ids.len() {
                scores.extend((self.scores)(&cache.ids)?);
            }
        }
        assert!(
            cache.ids.len() <= cache.capacity,
            "{} tokens in a cache for {}",
            cache.ids.len(),
            cache.capacity
        );
        Ok(scores)
    }
}

/// A tokenizer whose every token is one byte.
pub fn byte_tokenizer() -> Tokenizer {
    let dir = tempfile::tempdir().unwrap();
    let tokenizer = train_tokenizer(&[], &PromptTemplate::default(), BYTES_VOCAB, dir.path()).unwrap();
    assert_eq!(tokenizer.vocab_size(), BYTES_VOCAB);
    tokenizer
}

/// A template without words, so that a prompt has few tokens.
pub fn template() -> PromptTemplate {
    PromptTemplate::custom("short", &format!("{{question}}|{{answer}}{PROMPT_END}")).unwrap()
}

pub fn corrector(model: MockLm) -> Corrector<MockLm> {
    Corrector::from_parts(model, byte_tokenizer(), template()).unwrap()
}

/// A corrector whose model always writes `text`.
pub fn corrector_writing(text: &str) -> Corrector<MockLm> {
    corrector(MockLm::writing(text, &byte_tokenizer()))
}

/// `log softmax(scores)[id]`, written down a second time.
pub fn log_softmax(scores: &[f32], id: u32) -> f64 {
    let sum: f64 = scores.iter().map(|&score| f64::from(score).exp()).sum();
    f64::from(scores[id as usize]) - sum.ln()
}
