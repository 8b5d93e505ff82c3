//! Rows of any format become rows of ours, whole or not at all.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::path::{Path, PathBuf};

use aligner_data::{
    ConvertOptions, DataError, Fields, Format, OnBadRow, ReadOptions, Record, RowReader, convert_files,
};
use serde_json::{Value, json};

fn write(dir: &Path, name: &str, rows: &[Value]) -> PathBuf {
    let path = dir.join(name);
    let lines: Vec<String> = rows.iter().map(Value::to_string).collect();
    std::fs::write(&path, lines.join("\n")).unwrap();
    path
}

fn read(path: &Path, fields: Fields) -> Vec<Record> {
    let options = ReadOptions {
        fields,
        ..ReadOptions::default()
    };
    RowReader::open(path, options)
        .unwrap()
        .map(Result::unwrap)
        .collect()
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

const HH: [&str; 2] = [
    "\n\nHuman: a\n\nAssistant: x\n\nHuman: b\n\nAssistant: good",
    "\n\nHuman: a\n\nAssistant: x\n\nHuman: b\n\nAssistant: bad",
];

#[test]
fn files_of_several_formats_become_one() {
    let dir = tempfile::tempdir().unwrap();
    let hh = write(
        dir.path(),
        "hh.jsonl",
        &[
            json!({"chosen": HH[0], "rejected": HH[1]}),
            json!({"chosen": HH[0], "rejected": "\n\nHuman: z\n\nAssistant: bad"}),
        ],
    );
    let beaver =
        |response: &str, is_safe: bool| json!({"prompt": "p", "response": response, "is_safe": is_safe});
    let beaver = write(
        dir.path(),
        "beaver.jsonl",
        &[beaver("unsafe", false), beaver("safe", true)],
    );
    for name in ["rows.jsonl", "rows.jsonl.gz"] {
        let out = dir.path().join(name);
        let report = convert_files(&[hh.clone(), beaver.clone()], &out, &ConvertOptions::default()).unwrap();
        assert_eq!((report.read, report.written, report.with_correction), (4, 2, 2));
        assert_eq!((report.skipped.count(), report.skipped.unsuitable()), (1, 1));
        let formats: Vec<_> = report.files.iter().map(|(_, format)| format.unwrap()).collect();
        assert_eq!(formats, [Format::HhRlhf, Format::BeaverTails]);
        let rows = read(&out, Fields::Triple);
        let raw: Vec<Value> = rows.into_iter().map(|row| Value::Object(row.raw)).collect();
        assert_eq!(
            raw,
            [
                json!({"question": "b", "answer": "bad", "correction": "good", "chat_history": [["a", "x"]]}),
                json!({"question": "p", "answer": "unsafe", "correction": "safe"}),
            ]
        );
    }
    let packed = std::fs::read(dir.path().join("rows.jsonl.gz")).unwrap();
    assert_eq!(packed[..2], [0x1f, 0x8b]);
    assert_eq!(
        names(dir.path()),
        ["beaver.jsonl", "hh.jsonl", "rows.jsonl", "rows.jsonl.gz"]
    );
}

#[test]
fn one_answer_gives_pairs_or_identity_rows() {
    let dir = tempfile::tempdir().unwrap();
    let alpaca = write(
        dir.path(),
        "alpaca.jsonl",
        &[json!({"instruction": "a", "input": "", "output": "x"})],
    );
    let out = dir.path().join("rows.jsonl");
    let report = convert_files(std::slice::from_ref(&alpaca), &out, &ConvertOptions::default()).unwrap();
    assert_eq!((report.written, report.with_correction), (1, 0));
    assert_eq!(read(&out, Fields::Pair)[0].correction, None);
    let identity = ConvertOptions {
        identity: true,
        overwrite: true,
        ..ConvertOptions::default()
    };
    convert_files(&[alpaca], &out, &identity).unwrap();
    assert_eq!(read(&out, Fields::Triple)[0].correction.as_deref(), Some("x"));
}

#[test]
fn a_blank_answer_is_no_identity_row() {
    let dir = tempfile::tempdir().unwrap();
    let chat = |answer: &str| json!({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": answer}]});
    let rows = write(dir.path(), "in.jsonl", &[chat("x"), chat(" \n"), chat("y")]);
    let out = dir.path().join("out.jsonl");
    let mut options = ConvertOptions {
        identity: true,
        ..ConvertOptions::default()
    };
    let report = convert_files(std::slice::from_ref(&rows), &out, &options).unwrap();
    assert_eq!(
        (report.read, report.written, report.skipped.unsuitable()),
        (3, 2, 1)
    );
    let left_out = &report.skipped.first()[0];
    assert_eq!(left_out.row, 1);
    assert!(left_out.reason.contains("answer is empty"), "{left_out}");
    assert_eq!(read(&out, Fields::Triple).len(), 2);
    // As a row to be corrected it stays.
    (options.identity, options.overwrite) = (false, true);
    assert_eq!(convert_files(&[rows], &out, &options).unwrap().written, 3);
}

#[cfg(unix)]
fn pipe_in(dir: &Path) -> PathBuf {
    let pipe = dir.join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    pipe
}

#[test]
#[cfg(unix)]
fn a_link_stays_a_link_and_a_pipe_a_pipe() {
    let dir = tempfile::tempdir().unwrap();
    let row = json!({"question": "q", "answer": "a", "correction": "c"});
    let rows = write(dir.path(), "in.jsonl", std::slice::from_ref(&row));
    let elsewhere = dir.path().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    std::fs::write(elsewhere.join("real.jsonl"), "before").unwrap();
    let link = dir.path().join("out.jsonl");
    std::os::unix::fs::symlink("elsewhere/real.jsonl", &link).unwrap();
    let options = ConvertOptions {
        overwrite: true,
        ..ConvertOptions::default()
    };
    convert_files(std::slice::from_ref(&rows), &link, &options).unwrap();
    assert!(link.is_symlink());
    assert_eq!(read(&elsewhere.join("real.jsonl"), Fields::Triple).len(), 1);
    assert_eq!(names(&elsewhere), ["real.jsonl"]);
    std::fs::remove_file(elsewhere.join("real.jsonl")).unwrap();
    let error = convert_files(std::slice::from_ref(&rows), &link, &options).unwrap_err();
    assert!(error.to_string().contains("cannot follow"), "{error}");

    let pipe = pipe_in(dir.path());
    // Nothing that is there is replaced, so it need not be allowed.
    for options in [options, ConvertOptions::default()] {
        let reader = std::thread::spawn({
            let pipe = pipe.clone();
            move || std::fs::read_to_string(pipe).unwrap()
        });
        let report = convert_files(std::slice::from_ref(&rows), &pipe, &options).unwrap();
        assert_eq!(report.written, 1);
        assert_eq!(reader.join().unwrap().trim_end(), row.to_string());
        assert!(!pipe.is_file() && pipe.exists());
    }
    assert_eq!(names(dir.path()), ["elsewhere", "in.jsonl", "out.jsonl", "pipe"]);
}

#[test]
fn what_is_there_stays_until_the_new_file_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let good = json!({"question": "q", "answer": "a", "correction": "c"});
    let rows = write(
        dir.path(),
        "in.jsonl",
        &[good.clone(), json!({"question": 1}), good],
    );
    let out = dir.path().join("out.jsonl");
    std::fs::write(&out, "before").unwrap();
    let convert = |options: &ConvertOptions| convert_files(std::slice::from_ref(&rows), &out, options);
    assert!(matches!(
        convert(&ConvertOptions::default()),
        Err(DataError::Exists(_))
    ));
    let mut options = ConvertOptions {
        overwrite: true,
        ..ConvertOptions::default()
    };
    // The second row is bad, and rows stop there.
    assert!(matches!(convert(&options), Err(DataError::BadRow(_))));
    assert_eq!(std::fs::read_to_string(&out).unwrap(), "before");
    assert_eq!(names(dir.path()), ["in.jsonl", "out.jsonl"]);
    options.read.on_bad_row = OnBadRow::Skip;
    let report = convert(&options).unwrap();
    assert_eq!(
        (report.read, report.written, report.skipped.unsuitable()),
        (3, 2, 0)
    );
    options.limit = Some(1);
    assert_eq!(convert(&options).unwrap().written, 1);
    assert_eq!(read(&out, Fields::Triple).len(), 1);
    // A file may be converted into itself.
    let itself = convert_files(std::slice::from_ref(&out), &out, &options).unwrap();
    assert_eq!((itself.written, read(&out, Fields::Triple).len()), (1, 1));
}

/// A pipe is opened once, and cannot go back.
#[test]
#[cfg(unix)]
fn a_pipe_is_converted() {
    let dir = tempfile::tempdir().unwrap();
    let pipe = pipe_in(dir.path());
    let rows = format!("{}\n{0}", json!({"chosen": HH[0], "rejected": HH[1]}));
    let writer = std::thread::spawn({
        let pipe = pipe.clone();
        move || std::fs::write(pipe, rows).unwrap()
    });
    let out = dir.path().join("out.jsonl");
    let report = convert_files(&[pipe], &out, &ConvertOptions::default()).unwrap();
    writer.join().unwrap();
    assert_eq!((report.read, report.written), (2, 2));
}

#[test]
fn no_rows_are_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let rows = write(
        dir.path(),
        "in.jsonl",
        &[json!({"messages": [{"role": "user", "content": "a"}]})],
    );
    let out = dir.path().join("out.jsonl");
    let error = convert_files(&[rows], &out, &ConvertOptions::default()).unwrap_err();
    assert!(error.to_string().contains("1 rows were left out"), "{error}");
    assert_eq!(names(dir.path()), ["in.jsonl"]);
}
