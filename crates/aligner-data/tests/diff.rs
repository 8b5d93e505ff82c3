//! Properties of the word diff on many pairs of texts.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use aligner_data::{Edit, EditOp, diff, edit_ratio};

const WORDS: [&str; 14] = [
    "the",
    "sun",
    "is",
    "not",
    "a",
    "star.",
    "Grüße,",
    "世界",
    "🦀",
    "e\u{301}t\u{e9}",
    "\u{200b}",
    "don't",
    "--",
    "7",
];
/// MurmurHash3's finaliser, here only to spread bits.
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 33))
        .wrapping_add(1)
        .wrapping_mul(0xff51_afd7_ed55_8ccd);
    x = (x ^ (x >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ (x >> 33)
}

const SPACES: [&str; 7] = [" ", " ", "  ", "\n", "\r\n", "\t ", "\u{a0}"];

/// Words and spaces from a number; some texts start or end with a space, some have none at all.
fn text(seed: u64) -> String {
    let words = mix(seed) % 9;
    let mut text = String::new();
    for index in 0..words {
        let random = mix(seed ^ (index + 1) << 20);
        if index > 0 || random.is_multiple_of(5) {
            text.push_str(SPACES[(random >> 8) as usize % SPACES.len()]);
        }
        text.push_str(WORDS[(random >> 32) as usize % WORDS.len()]);
    }
    text
}

fn pairs() -> impl Iterator<Item = (String, String)> {
    (0..3000).map(|seed| (text(seed), text(mix(seed + 7))))
}

fn without(edits: &[Edit], op: EditOp) -> String {
    edits
        .iter()
        .filter(|edit| edit.op != op)
        .map(|edit| edit.text.as_str())
        .collect()
}

#[test]
fn nothing_is_lost_whatever_the_texts() {
    for (answer, correction) in pairs() {
        let edits = diff(&answer, &correction);
        assert_eq!(without(&edits, EditOp::Insert), answer);
        assert_eq!(without(&edits, EditOp::Delete), correction);
    }
}

#[test]
fn no_edit_is_empty_and_no_two_neighbours_are_of_one_kind() {
    for (answer, correction) in pairs() {
        let edits = diff(&answer, &correction);
        assert!(edits.iter().all(|edit| !edit.text.is_empty()));
        assert!(edits.windows(2).all(|pair| pair[0].op != pair[1].op), "{edits:?}");
    }
}

#[test]
fn the_ratio_counts_the_words_of_both_texts() {
    for (answer, correction) in pairs() {
        let edits = diff(&answer, &correction);
        let words = |text: &str| text.split_whitespace().count() as f64;
        let kept: f64 = edits
            .iter()
            .filter(|edit| edit.op == EditOp::Keep)
            .map(|edit| words(&edit.text))
            .sum();
        let all = words(&answer) + words(&correction);
        let expected = if all == 0.0 { 0.0 } else { 1.0 - 2.0 * kept / all };
        assert!(
            (edit_ratio(&edits) - expected).abs() < 1e-12,
            "{answer:?} {correction:?}"
        );
    }
}

#[test]
fn a_text_against_itself_is_kept_whole() {
    for (text, _) in pairs() {
        let edits = diff(&text, &text);
        assert!(edits.len() <= 1 && edits.iter().all(|edit| edit.op == EditOp::Keep));
        assert_eq!(edit_ratio(&edits), 0.0);
    }
}

#[test]
fn edits_are_stable_json() {
    let json = serde_json::to_string(&diff("it is raining", "it was raining")).unwrap();
    let expected = r#"[{"op":"keep","text":"it "},{"op":"delete","text":"is"},{"op":"insert","text":"was"},{"op":"keep","text":" raining"}]"#;
    assert_eq!(json, expected);
    assert_eq!(
        serde_json::from_str::<Vec<Edit>>(&json).unwrap(),
        diff("it is raining", "it was raining")
    );
}
