//! Memory that lies as the loops read it, and memory that threads share.

use std::marker::PhantomData;
use std::ops::Range;

use half::f16;
use half::slice::HalfFloatSliceExt;

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

    /// The bytes of rows, one behind the other.
    pub fn bytes(rows: &[Self]) -> &[u8] {
        // SAFETY: as above; numbers are four bytes each, any of which may be read.
        unsafe { std::slice::from_raw_parts(rows.as_ptr().cast(), size_of_val(rows)) }
    }

    /// Rows whose bytes these are; `None` where a row would not begin with a cache line.
    pub fn of_bytes(bytes: &[u8]) -> Option<&[Self]> {
        // SAFETY: a row is 32 numbers without gaps, which any bytes are.
        let (before, rows, behind) = unsafe { bytes.align_to() };
        (before.is_empty() && behind.is_empty()).then_some(rows)
    }
}

/// A [`Row`] in half the memory: one cache line.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(C, align(64))]
pub(super) struct HalfRow(pub [f16; WIDTH]);

impl HalfRow {
    pub const ZERO: Self = Self([f16::ZERO; WIDTH]);

    /// Rounds up to 32 elements into the first places; what is beyond the largest half becomes that.
    pub fn write(&mut self, values: &[f32]) {
        let largest = f16::MAX.to_f32_const();
        let mut within = [0.0; WIDTH];
        for (within, &value) in within.iter_mut().zip(values) {
            *within = if value.is_finite() {
                value.clamp(-largest, largest)
            } else {
                value
            };
        }
        self.0[..values.len()].convert_from_f32_slice(&within[..values.len()]);
    }

    /// What they stand for.
    pub fn read(&self, values: &mut [f32; WIDTH]) {
        self.0.convert_to_f32_slice(values);
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

    /// The first `len` places of a vector's room, which hold nothing yet: they are [put](Self::put) before anything else.
    ///
    /// # Panics
    /// When the vector has no room for as many.
    pub fn room(memory: &'a mut Vec<T>, len: usize) -> Self {
        assert!(len <= memory.capacity(), "room for {len}");
        Self {
            start: memory.as_mut_ptr(),
            len,
            lifetime: PhantomData,
        }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// Writes some elements, whatever was there before.
    ///
    /// # Safety
    /// As [`write`](Self::write).
    ///
    /// # Panics
    /// When they reach beyond the memory.
    #[inline(always)]
    pub unsafe fn put<const N: usize>(&self, at: usize, values: &[T; N], count: usize)
    where
        T: Copy,
    {
        let count = count.min(N);
        assert!(count <= self.len && at <= self.len - count, "{at} and {count} on");
        // SAFETY: the range was just checked; the caller vouches that the elements are its own.
        unsafe {
            let place = self.start.add(at);
            // A whole row of known length needs no call of a function that copies.
            match count == N {
                true => place.cast::<[T; N]>().write(*values),
                false => std::ptr::copy_nonoverlapping(values.as_ptr(), place, count),
            }
        }
    }

    /// Where an element lies, for a processor that is to fetch it.
    pub fn place(&self, at: usize) -> *const T {
        self.start.wrapping_add(at).cast_const()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_end_at_the_largest_and_keep_what_is_no_number() {
        let mut row = HalfRow::ZERO;
        row.write(&[
            1.0 + 2f32.powi(-11),
            1e9,
            -1e9,
            f32::NAN,
            f32::INFINITY,
            -0.0,
            2f32.powi(-24),
        ]);
        let mut read = [1.0; WIDTH];
        row.read(&mut read);
        // Of two the even one, as IEEE 754 has it.
        assert_eq!(read[..3], [1.0, 65504.0, -65504.0]);
        assert!(read[3].is_nan() && read[4] == f32::INFINITY);
        assert_eq!(
            (read[5].to_bits(), read[6]),
            ((-0.0f32).to_bits(), 2f32.powi(-24))
        );
        assert_eq!(read[7..], [0.0; WIDTH - 7]);
    }
}
