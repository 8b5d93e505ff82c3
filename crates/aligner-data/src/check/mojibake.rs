//! UTF-8 that was read as Windows-1252: "cafÃ©" for "café", "donâ€™t" for "don’t".

/// Where in a text, in characters, such a sequence starts: letters that are the bytes of one UTF-8 character when written in
/// Windows-1252. Only first bytes are looked for whose letters hardly occur before such letters in real text: Â, Ã, â, ð and
/// ï; Ð and Ñ (Cyrillic) where two sequences follow each other.
pub(super) fn position(text: &str) -> Option<usize> {
    if text.is_ascii() {
        return None;
    }
    let letters: Vec<char> = text.chars().collect();
    (0..letters.len()).find(|&at| match letters[at] {
        'Ã' | 'Â' | 'â' | 'ð' | 'ï' => sequence(&letters[at..]).is_some(),
        'Ð' | 'Ñ' => sequence(&letters[at..])
            .and_then(|length| sequence(&letters[at + length..]))
            .is_some(),
        _ => false,
    })
}

/// The length of the sequence that starts here.
fn sequence(letters: &[char]) -> Option<usize> {
    let length = match byte(*letters.first()?)? {
        0xc2..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf4 => 4,
        _ => return None,
    };
    let bytes: Option<Vec<u8>> = letters.get(..length)?.iter().copied().map(byte).collect();
    std::str::from_utf8(&bytes?).ok().map(|_| length)
}

/// The byte of a letter in Windows-1252; of what that leaves undefined, the one in Latin-1.
fn byte(letter: char) -> Option<u8> {
    const FROM_0X80: [char; 32] = [
        '€', '\u{81}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{8d}', 'Ž', '\u{8f}',
        '\u{90}', '‘', '’', '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\u{9d}', 'ž', 'Ÿ',
    ];
    match FROM_0X80
        .iter()
        .zip(0x80_u8..)
        .find(|(known, _)| **known == letter)
    {
        Some((_, byte)) => Some(byte),
        None => u8::try_from(u32::from(letter)).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A text as it looks when its UTF-8 is read as Windows-1252.
    fn garbled(text: &str) -> String {
        let table: Vec<char> = (0..=u8::MAX)
            .map(|wanted| {
                let special = "€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ";
                let found = special.chars().find(|letter| byte(*letter) == Some(wanted));
                found.unwrap_or(char::from(wanted))
            })
            .collect();
        text.bytes().map(|byte| table[usize::from(byte)]).collect()
    }

    #[test]
    fn what_was_garbled_is_found() {
        assert_eq!(garbled("don’t"), "donâ€™t");
        for text in [
            "café",
            "don’t",
            "“so”",
            "10 °C",
            "😀",
            "привет",
            "naïve",
            "\u{a0}x",
        ] {
            assert!(position(&garbled(text)).is_some(), "{text}: {}", garbled(text));
        }
        assert_eq!(position(&garbled("caf’ é")), Some(3));
    }

    #[test]
    fn what_was_not_is_not() {
        for text in [
            "café “naïve” don’t 10 °C 😀 привет",
            "NÃO É VERDADE",
            "BEAUTÉ\u{a0}!",
            "Âge, île, pâté, ïambe",
            "Ñandú Ñ\u{a0}y",
            "Îles «\u{a0}À\u{a0}»",
            "mâchoire â",
        ] {
            assert_eq!(position(text), None, "{text}");
        }
    }
}
