//! Texts in messages.

/// Characters of a text that a message shows.
const SHOWN: usize = 60;

/// The beginning of a text.
pub(crate) fn shortened(text: &str) -> String {
    let text = text.trim();
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let long = "ü".repeat(SHOWN + 1);
        assert_eq!(shortened(&long), format!("{}…", "ü".repeat(SHOWN)));
        assert_eq!(shortened(&format!(" {} ", "ü".repeat(SHOWN))), "ü".repeat(SHOWN));
    }
}
