//! Which rows are for validation.

use sha2::{Digest, Sha256};

/// Whether a question is for validation: by its hash, so that the same question, in any case and spacing and whatever was said
/// before it, is always on one side, and stays there when rows come or go.
pub(super) fn is_valid(question: &str, share: f64, seed: u64) -> bool {
    if share <= 0.0 {
        return false;
    }
    let mut hash = Sha256::new();
    hash.update(seed.to_le_bytes());
    for word in question.to_lowercase().split_whitespace() {
        hash.update(word);
        hash.update(b" ");
    }
    let start = hash
        .finalize()
        .iter()
        .take(8)
        .fold(0_u64, |start, byte| start << 8 | u64::from(*byte));
    // 53 bits: exact as f64.
    ((start >> 11) as f64) < share * (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_is_kept_and_the_seed_matters() {
        let questions: Vec<String> = (0..10_000).map(|at| format!("Question {at}?")).collect();
        let side = |seed| -> Vec<bool> {
            questions
                .iter()
                .map(|question| is_valid(question, 0.1, seed))
                .collect()
        };
        let count = side(1).iter().filter(|valid| **valid).count();
        // Four standard deviations of 30.
        assert!((880..=1120).contains(&count), "{count}");
        assert_ne!(side(1), side(2));
        assert!(!is_valid("Question?", 0.0, 1));
        for seed in 0..50 {
            assert_eq!(
                is_valid("Who  ASKS?\n", 0.5, seed),
                is_valid("who asks?", 0.5, seed)
            );
        }
    }
}
