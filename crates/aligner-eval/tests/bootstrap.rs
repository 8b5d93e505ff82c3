//! Rows to train an upstream on: which corrections, in which shape, from where.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::collections::BTreeMap;
use std::path::Path;

use aligner_data::{AlignerManifest, Fields, PromptTemplate, ReadOptions, RowReader, Turn};
use aligner_eval::bootstrap::{
    self, BootstrapFormat, BootstrapManifest, BootstrapOptions, Counts, Filters, HashedFile, Licences,
    Reason, Rows, Upstreams,
};
use aligner_eval::{Item, Outcome, ScoreKind, Scored};
use serde_json::{Value, json};

fn outcome(id: &str, question: &str, answer: &str, output: &str) -> Outcome {
    Outcome {
        item: Item {
            id: id.into(),
            dataset: "own".into(),
            question: question.into(),
            answer: answer.into(),
            upstream: "small-chat".into(),
            ..Item::default()
        },
        output: output.into(),
        generator: "small-chat+fixer".into(),
        aligner: "fixer".into(),
        ..Outcome::default()
    }
}

fn scored(id: &str, kind: ScoreKind, original: f64, output: f64) -> Scored {
    Scored {
        id: id.into(),
        dataset: "own".into(),
        upstream: "small-chat".into(),
        aligner: "fixer".into(),
        kind,
        original,
        output,
        scorer: "scales".into(),
    }
}

fn turn(question: &str, answer: &str) -> Turn {
    Turn {
        question: question.into(),
        answer: answer.into(),
    }
}

/// Four good corrections of questions that are not alike.
fn four() -> Vec<Outcome> {
    let mut four = vec![
        outcome("1", "Capital of Italy?", "Milan.", "Rome."),
        outcome("2", "Who wrote Emma?", "Emma Woodhouse did.", "Jane Austen did."),
        outcome("3", "How many legs has a spider?", "Six.", "Eight."),
        outcome("4", "And of which country?", "Spain.", "Of Portugal."),
    ];
    four[3].item.chat_history = vec![turn("Is Lisbon a capital?", "Yes.")];
    four
}

fn with_format(format: BootstrapFormat) -> BootstrapOptions {
    BootstrapOptions {
        format,
        ..BootstrapOptions::default()
    }
}

fn with_filters(filters: Filters) -> BootstrapOptions {
    BootstrapOptions {
        filters,
        ..BootstrapOptions::default()
    }
}

fn ids(rows: &Rows<'_>) -> Vec<String> {
    rows.train.iter().map(|outcome| outcome.item.id.clone()).collect()
}

fn dropped(counts: &Counts) -> Vec<(Reason, u64)> {
    counts
        .dropped
        .iter()
        .map(|(reason, count)| (*reason, *count))
        .collect()
}

fn error(outcomes: &[Outcome], scored: &[Scored], options: &BootstrapOptions) -> String {
    bootstrap::rows(outcomes, scored, options)
        .unwrap_err()
        .to_string()
}

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// The rows that are written.
fn written(outcomes: &[Outcome], format: BootstrapFormat) -> Vec<Value> {
    let dir = tempfile::tempdir().unwrap();
    let rows = bootstrap::rows(outcomes, &[], &with_format(format)).unwrap();
    bootstrap::write(&rows, dir.path(), &[], false).unwrap();
    lines(&dir.path().join("train.jsonl"))
}

#[test]
fn each_format_has_its_shape_and_earlier_turns_are_earlier_messages() {
    let user = |content: &str| json!({"role": "user", "content": content});
    let assistant = |content: &str| json!({"role": "assistant", "content": content});
    let prompt = json!([
        user("Is Lisbon a capital?"),
        assistant("Yes."),
        user("And of which country?")
    ]);
    let last = |format| written(&four(), format).pop().unwrap();
    assert_eq!(
        last(BootstrapFormat::Sft),
        json!({"prompt": prompt, "completion": [assistant("Of Portugal.")]})
    );
    let messages = last(BootstrapFormat::SftMessages)["messages"].clone();
    assert_eq!(messages.as_array().unwrap()[..3], prompt.as_array().unwrap()[..]);
    assert_eq!(messages[3], assistant("Of Portugal."));
    assert_eq!(
        last(BootstrapFormat::Dpo),
        json!({"prompt": prompt, "chosen": [assistant("Of Portugal.")], "rejected": [assistant("Spain.")]})
    );
    assert_eq!(
        written(&four()[..3], BootstrapFormat::SftText)[0],
        json!({"prompt": "Capital of Italy?", "completion": "Rome."})
    );
}

#[test]
fn kto_has_two_rows_for_each_pair() {
    let rows = written(&four(), BootstrapFormat::Kto);
    assert_eq!(rows.len(), 8);
    for outcome in four() {
        let of = |label: bool, text: &str| {
            rows.iter()
                .any(|row| row["label"] == label && row["completion"][0]["content"] == text)
        };
        assert!(of(true, &outcome.output) && of(false, &outcome.item.answer));
    }
}

#[test]
fn qac_rows_are_read_back_as_they_were() {
    let dir = tempfile::tempdir().unwrap();
    let four = four();
    let rows = bootstrap::rows(&four, &[], &with_format(BootstrapFormat::Qac)).unwrap();
    bootstrap::write(&rows, dir.path(), &[], false).unwrap();
    let options = ReadOptions {
        fields: Fields::Triple,
        ..ReadOptions::default()
    };
    let read = RowReader::open(&dir.path().join("train.jsonl"), options).unwrap();
    for (record, outcome) in read.map(Result::unwrap).zip(&four) {
        assert_eq!(record.question, outcome.item.question);
        assert_eq!(record.answer, outcome.item.answer);
        assert_eq!(record.correction.as_ref(), Some(&outcome.output));
        assert_eq!(record.chat_history, outcome.item.chat_history);
    }
}

#[test]
fn a_plain_text_has_no_place_for_earlier_turns() {
    let error = error(&four(), &[], &with_format(BootstrapFormat::SftText));
    assert!(error.contains("1 questions have earlier turns"), "{error}");
}

#[test]
fn what_is_no_correction_is_dropped_and_counted() {
    let mut outcomes = four();
    outcomes.push(outcome("copy", "Is ice cold?", "Yes.\n", " Yes."));
    outcomes.push(outcome("empty", "Is fire hot?", "Yes.", " \n"));
    outcomes.push(outcome("mute", " ", "Yes.", "What do you mean?"));
    let mut cut = outcome("cut", "Tell me of bees.", "They fly.", "Bees are insects which");
    cut.is_cut = true;
    outcomes.push(cut);
    let rows = bootstrap::rows(&outcomes, &[], &BootstrapOptions::default()).unwrap();
    assert_eq!(ids(&rows), ["1", "2", "3", "4"]);
    assert_eq!(
        dropped(&rows.counts),
        [
            Reason::EmptyQuestion,
            Reason::EmptyCorrection,
            Reason::Cut,
            Reason::Copy
        ]
        .map(|reason| (reason, 1))
    );
    assert_eq!(
        (rows.counts.input, rows.counts.kept, rows.counts.train),
        (8, 4, 4)
    );
}

#[test]
fn edits_are_bounded_on_both_sides() {
    let outcomes = [
        outcome("little", "One?", "a b c d e f g h i j", "a b c d e f g h i x"),
        outcome("some", "Two?", "a b c d", "a b x y"),
        outcome("all", "Three?", "a b", "x y"),
    ];
    let filters = Filters {
        min_edit_ratio: Some(0.2),
        max_edit_ratio: Some(0.5),
        ..Filters::default()
    };
    let rows = bootstrap::rows(&outcomes, &[], &with_filters(filters)).unwrap();
    assert_eq!(ids(&rows), ["some"]);
    assert_eq!(
        dropped(&rows.counts),
        [(Reason::EditTooSmall, 1), (Reason::EditTooLarge, 1)]
    );
}

#[test]
fn rewards_must_rise_and_costs_must_not() {
    let scores = [
        scored("1", ScoreKind::Reward, 1.0, 2.5),
        scored("2", ScoreKind::Reward, 1.0, 1.5),
        scored("3", ScoreKind::Reward, -2.0, -0.5),
        scored("3", ScoreKind::Cost, 0.0, 0.5),
        scored("1", ScoreKind::Cost, 0.0, -0.5),
        scored("9", ScoreKind::Cost, 0.0, -0.5),
    ];
    let filters = Filters {
        min_reward_margin: Some(1.0),
        ..Filters::default()
    };
    let four = four();
    let rows = bootstrap::rows(&four, &scores, &with_filters(filters.clone())).unwrap();
    assert_eq!(ids(&rows), ["1"]);
    assert_eq!(
        dropped(&rows.counts),
        [Reason::NoReward, Reason::RewardTooSmall, Reason::HigherCost].map(|reason| (reason, 1))
    );
    assert!(
        rows.warnings
            .iter()
            .any(|warning| warning.contains("1 scores are of no correction"))
    );
    let filters = Filters {
        allow_higher_cost: true,
        ..filters
    };
    assert_eq!(
        ids(&bootstrap::rows(&four, &scores, &with_filters(filters)).unwrap()),
        ["1", "3"]
    );
    // Without a margin the cost alone is looked at, and those without one are named.
    let rows = bootstrap::rows(&four, &scores, &BootstrapOptions::default()).unwrap();
    assert_eq!(ids(&rows), ["1", "2", "4"]);
    assert!(
        rows.warnings
            .iter()
            .any(|warning| warning.starts_with("2 of 3 corrections have no cost"))
    );
}

#[test]
fn scores_that_cannot_be_trusted_are_refused() {
    let margin = with_filters(Filters {
        min_reward_margin: Some(0.0),
        ..Filters::default()
    });
    let reward = |id: &str, output: f64| scored(id, ScoreKind::Reward, 0.0, output);
    assert!(error(&four(), &[], &margin).contains("score the corrections first"));
    let other = Scored {
        scorer: "balance".into(),
        ..reward("2", 1.0)
    };
    assert!(error(&four(), &[reward("1", 1.0), other], &margin).contains("balance, scales"));
    assert!(error(&four(), &[reward("1", 1.0), reward("1", 2.0)], &margin).contains("scored twice"));
    assert!(error(&four(), &[reward("1", f64::NAN)], &margin).contains("is no number"));
    let mut twice = four();
    twice[1].item.id = "1".into();
    assert!(error(&twice, &[reward("1", 1.0)], &margin).contains("cannot tell them apart"));
}

#[test]
fn of_a_repeated_question_the_best_correction_stays_else_the_first() {
    let outcomes = [
        outcome(
            "a",
            "What happens if you eat watermelon seeds?",
            "They grow.",
            "Nothing.",
        ),
        outcome(
            "b",
            "What happens if you eat watermelon seeds?",
            "They grow.",
            "Nothing happens.",
        ),
        outcome(
            "c",
            "what happens to you if you eat watermelon seeds",
            "You die.",
            "Nothing at all.",
        ),
        outcome("d", "Who wrote Emma?", "Emma did.", "Jane Austen."),
    ];
    let rows = bootstrap::rows(&outcomes, &[], &BootstrapOptions::default()).unwrap();
    assert_eq!(ids(&rows), ["a", "d"]);
    assert_eq!(
        dropped(&rows.counts),
        [(Reason::Duplicate, 1), (Reason::NearDuplicate, 1)]
    );
    let reward = |id: &str, output: f64| scored(id, ScoreKind::Reward, 0.0, output);
    let scores = [reward("a", -1.0), reward("b", 2.0), reward("c", 1.0)];
    let rows = bootstrap::rows(&outcomes, &scores, &BootstrapOptions::default()).unwrap();
    assert_eq!(ids(&rows), ["b", "d"]);
    let exact = with_filters(Filters {
        near_threshold: None,
        ..Filters::default()
    });
    assert_eq!(
        ids(&bootstrap::rows(&outcomes, &scores, &exact).unwrap()),
        ["b", "c", "d"]
    );
    // Another conversation makes another question.
    let mut outcomes = outcomes[..2].to_vec();
    outcomes[1].item.chat_history = vec![turn("My child ate something odd.", "What was it?")];
    let rows = bootstrap::rows(&outcomes, &[], &BootstrapOptions::default()).unwrap();
    assert_eq!(ids(&rows), ["a", "b"]);
}

#[test]
fn new_refusals_are_named_or_dropped() {
    let mut outcomes = four();
    outcomes[0].output = "I'm sorry, but I can't help with that.".into();
    let rows = bootstrap::rows(&outcomes, &[], &BootstrapOptions::default()).unwrap();
    assert!(
        rows.warnings
            .iter()
            .any(|warning| warning.starts_with("1 of 4 corrections refuse"))
    );
    let options = with_filters(Filters {
        drop_new_refusals: true,
        ..Filters::default()
    });
    let rows = bootstrap::rows(&outcomes, &[], &options).unwrap();
    assert_eq!(dropped(&rows.counts), [(Reason::NewRefusal, 1)]);
    assert!(!rows.warnings.iter().any(|warning| warning.contains("refuse")));
}

#[test]
fn of_several_upstreams_one_is_picked_or_all_are_wanted() {
    let mut outcomes = four();
    outcomes[1].item.upstream = "large-chat".into();
    assert!(error(&outcomes, &[], &BootstrapOptions::default()).contains("(large-chat, small-chat)"));
    let pick = |upstream| BootstrapOptions {
        upstream,
        ..BootstrapOptions::default()
    };
    let one = pick(Upstreams::One("large-chat".into()));
    let rows = bootstrap::rows(&outcomes, &[], &one).unwrap();
    assert_eq!(
        (ids(&rows), &*rows.upstreams),
        (vec!["2".to_string()], &["large-chat".to_string()][..])
    );
    assert_eq!(dropped(&rows.counts), [(Reason::OtherUpstream, 3)]);
    let rows = bootstrap::rows(&outcomes, &[], &pick(Upstreams::All)).unwrap();
    assert_eq!((rows.counts.kept, rows.upstreams.len()), (4, 2));
    assert!(
        rows.warnings
            .iter()
            .any(|warning| warning.contains("of 2 upstreams"))
    );
}

#[test]
fn dpo_and_kto_say_what_was_measured() {
    for (format, warns) in [
        (BootstrapFormat::Sft, false),
        (BootstrapFormat::Qac, false),
        (BootstrapFormat::Dpo, true),
        (BootstrapFormat::Kto, true),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let four = four();
        let rows = bootstrap::rows(&four, &[], &with_format(format)).unwrap();
        let summary = bootstrap::write(&rows, dir.path(), &[], false).unwrap();
        let manifest = BootstrapManifest::read(dir.path()).unwrap();
        let has = |warnings: &[String]| {
            let numbers = ["+14.0", "+63.7", "−51.3"];
            warnings
                .iter()
                .any(|warning| numbers.iter().all(|number| warning.contains(number)))
        };
        assert_eq!(
            [has(&summary.warnings), has(&manifest.warnings)],
            [warns; 2],
            "{format}"
        );
        assert_eq!(summary.to_string().contains("−51.3"), warns);
    }
}

/// Writes a round whose parent is `parent`; gives its manifest.
fn round(dir: &Path, parent: Option<&Path>, licences: Licences) -> BootstrapManifest {
    let four = four();
    let options = BootstrapOptions {
        parent: parent.map(Path::to_path_buf),
        licences,
        ..BootstrapOptions::default()
    };
    let rows = bootstrap::rows(&four, &[], &options).unwrap();
    bootstrap::write(&rows, dir, &[], false).unwrap();
    BootstrapManifest::read(dir).unwrap()
}

#[test]
fn rounds_count_up_and_licences_are_carried_on() {
    let lab = tempfile::tempdir().unwrap();
    let dir = |name: &str| lab.path().join(name);
    let mut aligner = AlignerManifest::new(PromptTemplate::default(), "", "base");
    aligner.data_licence = Some("CC-BY-NC-4.0".into());
    std::fs::create_dir(dir("fixer")).unwrap();
    aligner.write(&dir("fixer")).unwrap();
    let mut licences = Licences::default();
    licences.read_aligner("fixer", &dir("fixer")).unwrap();
    licences.read_aligner("fixer", &dir("nowhere")).unwrap();
    let first = round(&dir("1"), None, licences);
    assert_eq!((first.round, &first.parent, first.lineage.len()), (1, &None, 0));
    let free = Licences {
        aligners: BTreeMap::from([("fixer".into(), "MIT".into())]),
        datasets: BTreeMap::from([("own".into(), "CC0-1.0".into())]),
    };
    round(&dir("2"), Some(&dir("1")), free.clone());
    let third = round(&dir("3"), Some(&dir("2").join("manifest.json")), free);
    assert_eq!(third.round, 3);
    let rounds: Vec<u32> = third.lineage.iter().map(|ancestor| ancestor.round).collect();
    assert_eq!(rounds, [1, 2]);
    for ancestor in &third.lineage {
        let path = dir(&ancestor.round.to_string()).join("manifest.json");
        assert_eq!(ancestor.manifest, HashedFile::of(&path, 0).unwrap().sha256);
    }
    assert_eq!(third.parent, Some(third.lineage[1].manifest.clone()));
    let forbids = |manifest: &BootstrapManifest| -> Vec<String> {
        let warnings = manifest.warnings.iter();
        warnings
            .filter(|warning| warning.contains("forbids commercial use"))
            .cloned()
            .collect()
    };
    for manifest in [&first, &third] {
        let [warning] = &forbids(manifest)[..] else {
            panic!("{:?}", manifest.warnings)
        };
        assert!(
            warning.starts_with("CC-BY-NC-4.0") && warning.contains("fixer, round 1"),
            "{warning}"
        );
    }
    assert!(
        first
            .warnings
            .iter()
            .any(|warning| warning == "no data licence is known of: data set own")
    );
    assert!(
        !third
            .warnings
            .iter()
            .any(|warning| warning.contains("no data licence"))
    );
    assert_eq!(third.licences.len(), 3);
}

#[test]
fn a_parent_that_was_changed_or_is_none_is_refused() {
    let lab = tempfile::tempdir().unwrap();
    round(&lab.path().join("1"), None, Licences::default());
    let path = lab.path().join("1/manifest.json");
    let text = std::fs::read_to_string(&path).unwrap();
    for (from, to, part) in [
        ("\"round\": 1", "\"round\": 7", "do not count from 1"),
        (
            "\"parent\": null",
            "\"parent\": \"sha256:0\"",
            "not the last round",
        ),
        (
            "\"format_version\": 1",
            "\"format_version\": 2",
            "has format version 2",
        ),
        ("aligner-bootstrap", "aligner-other", "is no manifest"),
        ("{", "[", "is no manifest"),
    ] {
        assert!(text.contains(from));
        std::fs::write(&path, text.replacen(from, to, 1)).unwrap();
        let options = BootstrapOptions {
            parent: Some(path.clone()),
            ..BootstrapOptions::default()
        };
        let error = error(&four(), &[], &options);
        assert!(error.contains(part) && error.contains("manifest.json"), "{error}");
    }
}

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
    let input = lab.path().join("outcomes.jsonl");
    std::fs::write(&input, "abc").unwrap();
    let inputs = [HashedFile::of(&input, 4).unwrap()];
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
    // The hash of "abc" that FIPS 180-2 prints.
    let known = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(
        (&*manifest.inputs[0].file, &*manifest.inputs[0].sha256),
        ("outcomes.jsonl", known)
    );
    for file in &manifest.files {
        assert_eq!(*file, HashedFile::of(&dir.join(&file.file), file.rows).unwrap());
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
