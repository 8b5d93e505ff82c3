//! Rows in memory and in the cache: the same rows, whatever happens to the files.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod left_out;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use aligner_data::synthetic::{CorrectionTask, train_tokenizer};
use aligner_data::{
    ChatFormat, Cursor, DataError, Dataset, Encoder, LoadOptions, OnBadRow, PromptTemplate, Target,
    TokenCache, Tokenizer,
};
use sha2::{Digest, Sha256};

/// Rows in files, a tokenizer, and a cache of its own.
struct Lab {
    dir: PathBuf,
    encoder: Encoder,
    _owner: Option<tempfile::TempDir>,
}

impl Lab {
    fn new() -> Self {
        let owner = tempfile::tempdir().unwrap();
        let rows = CorrectionTask::new(3).train(300);
        train_tokenizer(
            &rows,
            &PromptTemplate::default(),
            400,
            &owner.path().join("tokenizer"),
        )
        .unwrap();
        let lab = Self::at(owner.path());
        Self {
            _owner: Some(owner),
            ..lab
        }
    }

    /// A laboratory that another process made.
    fn at(dir: &Path) -> Self {
        let tokenizer = Tokenizer::from_dir(&dir.join("tokenizer")).unwrap();
        Self {
            dir: dir.to_path_buf(),
            encoder: Encoder::new(tokenizer, PromptTemplate::default(), 512),
            _owner: None,
        }
    }

    fn rows(&self, name: &str, seed: u64, count: usize) -> PathBuf {
        let lines: Vec<String> = CorrectionTask::new(seed)
            .train(count)
            .iter()
            .map(|row| serde_json::to_string(&row.raw).unwrap())
            .collect();
        let path = self.dir.join(name);
        std::fs::write(&path, lines.join("\n")).unwrap();
        path
    }

    fn cache(&self) -> PathBuf {
        self.dir.join("cache")
    }

    /// Everything goes to the cache.
    fn cached(&self) -> LoadOptions {
        LoadOptions {
            cache: TokenCache {
                dir: Some(self.cache()),
                in_memory_bytes: 0,
                ..TokenCache::default()
            },
            ..LoadOptions::default()
        }
    }

    fn entries(&self) -> BTreeSet<String> {
        let listing = std::fs::read_dir(self.cache()).into_iter().flatten();
        listing
            .map(|found| found.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    fn load(&self, files: &[PathBuf], options: &LoadOptions) -> Dataset {
        Dataset::load(files, &self.encoder, options).unwrap()
    }

    /// The one entry of the cache.
    fn entry(&self) -> PathBuf {
        let entries = self.entries();
        assert_eq!(entries.len(), 1, "{entries:?}");
        self.cache().join(entries.first().unwrap())
    }
}

fn all(rows: &Dataset) -> Vec<(Vec<u32>, usize)> {
    (0..rows.len())
        .map(|row| rows.example(row).unwrap())
        .map(|example| (example.ids.to_vec(), example.prompt_len))
        .collect()
}

/// How the fingerprint was computed when all rows lay in memory: runs of that time are resumed.
fn first_fingerprint(rows: &[(Vec<u32>, usize)]) -> String {
    let mut hash = Sha256::new();
    for (ids, prompt_len) in rows {
        hash.update((*prompt_len as u32).to_le_bytes());
        hash.update((ids.len() as u32).to_le_bytes());
    }
    for id in rows.iter().flat_map(|(ids, _)| ids) {
        hash.update(id.to_le_bytes());
    }
    hash.finalize()
        .iter()
        .fold("sha256:".into(), |text, byte| text + &format!("{byte:02x}"))
}

#[test]
fn rows_in_memory_in_the_cache_and_from_the_cache_are_the_same() {
    let lab = Lab::new();
    let files = [lab.rows("a.jsonl", 1, 3000), lab.rows("b.jsonl", 2, 50)];
    let in_memory = lab.load(&files, &LoadOptions::default());
    assert_eq!(lab.entries().len(), 0, "few rows leave nothing behind");
    let written = lab.load(&files, &lab.cached());
    assert_eq!(lab.entries().len(), 1);
    // Begun in memory, then found to be too many.
    let spilled = LoadOptions {
        cache: TokenCache {
            in_memory_bytes: 300_000,
            ..TokenCache::default()
        },
        ..LoadOptions::default()
    };
    let spilled = lab.load(&files, &spilled);
    let read = lab.load(&files, &lab.cached());
    let want = all(&in_memory);
    assert_eq!(want.len(), 3050);
    for rows in [&in_memory, &written, &spilled, &read] {
        assert_eq!(all(rows), want);
        assert_eq!(rows.fingerprint(), first_fingerprint(&want));
        assert_eq!(
            rows.tokens(),
            want.iter().map(|(ids, _)| ids.len()).sum::<usize>()
        );
        let targets = want.iter().map(|(ids, prompt)| ids.len() - prompt);
        assert_eq!(rows.target_tokens(), targets.sum::<usize>());
        assert_eq!(
            Some(rows.largest_id()),
            want.iter().flat_map(|(ids, _)| ids).max().copied()
        );
        let sources: Vec<_> = rows.sources().collect();
        assert_eq!(sources, [(files[0].as_path(), 3000), (files[1].as_path(), 50)]);
        assert!(rows.example(3050).unwrap().ids.is_empty());
        assert!(rows.example(usize::MAX).unwrap().ids.is_empty());
    }
}

#[test]
fn an_entry_is_found_by_what_decides_the_tokens_and_by_nothing_else() {
    let lab = Lab::new();
    let file = lab.rows("a.jsonl", 1, 40);
    let moved = lab.dir.join("elsewhere.jsonl");
    let options = lab.cached();
    let load = |file: &Path, encoder: &Encoder, options: &LoadOptions| {
        Dataset::load(&[file.to_path_buf()], encoder, options).unwrap();
        lab.entries().len()
    };
    assert_eq!(load(&file, &lab.encoder, &options), 1);
    std::fs::copy(&file, &moved).unwrap();
    assert_eq!(
        load(&moved, &lab.encoder, &options),
        1,
        "the same content lies elsewhere"
    );
    let unchanged = lab.encoder.clone().with_target(Target::AnswerUnchanged);
    assert_eq!(load(&file, &unchanged, &options), 2);
    let skipping = LoadOptions {
        on_long_row: OnBadRow::Skip,
        ..options.clone()
    };
    assert_eq!(load(&file, &lab.encoder, &skipping), 3);
    let template = PromptTemplate::builtin("edit").unwrap();
    let edit = Encoder::new(lab.encoder.tokenizer().clone(), template, 512);
    assert_eq!(load(&file, &edit, &options), 4);
    let longer = Encoder::new(lab.encoder.tokenizer().clone(), PromptTemplate::default(), 513);
    assert_eq!(load(&file, &longer, &options), 5);
    let mut text = std::fs::read_to_string(&file).unwrap();
    text.push('\n');
    std::fs::write(&file, text).unwrap();
    assert_eq!(load(&file, &lab.encoder, &options), 6);
}

#[test]
fn rows_left_out_are_remembered_with_their_place() {
    let lab = Lab::new();
    let file = lab.rows("a.jsonl", 1, 30);
    let mut text = std::fs::read_to_string(&file).unwrap();
    text.push_str("\n{\"question\": \"q\"}\n");
    std::fs::write(&file, &text).unwrap();
    let mut options = lab.cached();
    options.read.on_bad_row = OnBadRow::Skip;
    options.on_long_row = OnBadRow::Skip;
    let tokenizer = lab.encoder.tokenizer().clone();
    let encoder = Encoder::new(tokenizer, PromptTemplate::default(), 90);
    let load = |file: &Path| Dataset::load(&[file.to_path_buf()], &encoder, &options).unwrap();
    let first = load(&file);
    assert!(first.skipped().count() > 1, "a row is bad and some are long");
    assert_eq!(first.len() + first.skipped().count() as usize, 31);
    assert_eq!(load(&file).skipped(), first.skipped());
    let moved = lab.dir.join("moved.jsonl");
    std::fs::rename(&file, &moved).unwrap();
    let again = load(&moved);
    assert_eq!(again.skipped().count(), first.skipped().count());
    assert!(again.skipped().first().iter().all(|row| row.path == moved));
}

#[test]
fn every_damaged_byte_is_rebuilt_or_named() {
    let lab = Lab::new();
    let files = [lab.rows("a.jsonl", 1, 24)];
    let options = lab.cached();
    let want = all(&lab.load(&files, &options));
    let place = lab.entry();
    for (name, every) in [("index", 1), ("rows", 1), ("tokens", 41)] {
        let path = place.join(name);
        let good = std::fs::read(&path).unwrap();
        for at in (0..good.len()).step_by(every) {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            std::fs::write(&path, bad).unwrap();
            let rows = lab.load(&files, &options);
            let read: Result<Vec<_>, DataError> = (0..rows.len()).map(|row| rows.example(row)).collect();
            match read {
                Ok(_) => assert_eq!(all(&rows), want, "{name}, byte {at}"),
                Err(error) => {
                    assert_eq!(name, "tokens", "byte {at}: {error}");
                    assert!(error.to_string().contains("tokenises the rows anew"), "{error}");
                }
            }
            drop(rows);
            let again = lab.load(&files, &options);
            assert_eq!(all(&again), want, "{name}, byte {at}, the run after");
            assert_eq!(std::fs::read(&path).unwrap(), good, "{name}, byte {at}");
        }
    }
}

#[test]
fn a_cut_grown_or_missing_file_is_rebuilt() {
    let lab = Lab::new();
    let files = [lab.rows("a.jsonl", 1, 24)];
    let options = lab.cached();
    let want = all(&lab.load(&files, &options));
    let place = lab.entry();
    for name in ["index", "rows", "tokens"] {
        let path = place.join(name);
        let good = std::fs::read(&path).unwrap();
        let lengths = [0, 1, 4, 20, good.len() / 2, good.len() - 20, good.len() - 1];
        let mut changed: Vec<Option<Vec<u8>>> = lengths.map(|len| Some(good[..len].to_vec())).to_vec();
        changed.push(Some([good.as_slice(), &[0]].concat()));
        changed.push(Some([good.as_slice(), &[0; 20]].concat()));
        changed.push(None);
        for bytes in changed {
            match &bytes {
                Some(bytes) => std::fs::write(&path, bytes).unwrap(),
                None => std::fs::remove_file(&path).unwrap(),
            }
            let length = bytes.map(|bytes| bytes.len());
            assert_eq!(
                all(&lab.load(&files, &options)),
                want,
                "{name} of {length:?} bytes"
            );
            assert_eq!(std::fs::read(&path).unwrap(), good, "{name} of {length:?} bytes");
        }
    }
    // Something else in the entry's place.
    std::fs::remove_dir_all(&place).unwrap();
    std::fs::write(&place, "").unwrap();
    assert_eq!(all(&lab.load(&files, &options)), want);
    assert!(place.join("index").is_file());
}

#[test]
fn a_version_that_is_not_known_is_not_read() {
    let lab = Lab::new();
    let files = [lab.rows("a.jsonl", 1, 24)];
    lab.load(&files, &lab.cached());
    let path = lab.entry().join("index");
    let good = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, good.replacen("tokens 1", "tokens 2", 1)).unwrap();
    lab.load(&files, &lab.cached());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), good);
}

/// Not a test: what the process does that the next test kills.
#[test]
fn child_that_builds() {
    if let Some(dir) = std::env::var_os("ALIGNER_TEST_BUILD_IN") {
        let lab = Lab::at(Path::new(&dir));
        lab.load(&[lab.dir.join("a.jsonl")], &lab.cached());
    }
}

#[test]
fn a_process_killed_while_it_builds_leaves_nothing_that_matters() {
    let lab = Lab::new();
    let files = [lab.rows("a.jsonl", 1, 60_000)];
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_that_builds"])
        .env("ALIGNER_TEST_BUILD_IN", &lab.dir)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while !lab.entries().iter().any(|name| name.ends_with(".partial")) {
        assert!(Instant::now() < deadline, "the child did not begin");
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let left = lab.entries();
    assert!(
        left.iter().any(|name| name.ends_with(".partial")),
        "killed too late: {left:?}"
    );
    assert!(left.iter().any(|name| name.ends_with(".lock")), "{left:?}");
    let rows = lab.load(&files, &lab.cached());
    assert_eq!(rows.len(), 60_000);
    // The entry, and nothing else.
    assert!(lab.entry().join("index").is_file());
}

#[test]
fn two_at_once_share_one_entry() {
    let lab = Lab::new();
    let files = [lab.rows("a.jsonl", 1, 5000)];
    let options = lab.cached();
    let (one, other) = std::thread::scope(|scope| {
        let other = scope.spawn(|| lab.load(&files, &options));
        (lab.load(&files, &options), other.join().unwrap())
    });
    assert_eq!(all(&one), all(&other));
    lab.entry();
}

#[test]
fn a_cache_over_its_limit_forgets_what_was_not_used_for_longest() {
    let lab = Lab::new();
    let files: Vec<PathBuf> = (0..3)
        .map(|number| lab.rows(&format!("{number}.jsonl"), number, 200))
        .collect();
    let one = |number: usize| [files[number].clone()];
    let mut options = lab.cached();
    let mut places = Vec::new();
    for number in 0..2 {
        let before = lab.entries();
        lab.load(&one(number), &options);
        places.extend(lab.entries().difference(&before).cloned());
        std::thread::sleep(Duration::from_millis(20));
    }
    // The first was used last; there is room for two.
    lab.load(&one(0), &options);
    let size = |name: &String| -> u64 {
        let files = std::fs::read_dir(lab.cache().join(name)).unwrap();
        files.map(|file| file.unwrap().metadata().unwrap().len()).sum()
    };
    options.cache.limit_bytes = 5 * size(&places[0]) / 2;
    lab.load(&one(2), &options);
    let left = lab.entries();
    assert_eq!(left.len(), 2);
    assert!(left.contains(&places[0]) && !left.contains(&places[1]));
}

#[test]
fn without_a_place_to_keep_them_tokens_go_with_their_data_set() {
    let lab = Lab::new();
    let files = [lab.rows("a.jsonl", 1, 500)];
    let want = all(&lab.load(&files, &LoadOptions::default()));
    // A file where the directory should be.
    std::fs::write(lab.cache(), "").unwrap();
    let rows = lab.load(&files, &lab.cached());
    assert_eq!(all(&rows), want);
}

#[cfg(target_os = "linux")]
#[test]
fn rows_from_a_pipe_are_read_once() {
    use std::io::Write;
    use std::os::fd::AsRawFd;

    let lab = Lab::new();
    let file = lab.rows("a.jsonl", 1, 500);
    let want = all(&lab.load(std::slice::from_ref(&file), &LoadOptions::default()));
    let (reader, mut writer) = std::io::pipe().unwrap();
    let path = PathBuf::from(format!("/proc/self/fd/{}", reader.as_raw_fd()));
    let bytes = std::fs::read(&file).unwrap();
    let rows = std::thread::scope(|scope| {
        scope.spawn(move || writer.write_all(&bytes).unwrap());
        lab.load(&[path], &lab.cached())
    });
    assert_eq!(all(&rows), want);
    assert_eq!(lab.entries().len(), 0);
}

#[test]
fn a_mixture_of_files_draws_by_weight() {
    let lab = Lab::new();
    let files = [lab.rows("a.jsonl", 1, 30), lab.rows("b.jsonl", 2, 90)];
    let rows = lab.load(&files, &LoadOptions::default());
    let order = rows.order(5, true, Some(&[3.0, 1.0])).unwrap();
    let mut cursor = Cursor::default();
    let drawn: Vec<usize> = (0..120).map(|_| cursor.next(&order)).collect();
    assert_eq!(drawn.iter().filter(|row| **row < 30).count(), 90);
    for window in drawn.windows(8) {
        let of_first = window.iter().filter(|row| **row < 30).count();
        assert!((5..=7).contains(&of_first), "{window:?}");
    }
    let error = rows.order(5, true, Some(&[1.0])).unwrap_err().to_string();
    assert!(error.contains("1 weights for 2 files"), "{error}");
    let alone = lab.load(&files[..1], &LoadOptions::default());
    assert_eq!(
        alone.order(5, true, Some(&[0.3])).unwrap(),
        alone.order(5, true, None).unwrap(),
        "a weight alone changes nothing"
    );
}

#[test]
fn a_zipped_file_is_known_by_the_ending_that_says_how_it_is_read() {
    let lab = Lab::new();
    // Good as CSV and as TSV, with other columns.
    let text = "question,answer,correction,x\tquestion\tanswer\tcorrection\nq,a,c,x\tWhy?\tSo.\tBecause.\n";
    let mut zip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut zip, text.as_bytes()).unwrap();
    let zipped = zip.finish().unwrap();
    let fingerprint = |name: &str| {
        let file = lab.dir.join(name);
        std::fs::write(&file, &zipped).unwrap();
        lab.load(&[file], &lab.cached()).fingerprint()
    };
    assert_ne!(fingerprint("rows.csv.gz"), fingerprint("rows.tsv.gz"));
    assert_eq!(lab.entries().len(), 2);
}
