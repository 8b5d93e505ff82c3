//! Memory that lies as the loops read it, and memory that threads share.

use std::marker::PhantomData;
use std::ops::Range;

use crate::kernels::panels::WIDTH;

/// One step of a panel: begins with a cache line and fills two.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(C, align(64))]
pub(super) struct Row(pub [f32; WIDTH]);

impl Row {
    /// The elements of rows, one behind the other.
    pub fn flattened(rows: &mut [Self]) -> &mut [f32] {
        const { assert!(size_of::<Self>() == WIDTH * size_of::<f32>(), "rows have no gaps") };
        // SAFETY: rows are their elements and nothing else, and are borrowed for writing.
        unsafe { std::slice::from_raw_parts_mut(rows.as_mut_ptr().cast(), rows.len() * WIDTH) }
    }
}

/// Memory that the pieces of an operation read and write, each its own part: what one phase wrote, the next may read.
///
/// Within a phase no element is written by one piece and touched by another. `team::run` begins a phase when the one before has
/// ended, so whoever keeps to this has no races.
#[derive(Debug)]
pub(super) struct Shared<'a, T> {
    start: *mut T,
    len: usize,
    lifetime: PhantomData<&'a mut [T]>,
}

// SAFETY: the only ways to the memory are the unsafe functions below, whose callers vouch that there are no races.
unsafe impl<T: Send + Sync> Send for Shared<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync> Sync for Shared<'_, T> {}

impl<T> Clone for Shared<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    pub fn new(memory: &'a mut [T]) -> Self {
        Self {
            start: memory.as_mut_ptr(),
            len: memory.len(),
            lifetime: PhantomData,
        }
    }

    /// Memory that is only read.
    pub fn reading(memory: &'a [T]) -> Self {
        Self {
            start: memory.as_ptr().cast_mut(),
            len: memory.len(),
            lifetime: PhantomData,
        }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// Where an element lies, for a processor that is to fetch it.
    pub fn place(&self, at: usize) -> *const f32 {
        self.start.wrapping_add(at).cast_const().cast()
    }

    /// # Safety
    /// Nobody writes these elements while the slice lives.
    ///
    /// # Panics
    /// When the range reaches beyond the memory.
    pub unsafe fn read(&self, range: Range<usize>) -> &'a [T] {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?}");
        // SAFETY: the range was just checked; the caller vouches that nobody writes.
        unsafe { std::slice::from_raw_parts(self.start.add(range.start), range.len()) }
    }

    /// # Safety
    /// Nobody else touches these elements while the slice lives, and the memory is not one that is only
    /// [read](Self::reading).
    ///
    /// # Panics
    /// When the range reaches beyond the memory.
    pub unsafe fn write(&self, range: Range<usize>) -> &'a mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?}");
        // SAFETY: the range was just checked; the caller vouches that the elements are its own.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}
