//! Server-sent events: a parser of what an upstream streams, and the frames that clients read.

use bytes::Bytes;
use serde_json::Value;

/// Bytes of one event at most: whoever sends more without an end sends no events.
const MOST_EVENT_BYTES: usize = 4 << 20;

/// A parser that is fed bytes as they come, cut anywhere, in the middle of a character too.
///
/// As the standard has it: lines end with LF, CRLF or CR, an empty line ends an event, lines of `data` are joined, comments and
/// other fields are left out, and an event that the end cuts off is none.
#[derive(Debug, Default)]
pub struct SseParser {
    line: Vec<u8>,
    data: Vec<u8>,
    has_data: bool,
    after_cr: bool,
}

/// An event was too large.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an event of more than {MOST_EVENT_BYTES} bytes")]
pub struct EventTooLarge;

impl SseParser {
    /// Takes bytes and gives each event's data to `each`; bytes that are no UTF-8 become replacement characters.
    ///
    /// # Errors
    /// When an event is too large.
    pub fn feed(&mut self, bytes: &[u8], mut each: impl FnMut(String)) -> Result<(), EventTooLarge> {
        for &byte in bytes {
            let is_second = std::mem::take(&mut self.after_cr) && byte == b'\n';
            match byte {
                b'\n' if is_second => {}
                b'\n' | b'\r' => {
                    self.after_cr = byte == b'\r';
                    if let Some(data) = self.end_line() {
                        each(data);
                    }
                }
                byte => self.line.push(byte),
            }
            if self.line.len() + self.data.len() > MOST_EVENT_BYTES {
                return Err(EventTooLarge);
            }
        }
        Ok(())
    }

    fn end_line(&mut self) -> Option<String> {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            let data = std::mem::take(&mut self.data);
            return std::mem::take(&mut self.has_data).then(|| String::from_utf8_lossy(&data).into_owned());
        }
        let value = match line.strip_prefix(b"data") {
            Some(b"") => Some(&b""[..]),
            Some(rest) => rest.strip_prefix(b":"),
            None => None,
        };
        if let Some(value) = value {
            if self.has_data {
                self.data.push(b'\n');
            }
            self.data.extend(value.strip_prefix(b" ").unwrap_or(value));
            self.has_data = true;
        }
        None
    }
}

/// A frame of a stream. JSON has no line ends of its own, so one line of data holds it.
pub fn frame(value: &Value) -> Bytes {
    format!("data: {value}\n\n").into()
}

/// The frame that ends a stream.
pub fn done() -> Bytes {
    Bytes::from_static(b"data: [DONE]\n\n")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(pieces: &[&[u8]]) -> Vec<String> {
        let (mut parser, mut events) = (SseParser::default(), Vec::new());
        for piece in pieces {
            parser.feed(piece, |event| events.push(event)).expect("small");
        }
        events
    }

    #[test]
    fn events_end_with_an_empty_line_however_lines_end() {
        let want = ["one".to_string(), "two\nlines".into(), "".into()];
        for end in ["\n", "\r\n", "\r"] {
            let text = ": comment|event: x|data: one||id: 3|data:two|data: lines|retry: 5||data||data: cut"
                .replace('|', end);
            assert_eq!(parse(&[text.as_bytes()]), want, "{end:?}");
        }
    }

    #[test]
    fn half_a_character_waits_for_the_other_half() {
        let bytes = "data: ü€🦀\n\n".as_bytes();
        for cut in 0..bytes.len() {
            assert_eq!(parse(&[&bytes[..cut], &bytes[cut..]]), ["ü€🦀"]);
        }
    }

    #[test]
    fn an_event_without_end_is_refused() {
        let mut parser = SseParser::default();
        let mebibyte = vec![b'a'; 1 << 20];
        let refused = (0..5).any(|_| parser.feed(&mebibyte, |_| ()).is_err());
        assert!(refused);
    }

    proptest! {
        #[test]
        fn where_bytes_are_cut_does_not_matter(
            bytes in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), Just(b':'), Just(b'd'), any::<u8>()], 0..200),
            cut in 0usize..200,
        ) {
            let cut = cut.min(bytes.len());
            prop_assert_eq!(parse(&[&bytes]), parse(&[&bytes[..cut], &bytes[cut..]]));
        }

        #[test]
        fn a_frame_is_read_as_it_was_written(text in "\\PC*|[\n\r\t\u{2028}]*") {
            let value = serde_json::json!({ "text": text });
            let events = parse(&[&frame(&value)]);
            prop_assert_eq!(events.len(), 1);
            prop_assert_eq!(serde_json::from_str::<Value>(&events[0]).expect("JSON"), value);
        }
    }
}
