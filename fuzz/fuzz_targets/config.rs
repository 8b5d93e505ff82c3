//! A config.json.
#![no_main]

use std::path::Path;

use aligner_model::ModelConfig;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(config) = ModelConfig::parse(Path::new("config.json"), bytes) {
        assert!(config.parameters() > 0);
        for rope in [Some(&config.rope), config.local_rope.as_ref()]
            .into_iter()
            .flatten()
        {
            for positions in [1, config.max_positions] {
                assert_eq!(rope.inverse_frequencies(positions).len(), rope.rotary_dim / 2);
            }
        }
    }
});
