//! An output whose parts do not lie one behind the other.

/// An output of which several threads write disjoint parts.
pub(super) struct Output<T>(*mut T);

impl<T> Clone for Output<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Output<T> {}

// SAFETY: every element is written by one job only, and read by none until all have ended.
unsafe impl<T: Send> Send for Output<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Output<T> {}

impl<T> Output<T> {
    pub fn new(all: &mut [T]) -> Self {
        Self(all.as_mut_ptr())
    }

    /// Where an element lies.
    pub fn at(self, index: usize) -> *mut T {
        self.0.wrapping_add(index)
    }

    /// Elements from `at` on; a method, so that closures capture the whole, which is `Send`.
    ///
    /// # Safety
    /// They lie inside the output, which outlives `'a`, and nobody else touches them meanwhile.
    pub unsafe fn part<'a>(self, at: usize, len: usize) -> &'a mut [T] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.at(at), len) }
    }
}
