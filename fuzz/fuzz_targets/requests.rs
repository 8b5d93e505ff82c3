//! A request of `aligner serve`, of any kind, and an upstream's choices.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    aligner_serve::fuzzing::requests(bytes);
    aligner_serve::fuzzing::choices(bytes);
});
