//! The fuzz targets' parsers over mutations of their seeds: what a coverage-guided run finds in minutes is not looked for here, but
//! every test run tries some thousand broken requests and streams. `ALIGNER_TEST_LONG=1` tries for a minute each.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails where it breaks, and says what it did"
)]

use std::path::Path;
use std::time::{Duration, Instant};

use aligner_data::Random;
use aligner_serve::fuzzing;

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../fuzz/seeds")
        .join(target);
    let mut paths: Vec<_> = std::fs::read_dir(dir)
        .expect("the seeds")
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    assert!(!paths.is_empty());
    paths
        .into_iter()
        .map(|path| std::fs::read(path).unwrap())
        .collect()
}

/// Texts that parsers stumble over.
const WORDS: [&[u8]; 16] = [
    b"null",
    b"-1",
    b"1e999",
    b"18446744073709551616",
    b"\"\\ud800\"",
    b"[[[[[[[[",
    b"{}",
    b"\r\n\r\n",
    b"data:",
    b"data: [DONE]\n\n",
    b":",
    b"\xef\xbb\xbf",
    b"\xc3",
    b"\0",
    b"\"messages\":",
    b"\"stop\":[1,null,\"\"]",
];

fn mutated(random: &mut Random, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = seeds[random.index(seeds.len())].clone();
    for _ in 0..=random.index(4) {
        let at = random.index(bytes.len() + 1);
        let end = (at + random.index(24)).min(bytes.len());
        match random.index(6) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            1 => drop(bytes.drain(at..end)),
            2 => drop(bytes.splice(at..at, WORDS[random.index(WORDS.len())].iter().copied())),
            3 => drop(bytes.splice(at..end, WORDS[random.index(WORDS.len())].iter().copied())),
            4 => {
                let other = &seeds[random.index(seeds.len())];
                let from = random.index(other.len());
                bytes.splice(at.., other[from..].iter().copied());
            }
            _ => {
                let again = bytes[at..end].repeat(1 + random.index(40));
                bytes.splice(at..at, again);
            }
        }
    }
    bytes
}

/// Tries mutations, some thousand of them or for a minute; says how many.
fn try_mutations(target: &str, check: impl Fn(&[u8], &mut Random)) {
    let (seeds, mut random) = (seeds(target), Random(7));
    let is_long = std::env::var_os("ALIGNER_TEST_LONG").is_some();
    let (started, mut tried) = (Instant::now(), 0u64);
    let goes_on = |tried| match is_long {
        true => started.elapsed() < Duration::from_secs(60),
        false => tried < 20_000,
    };
    while goes_on(tried) {
        let bytes = mutated(&mut random, &seeds);
        check(&bytes, &mut random);
        tried += 1;
    }
    println!("{target}: {tried} mutations in {:?}", started.elapsed());
}

#[test]
fn broken_requests_and_choices_are_refused_and_not_met_with_a_panic() {
    try_mutations("requests", |bytes, _| {
        fuzzing::requests(bytes);
        fuzzing::choices(bytes);
    });
}

#[test]
fn events_of_a_broken_stream_do_not_depend_on_how_it_is_cut() {
    try_mutations("sse", |bytes, random| {
        fuzzing::events(bytes, random.index(bytes.len() + 1));
    });
}
