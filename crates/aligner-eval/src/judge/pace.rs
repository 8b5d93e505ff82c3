//! When the next call may begin, for all threads.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Spreads calls over time, holds all of them back when a server asks for it, and ends them.
#[derive(Debug)]
pub(super) struct Pace {
    interval: Duration,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    next: Instant,
    is_stopped: bool,
}

impl Pace {
    pub fn new(requests_per_minute: Option<u32>) -> Self {
        let interval =
            requests_per_minute.map_or(Duration::ZERO, |count| Duration::from_secs(60) / count.max(1));
        Self {
            interval,
            state: Mutex::new(State {
                next: Instant::now(),
                is_stopped: false,
            }),
            changed: Condvar::new(),
        }
    }

    /// Waits for a turn; `false` when there is none any more.
    pub fn take(&self) -> bool {
        let mut state = self.state();
        loop {
            let now = Instant::now();
            if state.is_stopped {
                return false;
            }
            if state.next <= now {
                state.next = now + self.interval;
                return true;
            }
            // The turn may have been put off meanwhile: it is looked at again.
            let wait = state.next - now;
            state = self
                .changed
                .wait_timeout(state, wait)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Nobody begins before this time has passed.
    pub fn hold(&self, wait: Duration) {
        let mut state = self.state();
        if let Some(end) = Instant::now().checked_add(wait) {
            state.next = state.next.max(end);
        }
    }

    /// Waits, but not past the end.
    pub fn sleep(&self, wait: Duration) {
        let state = self.state();
        let waited = self
            .changed
            .wait_timeout_while(state, wait, |state| !state.is_stopped);
        drop(waited);
    }

    /// No further call begins.
    pub fn stop(&self) {
        self.state().is_stopped = true;
        self.changed.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A flag and a time are never half-written.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_keep_their_distance() {
        let pace = Pace::new(Some(6000));
        let begin = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| (0..4).for_each(|_| assert!(pace.take())));
            }
        });
        // Twelve calls have eleven gaps of 10 ms between them.
        assert!(
            begin.elapsed() >= Duration::from_millis(110),
            "{:?}",
            begin.elapsed()
        );
    }

    #[test]
    fn a_stop_ends_every_wait() {
        let pace = Pace::new(None);
        pace.hold(Duration::from_secs(3600));
        std::thread::scope(|scope| {
            let taking = scope.spawn(|| pace.take());
            let sleeping = scope.spawn(|| pace.sleep(Duration::from_secs(3600)));
            pace.stop();
            assert!(!taking.join().unwrap());
            sleeping.join().unwrap();
        });
    }
}
