//! Options, files and what is said of them.

use super::*;

#[test]
fn options_that_cannot_be_meant_are_refused() {
    let filters = |filters| with_filters(filters);
    for (options, part) in [
        (
            filters(Filters {
                min_edit_ratio: Some(1.5),
                ..Filters::default()
            }),
            "the least edit ratio is 1.5",
        ),
        (
            filters(Filters {
                min_edit_ratio: Some(0.5),
                max_edit_ratio: Some(0.1),
                ..Filters::default()
            }),
            "at least 0.5 and at most 0.1",
        ),
        (
            BootstrapOptions {
                valid_share: 1.0,
                ..BootstrapOptions::default()
            },
            "share of validation rows is 1",
        ),
        (
            BootstrapOptions {
                upstream: Upstreams::One("nobody".into()),
                ..BootstrapOptions::default()
            },
            "upstreams are small-chat",
        ),
        (
            BootstrapOptions {
                licences: Licences {
                    datasets: BTreeMap::from([("owm".into(), "MIT".into())]),
                    ..Licences::default()
                },
                ..BootstrapOptions::default()
            },
            "the data set \"owm\"",
        ),
        (
            filters(Filters {
                max_edit_ratio: Some(0.01),
                ..Filters::default()
            }),
            "none of 4 corrections is left: 4 too much changed",
        ),
    ] {
        let error = error(&four(), &[], &options);
        assert!(error.contains(part), "{error}");
    }
    assert!(error(&[], &[], &BootstrapOptions::default()).contains("there are no corrections"));
}

#[test]
fn files_are_whole_hashed_and_not_overwritten_unasked() {
    let lab = tempfile::tempdir().unwrap();
    let dir = lab.path().join("deep/round1");
    // The hash of "abc" that FIPS 180-2 prints.
    let known = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    let inputs = [HashedFile::of(
        &lab.path().join("outcomes.jsonl"),
        4,
        known.into(),
    )];
    let four = four();
    let options = BootstrapOptions {
        valid_share: 0.5,
        seed: 3,
        ..BootstrapOptions::default()
    };
    let rows = bootstrap::rows(&four, &[], &options).unwrap();
    assert!(!rows.valid.is_empty());
    let summary = bootstrap::write(&rows, &dir, &inputs, false).unwrap();
    let manifest = BootstrapManifest::read(&dir).unwrap();
    assert_eq!(
        (&*manifest.inputs[0].file, &*manifest.inputs[0].sha256),
        ("outcomes.jsonl", known)
    );
    for file in &manifest.files {
        let found = facts::file(&dir.join(&file.file)).unwrap();
        assert_eq!(found["sha256"], file.sha256.as_str());
        assert_eq!(lines(&dir.join(&file.file)).len() as u64, file.rows);
    }
    assert_eq!(summary.files, manifest.files);
    assert!(
        !std::fs::read_to_string(dir.join("manifest.json"))
            .unwrap()
            .contains(lab.path().to_str().unwrap())
    );
    let error = bootstrap::write(&rows, &dir, &inputs, false)
        .unwrap_err()
        .to_string();
    assert!(error.contains("is there already"), "{error}");
    // Overwritten by rows without validation, nothing of the former ones stays.
    let rows = bootstrap::rows(&four, &[], &BootstrapOptions::default()).unwrap();
    bootstrap::write(&rows, &dir, &inputs, true).unwrap();
    let mut names: Vec<_> = std::fs::read_dir(&dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["manifest.json", "train.jsonl"]);
}

#[test]
fn a_summary_says_what_became_of_each() {
    let dir = tempfile::tempdir().unwrap();
    let mut outcomes = four();
    outcomes[2].output = "Six.".into();
    let rows = bootstrap::rows(&outcomes, &[], &BootstrapOptions::default()).unwrap();
    let summary = bootstrap::write(&rows, dir.path(), &[], false).unwrap();
    let file = dir.path().join("train.jsonl");
    assert_eq!(
        summary.to_string(),
        format!(
            "round 1 of small-chat: 3 of 4 corrections, as sft\n         1  copy of the answer\n3 rows in {}\n\
             warning: no data licence is known of: Aligner fixer, data set own\n",
            file.display()
        )
    );
}

/// A pipe can be read once.
#[cfg(unix)]
#[test]
fn hashes_of_inputs_are_of_the_same_reading_as_their_rows() {
    let lab = tempfile::tempdir().unwrap();
    let (file, pipe) = (lab.path().join("rows.jsonl"), lab.path().join("pipe"));
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    let piped = || {
        let (text, pipe) = (std::fs::read(&file).unwrap(), pipe.clone());
        std::thread::spawn(move || std::fs::write(pipe, text).unwrap())
    };
    let text: String = four()
        .iter()
        .map(|outcome| serde_json::to_string(outcome).unwrap() + "\n")
        .collect();
    std::fs::write(&file, text).unwrap();
    let writer = piped();
    let (read, hash) = outcomes::read_hashed(&pipe).unwrap();
    writer.join().unwrap();
    assert_eq!(
        (read, facts::file(&file).unwrap()["sha256"].as_str()),
        (four(), Some(&*hash))
    );
    let scored = vec![scored("1", ScoreKind::Cost, 1.0, 2.0)];
    scores::write(&file, &scored).unwrap();
    let writer = piped();
    let (read, hash) = scores::read_hashed(&pipe).unwrap();
    writer.join().unwrap();
    assert_eq!(
        (read, facts::file(&file).unwrap()["sha256"].as_str()),
        (scored, Some(&*hash))
    );
}
