//! Numbers that no two requests share, and seeds.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

use aligner_infer::part_seed;

/// A number that was not given out before; a process that is started again gives out others.
pub(crate) fn random() -> u64 {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    // Under random keys of the process.
    RandomState::new().hash_one(COUNT.fetch_add(1, Ordering::Relaxed))
}

/// A seed that no other text has had.
pub(crate) fn fresh_seed() -> u64 {
    of_any_server(random())
}

/// A seed for one of several texts of a request, by its place among them; the first has the request's own, as one alone.
pub(crate) fn seed_of(asked: Option<u64>, index: u64) -> Option<u64> {
    asked.map(|seed| match index {
        0 => seed,
        _ => of_any_server(part_seed(seed, index)),
    })
}

/// A seed of 31 bits, which the server behind any engine takes.
fn of_any_server(seed: u64) -> u64 {
    seed >> 33
}
