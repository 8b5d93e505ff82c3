//! Numbers that no two requests share.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

/// A number that was not given out before; a process that is started again gives out others.
pub(crate) fn random() -> u64 {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    // Under random keys of the process.
    RandomState::new().hash_one(COUNT.fetch_add(1, Ordering::Relaxed))
}
