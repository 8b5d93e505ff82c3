//! A stream of server-sent events that is cut at the place which its first two bytes name: the events are those of the whole.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Some((cut, bytes)) = bytes.split_first_chunk::<2>() {
        aligner_serve::fuzzing::events(bytes, usize::from(u16::from_le_bytes(*cut)));
    }
});
