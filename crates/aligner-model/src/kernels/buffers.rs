//! Memory that is used again: the scratch of one layer serves the next.
//!
//! A fresh buffer costs more than filling it: the kernel clears each of its pages on first use, which was a quarter of a
//! training step. A [`Buffer`] goes back to a shelf when it is dropped and comes back with whatever was in it.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};

/// A cache line, and a vector of AVX-512: a vector that lies across two lines takes two reads.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; LINE]);

/// Elements of a [`Line`].
const LINE: usize = 16;

/// Buffers nobody uses, smallest first.
static SHELF: Mutex<Vec<Vec<Line>>> = Mutex::new(Vec::new());

/// A slice of `f32` with unspecified contents at first, which begins with a cache line.
#[derive(Debug)]
pub(super) struct Buffer {
    memory: Vec<Line>,
    len: usize,
}

impl Buffer {
    /// Memory for `len` elements, with whatever was there before.
    pub fn take(len: usize) -> Self {
        let lines = len.div_ceil(LINE);
        let mut shelf = SHELF.lock().unwrap_or_else(PoisonError::into_inner);
        let mut first = shelf.partition_point(|memory| memory.len() < lines);
        // One that is far larger would be missed by whoever needs it.
        let fits = shelf
            .get(first)
            .is_some_and(|memory| memory.len() <= lines + lines / 2);
        if fits {
            let memory = shelf.remove(first);
            return Self { memory, len };
        }
        // What is too small gives way to what is needed: batches of many lengths take no more than the longest of them.
        let mut missing = rounded(lines);
        while first > 0 && missing > 0 {
            first -= 1;
            missing = missing.saturating_sub(shelf.remove(first).len());
        }
        drop(shelf);
        let memory = vec![Line([0.0; LINE]); rounded(lines)];
        Self { memory, len }
    }
}

impl Clone for Buffer {
    fn clone(&self) -> Self {
        let mut copy = Self::take(self.len);
        copy.copy_from_slice(self);
        copy
    }
}

/// Batches of slightly different length share buffers: sizes are rounded up by at most an eighth.
fn rounded(lines: usize) -> usize {
    let step = (lines.next_power_of_two() / 16).max(4);
    lines.next_multiple_of(step)
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: lines are their elements, one behind the other, and `len` of them are there.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr().cast(), self.len) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above, and the lines are borrowed for writing.
        unsafe { std::slice::from_raw_parts_mut(self.memory.as_mut_ptr().cast(), self.len) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let memory = std::mem::take(&mut self.memory);
        let mut shelf = SHELF.lock().unwrap_or_else(PoisonError::into_inner);
        let at = shelf.partition_point(|other| other.len() < memory.len());
        shelf.insert(at, memory);
    }
}

/// Gives the memory of unused buffers back: after training, or before a batch of quite another size.
pub fn release_buffers() {
    SHELF.lock().unwrap_or_else(PoisonError::into_inner).clear();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_rounded_by_an_eighth_at_most() {
        for len in [1usize, 3, 4, 63, 64, 1000, 1025, 4096, 5000, 1_000_000] {
            let got = rounded(len);
            assert!(got >= len && got <= (len + len / 8).max(4), "{len} {got}");
        }
    }

    #[test]
    fn a_buffer_has_the_length_asked_for_and_keeps_what_is_written() {
        let mut a = Buffer::take(1000);
        a.fill(3.0);
        assert_eq!((a.len(), a[999]), (1000, 3.0));
        drop(a);
        let b = Buffer::take(900);
        assert_eq!((b.len(), b.as_ptr() as usize % 64), (900, 0));
    }
}
