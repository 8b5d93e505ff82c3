//! The allocator of the command: mimalloc, and for a training run's large blocks glibc where there is glibc.
//!
//! A step takes and gives back hundreds of blocks of a few megabytes. The default of either allocator gives such memory back
//! to the system, and every tensor of the next step pays for it again in page faults: both are told to keep it. Kept, it has
//! to serve blocks of other sizes, as activations become gradients. mimalloc reserves stretches of 32 MiB for blocks of
//! similar size, so that hardly any of it does (a fifth of the peak was such gaps); glibc takes the smallest free block that
//! is large enough and joins neighbours. Small blocks stay with mimalloc, whose threads do not wait for each other, and do not
//! lie between the large ones.

use std::alloc::{GlobalAlloc, Layout};

use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

/// `mi_option_purge_delay` of mimalloc 2 and 3, which libmimalloc-sys has no name for.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

/// Keeps freed memory for as long as the process lives: a training step needs what the last one gave back.
///
/// By default mimalloc returns memory that was not used for a tenth of a second, and a step takes seconds.
pub fn keep_freed_memory() {
    // SAFETY: sets a number in mimalloc's table of options; any thread may do so at any time.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, -1) };
    large::take_over();
}

struct Allocator;

// SAFETY: every call is handed on to one of two allocators; a block goes back to the one that it came from, as `large::owns`
// tells, and neither sees another layout than the caller's.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are those of both allocators.
        unsafe {
            if large::takes(layout) {
                large::SYSTEM.alloc(layout)
            } else {
                MiMalloc.alloc(layout)
            }
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        unsafe {
            if large::takes(layout) {
                large::SYSTEM.alloc_zeroed(layout)
            } else {
                MiMalloc.alloc_zeroed(layout)
            }
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the block came from the allocator that it goes to.
        unsafe {
            if large::owns(block, layout) {
                large::SYSTEM.dealloc(block, layout);
            } else {
                MiMalloc.dealloc(block, layout);
            }
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller vouches that `new_size`, rounded up to the alignment, is a valid size.
        let new_layout = unsafe { Layout::from_size_align_unchecked(new_size, layout.align()) };
        if !large::takes(layout) && !large::takes(new_layout) {
            // SAFETY: a small block is mimalloc's and stays there.
            return unsafe { MiMalloc.realloc(block, layout, new_size) };
        }
        // SAFETY: the new block does not overlap the old one, and both hold what is copied.
        unsafe {
            let new_block = self.alloc(new_layout);
            if !new_block.is_null() {
                std::ptr::copy_nonoverlapping(block, new_block, layout.size().min(new_size));
                self.dealloc(block, layout);
            }
            new_block
        }
    }
}

/// Large blocks, where there is glibc.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod large {
    use std::alloc::{Layout, System};
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

    pub static SYSTEM: System = System;

    /// The smallest large block.
    const BYTES: usize = 1 << 16;

    static TAKES_LARGE: AtomicBool = AtomicBool::new(false);

    /// Whether a new block of this layout is one of glibc's.
    pub fn takes(layout: Layout) -> bool {
        layout.size() >= BYTES && TAKES_LARGE.load(Relaxed)
    }

    /// Whether a block is one of glibc's: a large one that was made since it takes them, and not before by mimalloc.
    pub fn owns(block: *mut u8, layout: Layout) -> bool {
        // SAFETY: looks an address up in a table; any address may be asked for.
        takes(layout) && !unsafe { libmimalloc_sys::mi_is_in_heap_region(block.cast()) }
    }

    /// From now on large blocks are glibc's, which keeps what is freed, in one heap for all threads.
    pub fn take_over() {
        let settings = [
            // No mappings of their own, which would go back to the system with the block.
            (libc::M_MMAP_MAX, 0),
            (libc::M_TRIM_THRESHOLD, i32::MAX),
            (libc::M_ARENA_MAX, 1),
        ];
        for (setting, value) in settings {
            // SAFETY: sets a number among glibc's settings, which takes its own lock.
            unsafe { libc::mallopt(setting, value) };
        }
        TAKES_LARGE.store(true, Relaxed);
    }
}

/// Elsewhere every block is mimalloc's.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
mod large {
    use std::alloc::Layout;

    pub static SYSTEM: mimalloc::MiMalloc = mimalloc::MiMalloc;

    pub fn takes(_: Layout) -> bool {
        false
    }

    pub fn owns(_: *mut u8, _: Layout) -> bool {
        false
    }

    pub fn take_over() {}
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Blocks of all sizes before and after glibc takes the large ones, grown and shrunk across the limit, keep their bytes.
    #[test]
    fn blocks_keep_what_is_written_whoever_made_them() {
        let sizes = [1usize, 100, 1 << 15, 1 << 16, 3 << 20];
        let blocks = || -> Vec<Vec<u8>> {
            let filled = |(index, &size): (usize, &usize)| vec![index as u8 + 1; size];
            sizes.iter().enumerate().map(filled).collect()
        };
        let before = blocks();
        keep_freed_memory();
        for mut made in [before, blocks()] {
            for (index, block) in made.iter_mut().enumerate() {
                let (size, value) = (sizes[index], index as u8 + 1);
                block.resize(size * 3, 7);
                assert!(block[..size].iter().all(|&byte| byte == value), "{size} grown");
                assert!(block[size..].iter().all(|&byte| byte == 7), "{size} grown");
                block.truncate(size / 2 + 1);
                block.shrink_to_fit();
                assert!(block.iter().all(|&byte| byte == value), "{size} shrunk");
            }
        }
        assert!(vec![0u8; 1 << 20].iter().all(|&byte| byte == 0));
        let other = std::thread::spawn(|| vec![3u8; 1 << 20]).join().unwrap();
        assert!(other.iter().all(|&byte| byte == 3));
    }
}
