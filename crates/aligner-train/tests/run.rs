//! Whole runs on a tiny model: what is written, and that a resumed run is the undisturbed one.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod lab;

use aligner_data::{AlignerManifest, PromptTemplate};
use aligner_model::{Precision, load_dir};
use aligner_train::{
    Ending, Event, Observer, Result, RunDir, RunOptions, Split, StepRecord, TemplateChoice, TrainConfig,
    TrainError, fine_tune, resume,
};
use burn::tensor::Device;
use lab::{Lab, essence, records, run, stopped_after, weights};

#[test]
fn a_run_leaves_what_it_promises() {
    let lab = Lab::new();
    let outcome = run(&lab.config("run"));
    let dir = RunDir::new(&outcome.run);
    assert_eq!((outcome.ending, outcome.steps), (Ending::Finished, 12));
    let records = records(dir.root());
    let (valid, train): (Vec<_>, Vec<_>) = records.iter().partition(|record| record.split == Split::Valid);
    assert_eq!(
        train.iter().map(|record| record.step).collect::<Vec<_>>(),
        (1..=12).collect::<Vec<_>>()
    );
    assert_eq!(
        valid.iter().map(|record| record.step).collect::<Vec<_>>(),
        [0, 6, 12]
    );
    assert!(
        valid[2].loss < valid[0].loss - 0.5,
        "{} {}",
        valid[0].loss,
        valid[2].loss
    );
    assert!(
        train
            .iter()
            .all(|r| r.lr.is_some() && r.grad_norm.is_some() && r.target_tokens < r.tokens)
    );
    for model in [dir.finished(), dir.best()] {
        let manifest = AlignerManifest::read(&model).unwrap().unwrap();
        assert_eq!((manifest.base_model.as_str(), manifest.stages.len()), ("base", 1));
        assert_eq!(manifest.template, PromptTemplate::default());
        load_dir(&model, &Device::flex()).unwrap();
        aligner_data::Tokenizer::from_dir(&model).unwrap();
    }
    assert_eq!(TrainConfig::read(&dir.config()).unwrap(), lab.config("run"));
    assert_eq!(
        std::fs::read_dir(dir.checkpoints()).unwrap().count(),
        2,
        "two checkpoints are kept"
    );
}

#[test]
fn a_resumed_run_equals_an_undisturbed_one_to_the_last_bit() {
    let lab = Lab::new();
    let whole = run(&lab.config("whole"));
    // Stopped on a step that has no regular checkpoint, then on one that has, then once more.
    let config = lab.config("parts");
    let part = fine_tune(&config, stopped_after(3)).unwrap();
    assert_eq!((part.ending, part.steps), (Ending::Interrupted, 3));
    assert_eq!(resume(&config.out, stopped_after(8)).unwrap().steps, 8);
    assert_eq!(resume(&config.out, stopped_after(9)).unwrap().steps, 9);
    let rest = resume(&config.out, RunOptions::default()).unwrap();
    assert_eq!(
        (rest.ending, rest.steps, rest.best),
        (Ending::Finished, 12, whole.best)
    );
    assert_eq!(essence(&rest.run), essence(&whole.run));
    assert_eq!(weights(&rest.model_dir), weights(&whole.model_dir));
}

#[test]
fn computing_activations_again_changes_no_number() {
    let lab = Lab::new();
    for precision in [Precision::F32, Precision::Bf16] {
        let config = |checkpointing: bool| TrainConfig {
            precision,
            checkpointing,
            ..lab.config(&format!("{precision}-{checkpointing}"))
        };
        let (kept, again) = (run(&config(false)), run(&config(true)));
        assert_eq!(essence(&again.run), essence(&kept.run), "{precision}");
        assert_eq!(weights(&again.model_dir), weights(&kept.model_dir), "{precision}");
    }
}

#[test]
fn mixed_precision_trains_nearly_the_same_and_resumes_to_the_last_bit() {
    let lab = Lab::new();
    let config = |name: &str| TrainConfig {
        precision: Precision::Bf16,
        ..lab.config(name)
    };
    let (exact, whole) = (run(&lab.config("f32")), run(&config("whole")));
    let losses = [&exact, &whole].map(|outcome| -> Vec<f64> {
        let of_training = |record: &&StepRecord| record.split == Split::Train;
        let records = records(&outcome.run);
        records.iter().filter(of_training).map(|r| r.loss).collect()
    });
    assert_ne!(losses[0], losses[1], "nothing was rounded");
    for (exact, rounded) in losses[0].iter().zip(&losses[1]) {
        assert!((exact - rounded).abs() < 0.03 * exact, "{exact} {rounded}");
    }
    let parts = config("parts");
    assert_eq!(fine_tune(&parts, stopped_after(5)).unwrap().steps, 5);
    let rest = resume(&parts.out, RunOptions::default()).unwrap();
    assert_eq!(essence(&rest.run), essence(&whole.run));
    assert_eq!(weights(&rest.model_dir), weights(&whole.model_dir));
}

#[test]
fn a_damaged_checkpoint_is_named_and_the_one_before_it_used() {
    struct Listener(std::sync::mpsc::Sender<String>);
    impl Observer for Listener {
        fn on_event(&mut self, event: &Event<'_>) {
            if let Event::DamagedCheckpoint(damage) = event {
                self.0.send((*damage).to_string()).unwrap();
            }
        }
    }
    let lab = Lab::new();
    let whole = run(&lab.config("whole"));
    let config = lab.config("damaged");
    fine_tune(&config, stopped_after(9)).unwrap();
    let newest = RunDir::new(&config.out)
        .checkpoints()
        .join("step-00000009/optimizer.safetensors");
    let mut bytes = std::fs::read(&newest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&newest, bytes).unwrap();
    let (sender, heard) = std::sync::mpsc::channel();
    let options = RunOptions {
        observer: Some(Box::new(Listener(sender))),
        ..RunOptions::default()
    };
    let rest = resume(&config.out, options).unwrap();
    assert!(
        heard
            .recv()
            .unwrap()
            .contains("step-00000009: optimizer.safetensors: its checksum does not match")
    );
    assert_eq!(essence(&rest.run), essence(&whole.run));
    assert_eq!(weights(&rest.model_dir), weights(&whole.model_dir));
}

#[test]
fn when_every_checkpoint_is_damaged_the_run_says_so() {
    let lab = Lab::new();
    let config = lab.config("run");
    fine_tune(&config, stopped_after(2)).unwrap();
    std::fs::remove_file(
        RunDir::new(&config.out)
            .checkpoints()
            .join("step-00000002/model.safetensors"),
    )
    .unwrap();
    assert!(matches!(
        resume(&config.out, RunOptions::default()),
        Err(TrainError::NoUsableCheckpoint { .. })
    ));
}

#[test]
fn changed_rows_are_noticed() {
    let lab = Lab::new();
    let config = lab.config("run");
    fine_tune(&config, stopped_after(2)).unwrap();
    let rows = std::fs::read_to_string(lab.path("train.jsonl")).unwrap();
    std::fs::write(
        lab.path("train.jsonl"),
        rows.lines().skip(1).collect::<Vec<_>>().join("\n"),
    )
    .unwrap();
    let error = resume(&config.out, RunOptions::default()).unwrap_err();
    assert!(matches!(error, TrainError::Changed { .. }), "{error}");
}

#[test]
fn a_directory_holds_one_run_and_one_process() {
    let lab = Lab::new();
    let config = lab.config("run");
    assert!(matches!(
        resume(&config.out, RunOptions::default()),
        Err(TrainError::NothingToResume { .. })
    ));
    fine_tune(&config, stopped_after(1)).unwrap();
    assert!(matches!(
        fine_tune(&config, RunOptions::default()),
        Err(TrainError::RunExists(_))
    ));
    let _lock = RunDir::new(&config.out).lock().unwrap();
    assert!(matches!(
        resume(&config.out, RunOptions::default()),
        Err(TrainError::Locked(_))
    ));
}

#[test]
fn an_exploding_run_stops_and_keeps_its_last_good_state() {
    let lab = Lab::new();
    let config = TrainConfig {
        lr: 1e30,
        max_grad_norm: 0.0,
        warmup_ratio: 0.0,
        valid: Vec::new(),
        ..lab.config("run")
    };
    let error = fine_tune(&config, RunOptions::default()).unwrap_err();
    let TrainError::NotFinite { step, .. } = error else {
        panic!("{error}")
    };
    assert!(step > 1);
    let kept = RunDir::new(&config.out)
        .checkpoints()
        .join(format!("step-{:08}", step - 1));
    load_dir(&kept, &Device::flex()).unwrap();
}

#[test]
fn patience_ends_a_run_that_gains_nothing() {
    let lab = Lab::new();
    // A rate of almost nothing: no validation is better than the one before training by more than rounding.
    let config = TrainConfig {
        lr: 1e-12,
        eval_every: 1,
        patience: 3,
        steps: Some(100),
        ..lab.config("run")
    };
    let outcome = run(&config);
    assert_eq!(outcome.ending, Ending::StoppedEarly);
    assert!(outcome.steps < 100);
    // Resumed, it has ended still, and what could not be written at its end is written.
    let (steps, last) = (outcome.steps, weights(&outcome.model_dir));
    std::fs::remove_dir_all(&outcome.model_dir).unwrap();
    let again = resume(&config.out, RunOptions::default()).unwrap();
    assert_eq!((again.ending, again.steps), (Ending::StoppedEarly, steps));
    assert_eq!(weights(&again.model_dir), last);
}

#[test]
fn a_run_that_was_stopped_before_its_first_step_is_whole_when_resumed() {
    let lab = Lab::new();
    // One validation that does not gain more than it should ends it.
    let config = |name: &str| TrainConfig {
        eval_every: 1,
        patience: 1,
        ..lab.config(name)
    };
    let whole = run(&config("whole"));
    let parts = config("parts");
    let part = fine_tune(&parts, stopped_before_a_step()).unwrap();
    assert_eq!((part.ending, part.steps), (Ending::Interrupted, 0));
    let rest = resume(&parts.out, RunOptions::default()).unwrap();
    assert_eq!(essence(&rest.run), essence(&whole.run));
    assert_eq!((rest.ending, rest.best), (whole.ending, whole.best));
}

#[test]
fn a_run_that_went_on_with_another_template_can_be_resumed_as_it_is() {
    let lab = Lab::new();
    let config = lab.config("run");
    fine_tune(&config, stopped_after(5)).unwrap();
    let options = RunOptions {
        template: Some(TemplateChoice::Builtin("edit".into())),
        ..stopped_before_a_step()
    };
    assert_eq!(resume(&config.out, options).unwrap().steps, 5);
    let rest = resume(&config.out, RunOptions::default()).unwrap();
    assert_eq!((rest.ending, rest.steps), (Ending::Finished, 12));
}

/// Asked to stop before it began.
fn stopped_before_a_step() -> RunOptions {
    let options = RunOptions::default();
    options.interrupter.stop(Some("test"));
    options
}

#[test]
fn rows_that_do_not_fit_are_an_error_or_left_out_but_never_silent() -> Result<()> {
    let lab = Lab::new();
    let config = TrainConfig {
        max_length: 90,
        ..lab.config("run")
    };
    let error = fine_tune(&config, RunOptions::default()).unwrap_err().to_string();
    assert!(
        error.contains("do not fit into 90") && error.contains("train.jsonl:"),
        "{error}"
    );
    let config = TrainConfig {
        on_long_row: aligner_train::RowPolicy::Skip,
        ..config
    };
    assert_eq!(
        fine_tune(&config, RunOptions::default())?.ending,
        Ending::Finished
    );
    let config = TrainConfig {
        max_length: 5,
        out: lab.path("none"),
        ..config
    };
    let error = fine_tune(&config, RunOptions::default()).unwrap_err().to_string();
    assert!(
        error.contains("no usable row") && error.contains("100 rows were left out"),
        "{error}"
    );
    Ok(())
}

#[test]
fn a_run_by_epochs_takes_every_row_and_ends_with_the_last() {
    let lab = Lab::new();
    let config = TrainConfig {
        steps: None,
        epochs: 1,
        valid: Vec::new(),
        ..lab.config("run")
    };
    assert_eq!(run(&config).steps, 13);
    let records = records(&config.out);
    assert_eq!(records.last().unwrap().epoch, 1.0);
}

#[test]
fn another_template_is_refused_with_both_shown_unless_asked_for() {
    let lab = Lab::new();
    let config = lab.config("run");
    fine_tune(&config, stopped_after(2)).unwrap();
    let edit = TemplateChoice::Builtin("edit".into());
    let path = RunDir::new(&config.out).config();
    let changed = TrainConfig {
        template: edit.clone(),
        ..config.clone()
    };
    RunDir::new(&config.out).write_config(&changed).unwrap();
    let error = resume(&config.out, RunOptions::default())
        .unwrap_err()
        .to_string();
    for template in [
        PromptTemplate::default(),
        PromptTemplate::builtin("edit").unwrap(),
    ] {
        assert!(error.contains(&template.fingerprint()), "{error}");
    }
    RunDir::new(&config.out).write_config(&config).unwrap();
    let options = RunOptions {
        template: Some(edit.clone()),
        ..stopped_after(5)
    };
    assert_eq!(resume(&config.out, options).unwrap().steps, 5);
    // From then on it is the run's own.
    assert_eq!(TrainConfig::read(&path).unwrap().template, edit);
    assert_eq!(resume(&config.out, RunOptions::default()).unwrap().steps, 12);
}

#[test]
fn another_tokenizer_is_refused_with_both_shown() {
    let lab = Lab::new();
    let config = lab.config("run");
    fine_tune(&config, stopped_after(2)).unwrap();
    let before = aligner_data::Tokenizer::from_dir(&config.model).unwrap();
    let path = config.model.join("tokenizer.json");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text + "\n").unwrap();
    let after = aligner_data::Tokenizer::from_dir(&config.model).unwrap();
    let error = resume(&config.out, RunOptions::default())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains(before.hash()) && error.contains(after.hash()),
        "{error}"
    );
}
