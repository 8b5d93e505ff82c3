//! Runs that were killed, runs that ended, and runs with more threads.

use std::path::Path;

use aligner_eval::judge;

use crate::fake::{Answer, FakeJudge, longer};
use crate::{cache, config, outcome, outcomes};

fn lines(path: &Path) -> usize {
    std::fs::read_to_string(path).unwrap().lines().count()
}

#[test]
fn a_second_run_asks_nothing() {
    let judge = FakeJudge::start(longer);
    let (_directory, path) = cache();
    let first = judge::judge(&outcomes(9), &config(&judge), &path, |_| {}).unwrap();
    assert_eq!((judge.count(), lines(&path)), (36, 36));
    // The server may have moved, or gone.
    let mut config = config(&judge);
    config.url = "http://127.0.0.1:1/v1".into();
    let second = judge::judge(&outcomes(9), &config, &path, |_| {}).unwrap();
    assert_eq!(first, second);
    assert_eq!(judge.count(), 36);
    // Another prompt, another question.
    config.url = judge.url.clone();
    config.max_tokens += 1;
    judge::judge(&outcomes(9), &config, &path, |_| {}).unwrap();
    assert_eq!(judge.count(), 72);
}

#[test]
fn a_run_that_broke_off_asks_only_what_is_missing() {
    let refuses = FakeJudge::start(|number, seen| match number {
        0..10 => longer(number, seen),
        _ => Answer::fails(400, "enough"),
    });
    let (_directory, path) = cache();
    let mut broken = config(&refuses);
    broken.parallel = 1;
    judge::judge(&outcomes(9), &broken, &path, |_| {}).unwrap_err();
    assert_eq!(lines(&path), 10);
    // A kill in the middle of a write leaves a line without an end.
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 5]).unwrap();

    let judge = FakeJudge::start(longer);
    let mut steps = Vec::new();
    let resumed = judge::judge(&outcomes(9), &config(&judge), &path, |progress| {
        steps.push(progress)
    })
    .unwrap();
    assert_eq!((judge.count(), lines(&path)), (36 - 9, 36));
    assert_eq!((steps[0].cached, steps[0].calls, steps.len()), (9, 27, 28));
    assert!(steps.iter().zip(0..).all(|(step, done)| step.done == done));
    let (_directory, path) = cache();
    assert_eq!(
        resumed,
        judge::judge(&outcomes(9), &config(&judge), &path, |_| {}).unwrap()
    );
}

#[test]
fn the_number_of_threads_changes_no_byte() {
    // Later calls are answered sooner.
    let judge = FakeJudge::start(|number, seen| {
        std::thread::sleep(std::time::Duration::from_millis(8 - number as u64 % 8));
        longer(number, seen)
    });
    let files = [1, 8].map(|parallel| {
        let (directory, path) = cache();
        let mut config = config(&judge);
        config.parallel = parallel;
        let judgements = judge::judge(&outcomes(12), &config, &path, |_| {}).unwrap();
        let path = directory.path().join("judgements.jsonl");
        judge::write(&path, &judgements).unwrap();
        assert_eq!(judge::read(&path).unwrap(), judgements);
        std::fs::read(&path).unwrap()
    });
    assert_eq!(files[0].iter().filter(|byte| **byte == b'\n').count(), 72);
    assert_eq!(files[0], files[1]);
}

#[test]
fn the_same_question_is_asked_once_and_the_same_row_is_refused() {
    let judge = FakeJudge::start(longer);
    let (_directory, path) = cache();
    let mut rows = vec![
        outcome(1, "x", "xyz"),
        outcome(2, "x", "xyz"),
        outcome(1, "x", "xyz"),
    ];
    rows[2].aligner = "eagle".into();
    let judgements = judge::judge(&rows, &config(&judge), &path, |_| {}).unwrap();
    assert_eq!((judgements.len(), judge.count()), (18, 12));
    assert_eq!(judge::table(&judgements, 0).unwrap().len(), 6);

    rows[2].aligner = "owl".into();
    let error = judge::judge(&rows, &config(&judge), &path, |_| {})
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("row 3") && error.contains("row 1") && error.contains("\"q1\""),
        "{error}"
    );
    assert_eq!(judge.count(), 12);
}
