//! A prompt template, and what it makes of texts with braces.
#![no_main]

use aligner_data::PromptTemplate;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(template) = PromptTemplate::custom("fuzz", text) {
        let prompt = template.render("{answer}", "}{", &[]);
        assert!(prompt.contains("{answer}") && prompt.contains("}{"));
    }
});
