//! Memory that is used again: the scratch of one layer serves the next.
//!
//! A fresh buffer costs more than filling it: the kernel clears each of its pages on first use, which was a quarter of a
//! training step. A [`Buffer`] goes back to a shelf when it is dropped and comes back with whatever was in it.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A cache line, and a vector of AVX-512: a vector that lies across two lines takes two reads.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; LINE]);

/// Elements of a [`Line`].
const LINE: usize = 16;

static SHELF: Mutex<Shelf> = Mutex::new(Shelf::new());

/// Lines up to which a buffer stays with its thread: 32 KiB.
const SMALL: usize = 512;
/// Buffers that a thread keeps at most.
const OWN: usize = 16;

thread_local! {
    /// Small buffers that this thread put back; for the shelf they are in use.
    ///
    /// The pieces of an operation take some each, on all threads at once, and would stand in line for the shelf.
    static OWN_SHELF: RefCell<OwnShelf> = const { RefCell::new(OwnShelf(Vec::new())) };
}

struct OwnShelf(Vec<Vec<Line>>);

impl OwnShelf {
    /// The first that is large enough, of those last put back.
    fn take(&mut self, lines: usize) -> Option<Vec<Line>> {
        let at = self.0.iter().rposition(|memory| memory.len() >= lines)?;
        Some(self.0.swap_remove(at))
    }

    /// Keeps it, or gives it back.
    fn put(&mut self, memory: Vec<Line>) -> Option<Vec<Line>> {
        if memory.len() > SMALL || self.0.len() == OWN {
            return Some(memory);
        }
        self.0.push(memory);
        None
    }
}

impl Drop for OwnShelf {
    fn drop(&mut self) {
        let mut shelf = shelf();
        self.0.drain(..).for_each(|memory| shelf.put(memory));
    }
}

/// Memory that nobody uses just now, and how much is in use.
///
/// Both together never exceed what was in use at once, so batches of many lengths take no more than the largest of them.
struct Shelf {
    /// Smallest first.
    idle: Vec<Vec<Line>>,
    idle_lines: usize,
    used_lines: usize,
    most_used_lines: usize,
}

impl Shelf {
    const fn new() -> Self {
        Self {
            idle: Vec::new(),
            idle_lines: 0,
            used_lines: 0,
            most_used_lines: 0,
        }
    }

    /// A buffer from the shelf; `None` when a new one of [`rounded`] size is to be made, for which there is room then.
    fn take(&mut self, lines: usize) -> Option<Vec<Line>> {
        let new = rounded(lines);
        let at = self.idle.partition_point(|memory| memory.len() < lines);
        // One that is far larger would be missed by whoever needs it: only where the batch is smaller than others were.
        let is_full = self.used_lines + self.idle_lines + new > self.most_used_lines;
        let fits = |memory: &Vec<Line>| is_full || memory.len() <= lines + lines / 2;
        let found = self.idle.get(at).is_some_and(fits).then(|| self.idle.remove(at));
        if let Some(memory) = &found {
            self.idle_lines -= memory.len();
        }
        self.used_lines += found.as_ref().map_or(new, Vec::len);
        self.most_used_lines = self.most_used_lines.max(self.used_lines);
        // What is too small gives way, the largest first.
        while self.used_lines + self.idle_lines > self.most_used_lines
            && let Some(memory) = self.idle.pop()
        {
            self.idle_lines -= memory.len();
        }
        found
    }

    fn put(&mut self, memory: Vec<Line>) {
        self.used_lines -= memory.len();
        self.idle_lines += memory.len();
        let at = self.idle.partition_point(|other| other.len() < memory.len());
        self.idle.insert(at, memory);
    }
}

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
        let own = match lines {
            0 => Some(Vec::new()),
            1..=SMALL => OWN_SHELF
                .try_with(|own| own.borrow_mut().take(lines))
                .ok()
                .flatten(),
            _ => None,
        };
        let found = own.or_else(|| shelf().take(lines));
        let memory = found.unwrap_or_else(|| vec![Line([0.0; LINE]); rounded(lines)]);
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
        if memory.is_empty() {
            return;
        }
        let mut memory = Some(memory);
        // While a thread ends it keeps nothing.
        let _ = OWN_SHELF.try_with(|own| {
            memory = memory.take().and_then(|memory| own.borrow_mut().put(memory));
        });
        if let Some(memory) = memory {
            shelf().put(memory);
        }
    }
}

fn shelf() -> MutexGuard<'static, Shelf> {
    SHELF.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Gives the memory of unused buffers back: after training, or before a batch of quite another size.
pub fn release_buffers() {
    let mut shelf = shelf();
    shelf.idle.clear();
    shelf.idle_lines = 0;
    shelf.most_used_lines = shelf.used_lines;
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

    /// Steps of a training run: each takes some buffers of a size, and puts them back in another order.
    #[test]
    fn batches_of_many_lengths_take_no_more_than_the_largest() {
        let mut shelf = Shelf::new();
        let mut made = 0;
        for step in 0..200usize {
            let lines = [4000, 2400, 1500, 900, 300][step * 7 % 5] + step;
            let mut held = Vec::new();
            for _ in 0..20 {
                held.push(shelf.take(lines).unwrap_or_else(|| {
                    made += 1;
                    vec![Line([0.0; LINE]); rounded(lines)]
                }));
            }
            while !held.is_empty() {
                shelf.put(held.swap_remove(step % held.len()));
            }
            assert_eq!(shelf.used_lines, 0);
            assert_eq!(shelf.idle.iter().map(Vec::len).sum::<usize>(), shelf.idle_lines);
            assert!(shelf.idle.is_sorted_by_key(Vec::len));
            assert!(shelf.idle_lines <= shelf.most_used_lines && shelf.most_used_lines <= 20 * rounded(4200));
        }
        assert!(made < 10 * 20, "{made} buffers for 200 batches of 20");
    }
}
