//! Threads that compute an operation of a few microseconds together.
//!
//! Decoding a token is hundreds of small products, each of which all threads share. Handing each over to a thread pool would
//! wake its threads as often; here they stay awake for a moment after an operation, and within one they go from phase to
//! phase by themselves. A phase is a number of pieces, which whoever is free takes next: a thread that comes late, or that the
//! system has taken from its core, holds nobody up for longer than its piece.
//!
//! One operation at a time has the team; a caller who finds it taken works alone. What a piece computes must not depend on who
//! computes it, so results are the same either way.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, Once, PoisonError};
use std::time::{Duration, Instant};

/// Phases of an operation at most.
const MOST_PHASES: usize = 8;
/// How long a thread without work stays awake: longer than from one operation of a forward pass to the next.
const AWAKE: Duration = Duration::from_micros(150);
/// Looks before a waiting thread offers its core to others.
const LOOKS: usize = 2000;

/// Threads that an operation is shared by.
pub(super) fn threads() -> usize {
    rayon::current_num_threads()
}

/// Runs `work(phase, piece)` for every piece of every phase; a phase begins when all pieces of the one before have ended.
///
/// # Panics
/// When `work` does, after all that has begun has ended.
pub(super) fn run(pieces: &[usize], work: impl Fn(usize, usize) + Sync) {
    static GATHERED: Once = Once::new();
    let job = Job::new(pieces, &work);
    if pieces.iter().sum::<usize>() <= 1 || TEAM.taken.swap(true, Ordering::Acquire) {
        job.take_part();
    } else {
        GATHERED.call_once(Team::gather);
        TEAM.lead(&job);
        TEAM.taken.store(false, Ordering::Release);
    }
    let panic = job.panic.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Some(panic) = panic {
        resume_unwind(panic);
    }
}

/// An operation that is being computed.
struct Job<'a> {
    pieces: &'a [usize],
    work: &'a (dyn Fn(usize, usize) + Sync),
    progress: [Progress; MOST_PHASES],
    failed: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

/// Pieces of a phase that were taken, and that have ended; a cache line of its own.
#[derive(Default)]
#[repr(align(128))]
struct Progress {
    taken: AtomicUsize,
    ended: AtomicUsize,
}

impl<'a> Job<'a> {
    fn new(pieces: &'a [usize], work: &'a (dyn Fn(usize, usize) + Sync)) -> Self {
        assert!(pieces.len() <= MOST_PHASES, "phases of an operation");
        Self {
            pieces,
            work,
            progress: Default::default(),
            failed: AtomicBool::new(false),
            panic: Mutex::new(None),
        }
    }

    /// Takes pieces until all phases have ended.
    fn take_part(&self) {
        for (phase, (&pieces, progress)) in self.pieces.iter().zip(&self.progress).enumerate() {
            loop {
                let piece = progress.taken.fetch_add(1, Ordering::Relaxed);
                if piece >= pieces {
                    break;
                }
                self.compute(phase, piece);
                progress.ended.fetch_add(1, Ordering::AcqRel);
            }
            wait(|| progress.ended.load(Ordering::Acquire) >= pieces);
        }
    }

    /// A panic is kept for the caller: whoever else waits for the piece must not wait for ever.
    fn compute(&self, phase: usize, piece: usize) {
        if self.failed.load(Ordering::Relaxed) {
            return;
        }
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (self.work)(phase, piece))) {
            self.failed.store(true, Ordering::Relaxed);
            *self.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic);
        }
    }
}

/// Looks until it is so, and lets others have the core meanwhile when that takes long.
fn wait(is_so: impl Fn() -> bool) {
    let mut looks = 0;
    while !is_so() {
        looks += 1;
        if looks < LOOKS {
            std::hint::spin_loop();
        } else {
            std::thread::yield_now();
        }
    }
}

/// The threads, and what they work on.
struct Team {
    /// Whether somebody leads it.
    taken: AtomicBool,
    /// The job of whoever leads it; null when there is none.
    job: AtomicPtr<Job<'static>>,
    /// Counts jobs.
    number: AtomicUsize,
    /// Threads that may be looking at the job.
    inside: AtomicUsize,
    /// Threads that sleep until the next job.
    asleep: AtomicUsize,
    bed: Mutex<()>,
    alarm: Condvar,
}

static TEAM: Team = Team {
    taken: AtomicBool::new(false),
    job: AtomicPtr::new(std::ptr::null_mut()),
    number: AtomicUsize::new(0),
    inside: AtomicUsize::new(0),
    asleep: AtomicUsize::new(0),
    bed: Mutex::new(()),
    alarm: Condvar::new(),
};

impl Team {
    fn gather() {
        for index in 1..threads() {
            let thread = std::thread::Builder::new().name(format!("team-{index}"));
            // One that cannot be had is one that does not help.
            drop(thread.spawn(|| TEAM.help()));
        }
    }

    /// Computes a job with the help of whoever is awake soon enough.
    fn lead(&self, job: &Job<'_>) {
        let pointer = std::ptr::from_ref(job).cast_mut().cast::<Job<'static>>();
        self.job.store(pointer, Ordering::SeqCst);
        self.number.fetch_add(1, Ordering::SeqCst);
        if self.asleep.load(Ordering::SeqCst) > 0 {
            // Whoever is about to sleep holds the lock until it does.
            drop(self.bed.lock().unwrap_or_else(PoisonError::into_inner));
            self.alarm.notify_all();
        }
        job.take_part();
        self.job.store(std::ptr::null_mut(), Ordering::SeqCst);
        wait(|| self.inside.load(Ordering::SeqCst) == 0);
    }

    /// What each thread of the team does, for as long as the process lives.
    fn help(&self) {
        let mut seen = 0;
        loop {
            seen = self.next(seen);
            self.inside.fetch_add(1, Ordering::SeqCst);
            let job = self.job.load(Ordering::SeqCst);
            // SAFETY: `lead` takes the job away and then waits until nobody is inside before the job ends. This thread was
            // inside when it saw the job, and all five operations are in one order: `lead` sees it inside until it leaves.
            if let Some(job) = unsafe { job.as_ref() } {
                job.take_part();
            }
            self.inside.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// Waits for a job after number `seen`, awake at first; returns its number.
    fn next(&self, seen: usize) -> usize {
        let number = || self.number.load(Ordering::SeqCst);
        let began = Instant::now();
        let mut looks = 0usize;
        while number() == seen {
            looks += 1;
            if looks < LOOKS {
                std::hint::spin_loop();
                continue;
            }
            if began.elapsed() < AWAKE {
                std::thread::yield_now();
                continue;
            }
            let mut bed = self.bed.lock().unwrap_or_else(PoisonError::into_inner);
            self.asleep.fetch_add(1, Ordering::SeqCst);
            while number() == seen {
                bed = self.alarm.wait(bed).unwrap_or_else(PoisonError::into_inner);
            }
            self.asleep.fetch_sub(1, Ordering::SeqCst);
        }
        number()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_piece_runs_once_and_after_the_phase_before() {
        let pieces = [3, 0, 17, 1, 64];
        for _ in 0..300 {
            let done: Vec<AtomicUsize> = pieces.iter().map(|_| AtomicUsize::new(0)).collect();
            let ran: Vec<Vec<AtomicUsize>> = pieces
                .iter()
                .map(|&count| (0..count).map(|_| AtomicUsize::new(0)).collect())
                .collect();
            run(&pieces, |phase, piece| {
                for (before, count) in done[..phase].iter().zip(pieces) {
                    assert_eq!(before.load(Ordering::SeqCst), count);
                }
                ran[phase][piece].fetch_add(1, Ordering::SeqCst);
                done[phase].fetch_add(1, Ordering::SeqCst);
            });
            let mut all = ran.iter().flatten();
            assert!(all.all(|count| count.load(Ordering::SeqCst) == 1));
        }
    }

    #[test]
    fn callers_side_by_side_and_after_a_pause_come_to_their_end() {
        let total = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for round in 0..50 {
                        run(&[5, 5], |_, _| _ = total.fetch_add(1, Ordering::SeqCst));
                        if round % 10 == 0 {
                            std::thread::sleep(2 * AWAKE);
                        }
                    }
                });
            }
        });
        assert_eq!(total.into_inner(), 8 * 50 * 10);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_next_operation_runs() {
        let result = catch_unwind(|| {
            run(&[4, 4], |phase, piece| {
                assert!(phase != 0 || piece != 2, "on purpose")
            })
        });
        assert!(result.is_err());
        let count = AtomicUsize::new(0);
        run(&[9], |_, _| _ = count.fetch_add(1, Ordering::SeqCst));
        assert_eq!(count.into_inner(), 9);
    }
}
