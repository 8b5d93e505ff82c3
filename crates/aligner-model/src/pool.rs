//! Where a forward pass or a training step runs.

use std::sync::atomic::{AtomicBool, Ordering};

/// Whether a piece of work is on the pool.
static IS_TAKEN: AtomicBool = AtomicBool::new(false);

/// Runs `work` on one of the threads that share out each operation on the CPU.
///
/// From any other thread, each of a token's hundreds of operations would put that thread to sleep and wake it again. One
/// piece of work at a time is on the pool: while another one is there, `work` runs on the calling thread. A pool thread
/// that waits takes up other work, and whole passes of many requests would pile up on its stack.
pub fn on_pool<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    if IS_TAKEN.swap(true, Ordering::Acquire) {
        return work();
    }
    let _turn = Turn;
    rayon::scope(|_| work())
}

/// Gives the place back, also when the work panics.
struct Turn;

impl Drop for Turn {
    fn drop(&mut self) {
        IS_TAKEN.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_inside_work_and_beside_it_comes_to_its_end() {
        assert_eq!(on_pool(|| on_pool(|| 2) + 1), 3);
        let sum: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..16)
                .map(|number| scope.spawn(move || on_pool(|| number)))
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(sum, 120);
        let panicked = std::panic::catch_unwind(|| on_pool::<()>(|| panic!("on purpose")));
        assert!(panicked.is_err());
        // The place was given back each time.
        assert!(on_pool(|| rayon::current_thread_index().is_some()));
    }
}
