//! Many corrections at once, from many threads: a thread that owns the passes, and handles that send it requests.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use crate::causal_lm::CausalLm;
use crate::corrector::{CorrectOptions, Correction, CorrectionStream, Corrector, Input, Piece};
use crate::decoder::DecoderLm;
use crate::engine::CancelToken;
use crate::error::{InferError, Result};
use crate::sampler::part_seed;
use crate::scheduler::{BatchOptions, Job, Reply, Scheduler};
use crate::sequence::Sequence;
use crate::voice::{Transcript, Voice};
use crate::windows::{Cut, LongAnswers};
use crate::windows_batch::Whole;

/// Corrects many answers at once; cheap to clone, usable from many threads.
///
/// All requests share each pass through the model: one that comes while others are computed joins them with the next pass, and
/// leaves when it is done. What is written for a request does not depend on the others.
///
/// Its thread ends when the last handle is dropped and what was asked until then is done.
///
/// ```no_run
/// use aligner_infer::{BatchOptions, CorrectOptions, Corrector, Input};
///
/// let batcher = Corrector::open("runs/first/final")?.batcher(BatchOptions::default());
/// let threads: Vec<_> = [("Is the earth flat?", "Yes."), ("What is 2 + 2?", "5")]
///     .map(|(question, answer)| {
///         let batcher = batcher.clone();
///         std::thread::spawn(move || batcher.correct(Input::new(question, answer), &CorrectOptions::default()))
///     })
///     .into();
/// for correction in threads.into_iter().filter_map(|thread| thread.join().ok()) {
///     println!("{}", correction?.text);
/// }
/// # Ok::<(), aligner_infer::InferError>(())
/// ```
#[derive(Debug)]
pub struct Batcher<L: CausalLm + 'static = DecoderLm> {
    corrector: Corrector<L>,
    jobs: Sender<Job<L>>,
    options: BatchOptions,
    load: Arc<Mutex<BatchLoad>>,
    /// Windows of long answers that wait or are computed, of all requests and adapters.
    windows: Arc<AtomicUsize>,
}

impl<L: CausalLm + 'static> Clone for Batcher<L> {
    fn clone(&self) -> Self {
        Self {
            corrector: self.corrector.clone(),
            jobs: self.jobs.clone(),
            load: Arc::clone(&self.load),
            windows: Arc::clone(&self.windows),
            ..*self
        }
    }
}

/// A request that was checked, and who writes.
pub(crate) type Prepared<L> = (Sequence, Arc<Voice<L>>);

/// What a [`Batcher`] was doing when it last began a pass.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BatchLoad {
    /// Requests that are computed.
    pub running: usize,
    /// Requests that wait for a place or for memory.
    pub waiting: usize,
    /// Bytes reserved for keys and values.
    pub kv_bytes: usize,
}

impl<L: CausalLm + 'static> Corrector<L> {
    /// A thread that corrects many answers at once with this corrector's model and its adapters.
    pub fn batcher(&self, options: BatchOptions) -> Batcher<L> {
        let (jobs, received) = channel();
        let load = Arc::<Mutex<BatchLoad>>::default();
        let shown = Arc::clone(&load);
        std::thread::spawn(move || work(&received, Scheduler::new(options), &shown));
        Batcher {
            corrector: self.clone(),
            jobs,
            options,
            load,
            windows: Arc::default(),
        }
    }

    /// Corrects answers many at a time; the corrections come in the order of the inputs, as the iterator is drawn. Each
    /// is sampled with a seed of its own, which [`part_seed`] makes of that of the options.
    ///
    /// Some inputs beyond those that are computed are taken ahead, so that a long one does not hold up those behind it.
    pub fn correct_many<'a, I>(
        &self,
        inputs: I,
        options: &CorrectOptions,
        batch: BatchOptions,
    ) -> impl Iterator<Item = Result<Correction>> + use<'a, I, L>
    where
        I: IntoIterator<Item = Input<'a>>,
    {
        let batcher = self.batcher(batch);
        let ahead = batch.max_running.max(1).saturating_mul(3);
        let mut inputs = (0..).zip(inputs);
        let mut pending = VecDeque::new();
        let (mut options, seed) = (options.clone(), options.sampling.seed);
        std::iter::from_fn(move || {
            while pending.len() < ahead
                && let Some((index, input)) = inputs.next()
            {
                options.sampling.seed = part_seed(seed, index);
                pending.push_back(batcher.stream(input, &options));
            }
            pending.pop_front().map(CorrectionStream::wait)
        })
    }
}

impl<L: CausalLm + 'static> Batcher<L> {
    /// This batcher with one of the adapters of its corrector: requests of several adapters are computed side by side, each
    /// adapter in a pass of its own.
    ///
    /// # Errors
    /// When there is no adapter of that name.
    pub fn adapter(&self, name: &str) -> Result<Self> {
        Ok(Self {
            corrector: self.corrector.adapter(name)?,
            ..self.clone()
        })
    }

    /// The corrector behind it.
    pub fn corrector(&self) -> &Corrector<L> {
        &self.corrector
    }

    /// What it is doing.
    pub fn load(&self) -> BatchLoad {
        *self.load.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Corrects one answer beside others and waits for it.
    ///
    /// # Errors
    /// As [`Corrector::correct`], and when the request alone would need more memory than all may have.
    pub fn correct(&self, input: Input<'_>, options: &CorrectOptions) -> Result<Correction> {
        self.stream(input, options).wait()
    }

    /// Corrects one answer beside others; the pieces come as an iterator. Dropping it cancels the request.
    ///
    /// A reader that is slow holds nobody up: what it has not read waits for it.
    pub fn stream(&self, input: Input<'_>, options: &CorrectOptions) -> CorrectionStream {
        let (sender, pieces) = channel();
        let cancel = self.start(input, options, move |piece| sender.send(piece).is_ok());
        CorrectionStream::new(pieces, cancel)
    }

    /// Corrects one answer beside others and hands each piece to `on_piece`, for programs that wait for it in their own way, as
    /// an async server does; `false` from it ends the request. Cancelling the token that is returned ends it as well, without
    /// touching others that share the caller's.
    ///
    /// `on_piece` runs on the thread of all passes, which waits for it: it should only hand the piece on.
    pub fn start(
        &self,
        input: Input<'_>,
        options: &CorrectOptions,
        on_piece: impl FnMut(Result<Piece>) -> bool + Send + 'static,
    ) -> CancelToken {
        let cancel = options.cancel.child();
        let options = CorrectOptions {
            cancel: cancel.clone(),
            ..options.clone()
        };
        self.begin(input, &options, Box::new(Pieces(on_piece)));
        cancel
    }

    fn begin(&self, input: Input<'_>, options: &CorrectOptions, mut reply: Box<dyn Reply>) {
        let cut = match options.long_answers {
            LongAnswers::Refuse => self.corrector.voice().prompt(input).map(Cut::Whole),
            LongAnswers::Windows => self.corrector.cut(input, options.max_new_tokens),
        };
        let prepared = match cut {
            Ok(Cut::Windows(windows)) => return Whole::start(self, windows, options, reply),
            Ok(Cut::Whole(prompt)) => self.prepare(prompt, input.answer, options),
            Err(error) => Err(error),
        };
        match prepared {
            Ok(job) => {
                if let Err(mut unsent) = self.send(job, reply) {
                    unsent.done(Err(InferError::BrokenOff));
                }
            }
            Err(error) => reply.done(Err(error)),
        }
    }

    /// Takes a place for one more window of a long answer, where there is one: of all requests together as many windows are in
    /// the batch as it computes at once. A request that has none there gets a place in any case, as one that needs no windows.
    pub(crate) fn take_window_place(&self, has_none: bool) -> bool {
        let most = self.options.max_running.max(1);
        let more = |windows| (has_none || windows < most).then_some(windows + 1);
        let (set, fetch) = (Ordering::Relaxed, Ordering::Relaxed);
        self.windows.fetch_update(set, fetch, more).is_ok()
    }

    /// Gives the place of a window back.
    pub(crate) fn give_window_place_back(&self) {
        self.windows.fetch_sub(1, Ordering::Relaxed);
    }

    /// Sends a request to the thread of all passes; gives its reply back when there is no such thread any more.
    pub(crate) fn send(
        &self,
        (sequence, voice): Prepared<L>,
        reply: Box<dyn Reply>,
    ) -> Result<(), Box<dyn Reply>> {
        let job = Job {
            voice,
            sequence,
            transcript: Transcript::new(self.corrector.tokenizer()),
            reply,
        };
        self.jobs.send(job).map_err(|unsent| unsent.0.reply)
    }

    /// The request of a prompt and the answer in it, checked.
    pub(crate) fn prepare(
        &self,
        prompt: Vec<u32>,
        answer: &str,
        options: &CorrectOptions,
    ) -> Result<Prepared<L>> {
        let voice = self.corrector.voice();
        let prepared = voice.prepare(prompt, answer, options)?;
        let sequence = Sequence::new(&voice.request(&prepared), voice.model.max_positions())?;
        let (needed, allowed) = (
            voice.model.cache_bytes(sequence.capacity()),
            self.options.kv_memory_bytes,
        );
        if needed > allowed {
            return Err(InferError::KvMemory {
                tokens: sequence.capacity(),
                needed,
                allowed,
            });
        }
        Ok((sequence, Arc::clone(voice)))
    }
}

/// Hands pieces on.
struct Pieces<F>(F);

impl<F: FnMut(Result<Piece>) -> bool + Send> Reply for Pieces<F> {
    fn text(&mut self, piece: &str) -> bool {
        (self.0)(Ok(Piece::Text(piece.to_string())))
    }

    fn done(&mut self, result: Result<Correction>) {
        // Nobody listens any more: nothing is lost.
        let _ = (self.0)(result.map(Piece::Done));
    }
}

/// Rounds as long as there is something to do, and until nobody can ask for more.
fn work<L: CausalLm>(jobs: &Receiver<Job<L>>, mut scheduler: Scheduler<L>, load: &Mutex<BatchLoad>) {
    loop {
        if scheduler.is_idle() {
            match jobs.recv() {
                Ok(job) => scheduler.push(job),
                Err(_) => return,
            }
        }
        jobs.try_iter().for_each(|job| scheduler.push(job));
        scheduler.round();
        *load.lock().unwrap_or_else(PoisonError::into_inner) = BatchLoad {
            running: scheduler.running(),
            waiting: scheduler.waiting(),
            kv_bytes: scheduler.kv_bytes(),
        };
    }
}
