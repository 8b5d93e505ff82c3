//! The allocator of the command.

/// glibc gives freed memory back to the system, and every tensor of the next step pays for it again in page faults;
/// mimalloc keeps it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_purge_delay` of mimalloc 2 and 3, which libmimalloc-sys has no name for.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

/// Keeps freed memory for as long as the process lives: a training step needs what the last one gave back.
///
/// By default mimalloc returns memory that was not used for a tenth of a second, and a step takes seconds.
pub fn keep_freed_memory() {
    // SAFETY: sets a number in mimalloc's table of options; any thread may do so at any time.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, -1) };
}
