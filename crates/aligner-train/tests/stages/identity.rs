//! Rows whose target is the answer itself.

use super::*;

#[test]
fn identity_rows_are_a_share_of_the_correction_stage_chosen_by_the_seed() {
    let lab = Lab::new();
    let mixed = |out: &str, seed| TrainConfig {
        identity_share: 0.2,
        steps: None,
        epochs: 1,
        seed,
        warmup: WarmupChoice::off(),
        ..config(&lab, out)
    };
    let outcome = run(&mixed("one", 1));
    let stage = |model: &Path| stages(model).remove(0);
    let one = stage(&outcome.model_dir);
    assert_eq!((one.rows, one.identity_rows, one.steps), (125, 25, 16));
    let epochs: Vec<f64> = records(&outcome.run).iter().map(|r| r.epoch).collect();
    assert_eq!(epochs.last(), Some(&1.0));
    let again = stage(&run(&mixed("again", 1)).model_dir);
    let other = stage(&run(&mixed("other", 2)).model_dir);
    assert_eq!(again.data_fingerprint, one.data_fingerprint);
    assert_ne!(other.data_fingerprint, one.data_fingerprint);
}

#[test]
fn chosen_rows_are_distinct_and_repeat_what_their_prompt_says() {
    let lab = Lab::new();
    let tokenizer = Tokenizer::from_dir(&lab.path("base")).unwrap();
    let encoder = Encoder::new(tokenizer.clone(), PromptTemplate::default(), 256);
    let load = |target| {
        let encoder = encoder.clone().with_target(target);
        let options = LoadOptions::default();
        Arc::new(Dataset::load(&[lab.path("train.jsonl")], &encoder, &options).unwrap())
    };
    let copies = load(Target::AnswerUnchanged);
    let rows_of = |seed| {
        let rows = Rows::chosen(Arc::clone(&copies), 40, seed);
        let row = |index| rows.example(index).unwrap().ids.to_vec();
        (0..rows.len()).map(row).collect::<Vec<_>>()
    };
    assert_eq!((rows_of(7), rows_of(7).len()), (rows_of(7), 40));
    assert_ne!(rows_of(7), rows_of(8));
    // No row twice: as many different ones as a choice of all rows of the same kind has.
    let all: HashSet<Vec<u32>> = (0..100)
        .map(|row| copies.example(row).unwrap().ids.to_vec())
        .collect();
    let everything: HashSet<Vec<u32>> = {
        let rows = Rows::chosen(Arc::clone(&copies), 1_000, 7);
        assert_eq!(rows.len(), 100);
        (0..100)
            .map(|row| rows.example(row).unwrap().ids.to_vec())
            .collect()
    };
    assert_eq!(everything, all);
    let corrections = load(Target::Correction);
    let both = Rows::from(Arc::clone(&corrections)).and(Rows::chosen(Arc::clone(&copies), 2, 7));
    assert_eq!(both.len(), 102);
    assert_eq!(
        both.example(99).unwrap().ids,
        corrections.example(99).unwrap().ids
    );
    assert_eq!(both.example(101).unwrap().ids, rows_of(7)[1]);
    assert!(both.example(102).unwrap().ids.is_empty());
    for index in 0..2 {
        let example = both.example(100 + index).unwrap();
        let (prompt, target) = example.ids.split_at(example.prompt_len);
        let (prompt, target) = (
            tokenizer.decode(prompt).unwrap(),
            tokenizer.decode(target).unwrap(),
        );
        assert!(prompt.contains(&target), "{prompt:?} {target:?}");
    }
}

#[test]
fn what_is_copied_is_the_text_that_was_asked_for() {
    let lab = Lab::new();
    let fingerprint = |out: &str, from| {
        let mut config = config(&lab, out);
        config.warmup.from = from;
        config.steps = Some(1);
        stages(&run(&config).model_dir).remove(0).data_fingerprint
    };
    assert_ne!(
        fingerprint("answer", CopyFrom::Answer),
        fingerprint("correction", CopyFrom::Correction)
    );
}

#[test]
fn a_text_that_does_not_fit_twice_is_left_out_of_the_copies_alone() {
    let lab = Lab::new();
    let mut rows = std::fs::read_to_string(lab.path("train.jsonl")).unwrap();
    let long =
        serde_json::json!({"question": "?", "answer": "far too long ".repeat(20), "correction": "short"});
    rows.push_str(&long.to_string());
    std::fs::write(lab.path("train.jsonl"), rows).unwrap();
    let mut config = config(&lab, "run");
    config.warmup.share = Some(1.0);
    config.max_length = 240;
    config.steps = Some(20);
    let written = stages(&run(&config).model_dir);
    assert_eq!((written[0].rows, written[1].rows), (100, 101));
}

#[test]
fn copies_that_there_are_none_of_name_the_setting() {
    let lab = Lab::new();
    let row =
        serde_json::json!({"question": "?", "answer": "far too long ".repeat(20), "correction": "short"});
    std::fs::write(lab.path("train.jsonl"), row.to_string()).unwrap();
    let config = TrainConfig {
        max_length: 240,
        ..config(&lab, "run")
    };
    let error = fine_tune(&config, RunOptions::default()).unwrap_err().to_string();
    assert!(error.starts_with("warmup: there is nothing to copy"), "{error}");
}
