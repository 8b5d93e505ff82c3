//! Text of users in Markdown.

use std::fmt::{self, Write};

/// Text for one line of Markdown, also in a table: nothing in it is markup, and its own lines end with `<br>`.
///
/// It must stand behind something else on its line: what is only markup at the beginning of one is not looked for.
pub(super) struct Plain<'a>(pub &'a str);

impl fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.chars().peekable();
        let mut before = ' ';
        while let Some(c) = rest.next() {
            match c {
                '\r' if rest.peek() == Some(&'\n') => {}
                '\n' | '\r' | '\u{85}' | '\u{2028}' | '\u{2029}' => f.write_str("<br>")?,
                '\t' => f.write_char(' ')?,
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '\\' | '`' | '*' | '_' | '~' | '[' | ']' | '|' | '#' | '$' => write!(f, "\\{c}")?,
                // Addresses that renderers would make links of.
                ':' if rest.peek() == Some(&'/') => f.write_str("\\:")?,
                '.' if before.eq_ignore_ascii_case(&'w') => f.write_str("\\.")?,
                '@' => f.write_str("\\@")?,
                // As in the kit's `Escaped`: controls, and what turns the text around it.
                c if c.is_control() => f.write_char('\u{fffd}')?,
                '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => f.write_char('\u{fffd}')?,
                c => f.write_char(c)?,
            }
            before = c;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_text_is_markup() {
        for (text, expected) in [
            ("a | b", "a \\| b"),
            ("`code` *x* _y_ ~~z~~", "\\`code\\` \\*x\\* \\_y\\_ \\~\\~z\\~\\~"),
            ("![x](y) <img>", "!\\[x\\](y) &lt;img&gt;"),
            ("one\r\n\r\n# two\n- three", "one<br><br>\\# two<br>- three"),
            (
                "https://a.example www.b.example",
                "https\\://a.example www\\.b.example",
            ),
            ("\\| &amp;", "\\\\\\| &amp;amp;"),
            ("\u{202e}x\0", "\u{fffd}x\u{fffd}"),
            ("שלום, 世界 🦀", "שלום, 世界 🦀"),
        ] {
            assert_eq!(Plain(text).to_string(), expected);
        }
    }
}
