//! The bytes of a weight: memory of its own, or a part of a mapped file.

use std::ops::Range;
use std::sync::Arc;

use crate::weights::MappedFile;

/// A cache line: vectors that lie across two of them take two reads.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; LINE]);

const LINE: usize = 64;

/// Bytes that are read only.
#[derive(Debug)]
pub(super) enum Memory {
    Owned(Lines),
    Mapped {
        file: Arc<MappedFile>,
        range: Range<usize>,
    },
}

impl Memory {
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Owned(lines) => lines.bytes(),
            Self::Mapped { file, range } => file.bytes().get(range.clone()).unwrap_or_default(),
        }
    }
}

/// Bytes that begin with a cache line.
#[derive(Debug)]
pub(super) struct Lines {
    memory: Vec<Line>,
    len: usize,
}

impl Lines {
    /// `len` zeros.
    pub fn zeros(len: usize) -> Self {
        Self {
            memory: vec![Line([0; LINE]); len.div_ceil(LINE)],
            len,
        }
    }

    pub fn bytes(&self) -> &[u8] {
        // SAFETY: lines are their bytes, one behind the other, and `len` of them are there.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr().cast(), self.len) }
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and the lines are borrowed for writing.
        unsafe { std::slice::from_raw_parts_mut(self.memory.as_mut_ptr().cast(), self.len) }
    }
}
