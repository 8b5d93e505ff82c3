//! A stream of server-sent events that is cut at the place which its first two bytes name: the events are those of the whole.
#![no_main]

use aligner_serve::SseParser;
use libfuzzer_sys::fuzz_target;

fn parse(pieces: &[&[u8]]) -> Vec<String> {
    let (mut parser, mut events) = (SseParser::default(), Vec::new());
    for piece in pieces {
        if parser.feed(piece, |event| events.push(event)).is_err() {
            break;
        }
    }
    events
}

fuzz_target!(|bytes: &[u8]| {
    let Some((cut, bytes)) = bytes.split_first_chunk::<2>() else {
        return;
    };
    let cut = usize::from(u16::from_le_bytes(*cut)).min(bytes.len());
    assert_eq!(parse(&[bytes]), parse(&[&bytes[..cut], &bytes[cut..]]));
});
