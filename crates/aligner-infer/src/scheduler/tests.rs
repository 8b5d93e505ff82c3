#![allow(clippy::unwrap_used)]

use aligner_data::PromptTemplate;
use aligner_data::synthetic::train_tokenizer;

use super::*;
use crate::engine::{CancelToken, Drafting, Request};
use crate::policy::Draft;
use crate::sampler::SamplingParams;

/// The vocabulary of single bytes, with padding and end.
const VOCAB: usize = 258;

/// Writes one letter for ever.
struct OneLetter;

impl CausalLm for OneLetter {
    type Cache = usize;

    fn vocab_size(&self) -> usize {
        VOCAB
    }

    fn max_positions(&self) -> usize {
        1 << 20
    }

    fn new_cache(&self, _: usize) -> Result<usize> {
        Ok(0)
    }

    fn cache_len(&self, cache: &usize) -> usize {
        *cache
    }

    fn truncate(&self, cache: &mut usize, len: usize) {
        *cache = len;
    }

    fn forward(&self, ids: &[u32], cache: &mut usize, keep: usize) -> Result<Vec<f32>> {
        *cache += ids.len();
        let score = |at: usize| f32::from(u8::from(at % VOCAB == 70));
        Ok((0..keep * VOCAB).map(score).collect())
    }
}

struct Nobody;

impl Reply for Nobody {
    fn text(&mut self, _: &str) -> bool {
        true
    }

    fn done(&mut self, _: Result<Correction>) {}
}

fn voice() -> Arc<Voice<OneLetter>> {
    let (dir, template) = (tempfile::tempdir().unwrap(), PromptTemplate::default());
    let tokenizer = train_tokenizer(&[], &template, VOCAB, dir.path()).unwrap();
    Arc::new(Voice::new(OneLetter, tokenizer, template).unwrap())
}

fn job(voice: &Arc<Voice<OneLetter>>, prompt_tokens: usize) -> Job<OneLetter> {
    let request = Request {
        prompt: &vec![70; prompt_tokens],
        sampling: SamplingParams::default(),
        stop_ids: &[],
        max_new_tokens: 100,
        cancel: CancelToken::default(),
        drafting: Drafting {
            mode: Draft::Off,
            ..Drafting::default()
        },
    };
    Job {
        voice: Arc::clone(voice),
        sequence: Sequence::new(&request, voice.model.max_positions()).unwrap(),
        transcript: Transcript::new(voice.encoder.tokenizer()),
        reply: Box::new(Nobody),
    }
}

#[test]
fn adapters_take_turns_at_reading_prompts() {
    let (endless, other) = (voice(), voice());
    let mut scheduler = Scheduler::new(BatchOptions::default());
    scheduler.push(job(&endless, 100 * PREFILL_CHUNK));
    scheduler.push(job(&other, PREFILL_CHUNK + 1));
    for _ in 0..4 {
        scheduler.round();
    }
    let tokens_of = |voice: &Arc<Voice<OneLetter>>| -> usize {
        let mut running = scheduler.running.iter();
        let of_voice = running.find(|running| Arc::ptr_eq(&running.job.voice, voice));
        of_voice.unwrap().job.sequence.cached()
    };
    assert!(tokens_of(&other) > PREFILL_CHUNK, "{}", tokens_of(&other));
    assert!(
        tokens_of(&endless) >= 2 * PREFILL_CHUNK,
        "{}",
        tokens_of(&endless)
    );
}
