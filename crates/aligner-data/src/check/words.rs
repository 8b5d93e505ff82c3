//! Texts as the checks compare them: as words, without case, punctuation and spacing.

use std::hash::{DefaultHasher, Hash, Hasher};

/// The words of a text: runs of letters and digits in lower case; where a script writes no spaces (Chinese, Japanese,
/// Thai), each letter.
///
/// ```
/// assert_eq!(aligner_data::words("Don't STOP!"), ["don", "t", "stop"]);
/// ```
pub fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    for letter in text.chars() {
        if letter.is_ascii_alphanumeric() {
            // Most text is this, and needs no tables.
            word.push(letter.to_ascii_lowercase());
            continue;
        }
        let alone = stands_alone(letter);
        if (alone || !letter.is_alphanumeric()) && !word.is_empty() {
            words.push(std::mem::take(&mut word));
        }
        if letter.is_alphanumeric() {
            word.extend(letter.to_lowercase());
        }
        if alone {
            words.push(std::mem::take(&mut word));
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

/// Whether a letter is of a script that puts no spaces between words.
fn stands_alone(letter: char) -> bool {
    letter.is_alphanumeric()
        && matches!(letter, '\u{e00}'..='\u{eff}' | '\u{3040}'..='\u{30ff}' | '\u{3400}'..='\u{9fff}'
            | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3ffff}')
}

/// The hash of each word.
pub(super) fn word_hashes(words: &[String]) -> Vec<u64> {
    words.iter().map(|word| hash_bytes(word.as_bytes())).collect()
}

/// FNV-1a, mixed: the same on every machine and in every version.
pub(super) fn hash_bytes(bytes: &[u8]) -> u64 {
    let fold = |hash: u64, &byte: &u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    mix(bytes.iter().fold(0xcbf2_9ce4_8422_2325, fold))
}

/// The hash of a sequence of hashes, in their order.
pub(super) fn hash_sequence(hashes: &[u64]) -> u64 {
    let fold = |hash: u64, &next: &u64| mix(hash.rotate_left(5) ^ next);
    hashes.iter().fold(hashes.len() as u64, fold)
}

/// The finaliser of SplitMix64.
pub(super) fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// The hash of exact texts.
pub(super) fn hash_exact(value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// A text in lower case with single blanks; punctuation stays.
pub(super) fn folded(text: &str) -> String {
    let lower = text.to_lowercase();
    lower.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_know_no_case_no_punctuation_and_no_spacing() {
        assert_eq!(
            words(" Don’t STOP,\n42 times!"),
            ["don", "t", "stop", "42", "times"]
        );
        assert_eq!(words("don't stop 42 times"), words(" Don’t STOP,\n42 times!"));
        assert_eq!(words("日本 is 2 letters"), ["日", "本", "is", "2", "letters"]);
        assert!(words("?! …").is_empty());
    }

    #[test]
    fn a_sequence_is_not_its_reverse_nor_its_beginning() {
        let hash = |text: &str| hash_sequence(&word_hashes(&words(text)));
        assert_ne!(hash("a b"), hash("b a"));
        assert_ne!(hash("a b"), hash("a"));
        assert_eq!(hash("A, b!"), hash("a b"));
    }

    #[test]
    fn folding_keeps_punctuation() {
        assert_eq!(folded(" Yes,\n\tIt  IS. "), "yes, it is.");
    }
}
