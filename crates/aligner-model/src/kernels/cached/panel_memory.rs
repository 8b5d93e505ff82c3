//! Memory for panels.

use std::ops::Range;
use std::sync::Arc;

use memmap2::{MmapMut, MmapOptions};

use super::memory::Row;
use crate::kernels::panels::WIDTH;
use crate::weights::MappedFile;

/// Memory for the panels of one weight or of all weights of a model, zero until it is written.
#[derive(Debug)]
pub(crate) enum PanelMemory {
    /// Memory of the system, in large pages where there are some; the last page may be longer than what is needed.
    Mapped(MmapMut),
    /// An allocation.
    Allocated(Vec<Row>),
    /// Part of a file, which is there already.
    File {
        file: Arc<MappedFile>,
        range: Range<usize>,
    },
}

impl PanelMemory {
    /// An allocation, for one weight.
    pub fn allocate(rows: usize) -> Self {
        Self::Allocated(vec![Row([0.0; WIDTH]); rows])
    }

    /// One stretch of memory, for all weights of a model; `None` where there is not so much.
    ///
    /// The system clears it by megabytes instead of by thousands of pages, so a model is there sooner, and reading it misses
    /// fewer translations of addresses.
    pub fn map(rows: usize) -> Option<Self> {
        let bytes = rows.checked_mul(size_of::<Row>())?;
        // No system maps nothing.
        let map = (bytes > 0).then(|| MmapOptions::new().len(bytes).map_anon());
        let Some(Ok(map)) = map else {
            let mut allocated = Vec::new();
            allocated.try_reserve_exact(rows).ok()?;
            allocated.resize(rows, Row([0.0; WIDTH]));
            return Some(Self::Allocated(allocated));
        };
        #[cfg(target_os = "linux")]
        if let Err(error) = map.advise(memmap2::Advice::HugePage) {
            tracing::debug!(%error, "the weights lie in small pages");
        }
        Some(Self::Mapped(map))
    }

    pub fn rows(&self) -> &[Row] {
        match self {
            // SAFETY: a row is 32 numbers without gaps, which any bytes are.
            Self::Mapped(map) => unsafe { map.align_to().1 },
            Self::Allocated(rows) => rows,
            Self::File { file, range } => {
                let bytes = file.bytes().get(range.clone());
                bytes.and_then(Row::of_bytes).unwrap_or_default()
            }
        }
    }

    /// None where they are a file's.
    pub fn rows_mut(&mut self) -> &mut [Row] {
        match self {
            // SAFETY: as above.
            Self::Mapped(map) => unsafe { map.align_to_mut().1 },
            Self::Allocated(rows) => rows,
            Self::File { .. } => &mut [],
        }
    }
}
