//! Numbers in memory or in a file, read where they lie: one mapping.

use std::fs::File;
use std::io::{Error, ErrorKind, Read, Result};
use std::path::Path;

use memmap2::{Advice, Mmap};

/// What is read at a time when a file is passed over: five megabytes in all, and a whole number of rows.
const BLOCK_ROWS: usize = 1 << 18;

/// 32-bit numbers in the machine's own byte order.
///
/// The pages of a mapping are the kernel's copy of the file: they can be dropped at any time and do not add to what the
/// process allocates.
#[derive(Debug)]
pub(super) enum Words {
    Owned(Vec<u32>),
    Mapped(Mmap),
}

impl Default for Words {
    fn default() -> Self {
        Self::Owned(Vec::new())
    }
}

impl Words {
    /// Maps a file that holds exactly `count` numbers.
    pub fn map(path: &Path, count: u64) -> Result<Self> {
        let metadata = std::fs::metadata(path)?;
        if !metadata.is_file() || Some(metadata.len()) != count.checked_mul(4) {
            let reason = format!("{} bytes instead of {count} numbers", metadata.len());
            return Err(Error::new(ErrorKind::InvalidData, reason));
        }
        // SAFETY: The mapping is read-only and private to this type, and only numbers are read from it, of which every
        // pattern of bits is valid. That nobody changes the file meanwhile is a demand on the system: entries of the cache
        // are written beside their place, renamed, and never changed again. Should somebody do it all the same, numbers
        // are wrong, which the checksum of each row tells, or the file is cut and SIGBUS ends the process; nothing that
        // was checked is trusted again after a second look (a row's checksum is taken of the very slice that is given
        // out, and positions are bounds-checked whatever they are).
        let map = unsafe { Mmap::map(&File::open(path)?) }?;
        // Rows are taken in a random order: reading ahead would bring in pages that nobody asked for.
        #[cfg(unix)]
        if let Err(error) = map.advise(Advice::Random) {
            tracing::debug!(path = %path.display(), %error, "no advice taken");
        }
        Ok(Self::Mapped(map))
    }

    /// All of them.
    pub fn get(&self) -> &[u32] {
        match self {
            Self::Owned(words) => words,
            // A mapping starts on a page, and its length was checked.
            Self::Mapped(map) => bytemuck::try_cast_slice(map).unwrap_or(&[]),
        }
    }
}

/// Passes over a file of numbers in blocks, in constant memory and without a mapping.
pub(super) fn each_block(path: &Path, mut take: impl FnMut(&[u32])) -> Result<()> {
    let mut file = File::open(path)?;
    let mut block = vec![0u32; BLOCK_ROWS * super::row::WORDS];
    loop {
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut block);
        let mut filled = 0;
        while filled < bytes.len() {
            match file.read(&mut bytes[filled..]) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if filled % 4 != 0 {
            return Err(Error::new(ErrorKind::InvalidData, "it ends inside a number"));
        }
        take(&block[..filled / 4]);
        if filled < block.len() * 4 {
            return Ok(());
        }
    }
}
