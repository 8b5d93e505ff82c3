//! Runs of the objectives beside the correction on a tiny model: what they learn, what they write, and that a resumed run is the
//! undisturbed one.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    missing_docs
)]

mod lab;

use std::io::Write;
use std::path::{Path, PathBuf};

use aligner_data::{AlignerManifest, ChatFormat, Tokenizer};
use aligner_model::{Precision, ScoreKind, load_dir, load_score_dir};
use aligner_train::{
    LoraChoice, ObjectiveKind, PairMetrics, RunOptions, RunSize, Split, TrainConfig, TrainError,
    WarmupChoice, fine_tune, resume,
};
use burn::tensor::Device;
use lab::{Lab, essence, records, run, stopped_after, weights};
use serde_json::{Value, json};

const WORDS: [&str; 12] = [
    "apples", "books", "coins", "cups", "eggs", "keys", "lamps", "maps", "nuts", "pears", "pens", "plums",
];

/// Numbers that look random and are the same each time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }

    fn answer(&mut self, words: usize) -> String {
        let words: Vec<&str> = (0..words).map(|_| WORDS[self.below(WORDS.len())]).collect();
        words.join(" ") + "."
    }
}

fn write(path: &Path, rows: impl Iterator<Item = Value>) {
    let mut file = std::fs::File::create(path).unwrap();
    for row in rows {
        writeln!(file, "{row}").unwrap();
    }
}

/// Pairs of answers of which the longer one is chosen.
fn longer(seed: u64, count: usize) -> impl Iterator<Item = Value> {
    let mut numbers = Numbers(seed);
    (0..count).map(move |_| {
        let short = 1 + numbers.below(4);
        let long = short + 2 + numbers.below(4);
        json!({
            "prompt": format!("What do you see, {}?", WORDS[numbers.below(WORDS.len())]),
            "chosen": numbers.answer(long),
            "rejected": numbers.answer(short),
        })
    })
}

/// Pairs of answers, of which those that speak of a fool are harmful; a pair may have two or none of them.
fn labelled(seed: u64, count: usize) -> impl Iterator<Item = Value> {
    let mut numbers = Numbers(seed);
    (0..count).map(move |_| {
        // Whether each is harmful: both, one, the other, or none, of which then the first is called safer.
        let harmful = [numbers.below(3) == 0, numbers.below(3) > 0];
        let mut answer = |harmful: bool| match harmful {
            true => format!("You fool, {}", numbers.answer(2)),
            false => numbers.answer(3),
        };
        json!({
            "prompt": "What do you see?",
            "response_0": answer(harmful[0]),
            "response_1": answer(harmful[1]),
            "is_response_0_safe": !harmful[0],
            "is_response_1_safe": !harmful[1],
            "better_response_id": 0,
            "safer_response_id": i32::from(harmful[0] && !harmful[1]),
        })
    })
}

fn config(lab: &Lab, objective: ObjectiveKind, out: &str, steps: u64) -> TrainConfig {
    TrainConfig {
        objective,
        data: vec![lab.path(&format!("{objective}.jsonl"))],
        valid: vec![lab.path(&format!("{objective}-valid.jsonl"))],
        steps: Some(steps),
        micro_batch: 8,
        accumulate: 2,
        lr: 3e-3,
        warmup: WarmupChoice::default(),
        ..lab.config(out)
    }
}

/// A tiny model with rows of each objective.
fn lab() -> Lab {
    let lab = Lab::new();
    for name in ["reward", "dpo"] {
        write(&lab.path(&format!("{name}.jsonl")), longer(1, 400));
        write(&lab.path(&format!("{name}-valid.jsonl")), longer(2, 64));
    }
    write(&lab.path("cost.jsonl"), labelled(3, 400));
    write(&lab.path("cost-valid.jsonl"), labelled(4, 64));
    let chats = |seed, count| {
        let chat = |row: Value| json!({"prompt": row["prompt"], "completion": "I see nothing at all."});
        longer(seed, count).map(chat)
    };
    write(&lab.path("sft.jsonl"), chats(5, 100));
    write(&lab.path("sft-valid.jsonl"), chats(6, 16));
    lab
}

fn last_pairs(run: &Path) -> PairMetrics {
    let records = records(run);
    let valid: Vec<_> = records
        .iter()
        .filter(|record| record.split == Split::Valid)
        .collect();
    let (first, last) = (valid[0], valid[valid.len() - 1]);
    println!(
        "{:?}: {:?} → {:?}",
        last.stage,
        first.pairs.unwrap(),
        last.pairs.unwrap()
    );
    last.pairs.unwrap()
}

#[test]
fn a_reward_model_learns_which_answer_is_preferred() {
    let lab = lab();
    let outcome = run(&config(&lab, ObjectiveKind::Reward, "run", 60));
    let pairs = last_pairs(&outcome.run);
    assert!(pairs.pair_accuracy > 0.9, "{pairs:?}");
    assert!(pairs.pair_margin > 1.0, "{pairs:?}");
    let before = records(&outcome.run)[0].pairs.unwrap();
    assert!(before.pair_accuracy < 0.9, "{before:?}");
    let records = records(&outcome.run);
    let step = records
        .iter()
        .find(|record| record.split == Split::Train)
        .unwrap();
    assert_eq!(step.pairs, None);
    // What comes out is a reward model and no Aligner.
    let loaded = load_score_dir(&outcome.model_dir, &Device::flex()).unwrap();
    assert_eq!(loaded.config.score.unwrap().kind, ScoreKind::Reward);
    assert_eq!(AlignerManifest::read(&outcome.model_dir).unwrap(), None);
    Tokenizer::from_dir(&outcome.model_dir).unwrap();
}

#[test]
fn a_cost_model_learns_which_answers_are_harmful() {
    let lab = lab();
    let outcome = run(&config(&lab, ObjectiveKind::Cost, "run", 60));
    let pairs = last_pairs(&outcome.run);
    assert!(pairs.sign_accuracy.unwrap() > 0.9, "{pairs:?}");
    let loaded = load_score_dir(&outcome.model_dir, &Device::flex()).unwrap();
    assert_eq!(loaded.config.score.unwrap().kind, ScoreKind::Cost);
}

#[test]
fn dpo_makes_the_preferred_answers_more_likely() {
    let lab = lab();
    for precision in [Precision::F32, Precision::Bf16] {
        let outcome = run(&TrainConfig {
            precision,
            ..config(&lab, ObjectiveKind::Dpo, &format!("{precision}"), 30)
        });
        let records = records(&outcome.run);
        let first = records[0].pairs.unwrap();
        assert_eq!(
            first.pair_margin, 0.0,
            "before the first step the model is its reference"
        );
        assert!((records[0].loss - std::f64::consts::LN_2).abs() < 1e-6);
        let pairs = last_pairs(&outcome.run);
        assert!(pairs.pair_accuracy > 0.9, "{precision}: {pairs:?}");
        load_dir(&outcome.model_dir, &Device::flex()).unwrap();
        assert_eq!(AlignerManifest::read(&outcome.model_dir).unwrap(), None);
    }
}

#[test]
fn an_upstream_learns_its_answers_alone() {
    let lab = lab();
    let outcome = run(&config(&lab, ObjectiveKind::Sft, "run", 60));
    let records = records(&outcome.run);
    let valid: Vec<_> = records
        .iter()
        .filter(|record| record.split == Split::Valid)
        .collect();
    assert!(
        valid.last().unwrap().loss < 0.5 * valid[0].loss,
        "{} {}",
        valid[0].loss,
        valid.last().unwrap().loss
    );
    let tokenizer = Tokenizer::from_dir(&outcome.model_dir).unwrap();
    // The answer and its end carry loss, nothing before it.
    let answer = tokenizer.encode_target("I see nothing at all.").unwrap().len() as u64 + 1;
    assert_eq!(valid[0].target_tokens, 16 * answer);
    assert_eq!(AlignerManifest::read(&outcome.model_dir).unwrap(), None);
}

#[test]
fn an_upstream_is_not_taught_what_is_labelled_as_bad() {
    let lab = lab();
    let good = "I see nothing at all.";
    let row = |prompt: &str, text: &str, is_good: bool, columns: [&str; 2]| {
        let mut row = json!({"prompt": prompt});
        row[columns[0]] = text.into();
        row[columns[1]] = is_good.into();
        row
    };
    let config = config(&lab, ObjectiveKind::Sft, "run", 1);
    for columns in [["completion", "label"], ["response", "is_safe"]] {
        let rows = [
            row(
                "What?",
                "Pens and pens and pens, you fool, and keys and keys.",
                false,
                columns,
            ),
            row("What?", good, true, columns),
            row("Where?", "You fool.", false, columns),
        ];
        write(&lab.path("sft.jsonl"), rows.into_iter());
        let size = RunSize::of(&config).unwrap();
        // One step of sixteen rows, all of them with the good answer.
        let tokenizer = Tokenizer::from_dir(&lab.path("base")).unwrap();
        let answer = tokenizer.encode_target(good).unwrap().len() as u64 + 1;
        assert_eq!((size.rows, size.target_tokens), (1, 16 * answer), "{columns:?}");
    }
}

#[test]
fn tokens_of_pairs_are_those_of_both_answers_in_the_plan_and_in_the_records() {
    let lab = lab();
    for objective in [ObjectiveKind::Reward, ObjectiveKind::Cost, ObjectiveKind::Dpo] {
        let config = TrainConfig {
            data: vec![lab.path(&format!("{objective}-valid.jsonl"))],
            ..config(&lab, objective, &format!("{objective}"), 4)
        };
        let planned = RunSize::of(&config).unwrap();
        let records = records(&run(&config).run);
        let of = |split| {
            let records = records.iter().filter(|record| record.split == split);
            records.fold((0, 0), |(tokens, targets), record| {
                (tokens + record.tokens, targets + record.target_tokens)
            })
        };
        let valid = records
            .iter()
            .filter(|record| record.split == Split::Valid)
            .count() as u64;
        assert_eq!(
            of(Split::Train),
            (planned.tokens, planned.target_tokens),
            "{objective}"
        );
        assert_eq!(
            of(Split::Valid),
            (valid * planned.tokens, valid * planned.target_tokens),
            "{objective}"
        );
        assert!(planned.target_tokens > 2 * 64, "{objective}: {planned:?}");
    }
}

#[test]
fn a_resumed_run_of_any_objective_equals_an_undisturbed_one() {
    let lab = lab();
    for objective in [
        ObjectiveKind::Sft,
        ObjectiveKind::Reward,
        ObjectiveKind::Cost,
        ObjectiveKind::Dpo,
    ] {
        let config = |out: &str| TrainConfig {
            save_every: 4,
            eval_every: 3,
            ..config(&lab, objective, &format!("{objective}-{out}"), 8)
        };
        let whole = run(&config("whole"));
        let part = config("parts");
        assert_eq!(fine_tune(&part, stopped_after(3)).unwrap().steps, 3);
        let rest = resume(&part.out, RunOptions::default()).unwrap();
        assert_eq!(essence(&rest.run), essence(&whole.run), "{objective}");
        assert_eq!(weights(&rest.model_dir), weights(&whole.model_dir), "{objective}");
        assert_eq!(rest.best, whole.best);
        let pairs = |run: &Path| records(run).iter().map(|record| record.pairs).collect::<Vec<_>>();
        assert_eq!(pairs(&rest.run), pairs(&whole.run), "{objective}");
    }
}

#[test]
fn computing_activations_again_changes_no_number() {
    let lab = lab();
    for objective in [ObjectiveKind::Reward, ObjectiveKind::Cost, ObjectiveKind::Dpo] {
        let config = |checkpointing: bool| TrainConfig {
            checkpointing,
            ..config(&lab, objective, &format!("{objective}-{checkpointing}"), 3)
        };
        let (kept, again) = (run(&config(false)), run(&config(true)));
        assert_eq!(essence(&again.run), essence(&kept.run), "{objective}");
        assert_eq!(weights(&again.model_dir), weights(&kept.model_dir), "{objective}");
    }
}

#[test]
fn several_devices_compute_one_step() {
    let lab = lab();
    let alone = config(&lab, ObjectiveKind::Reward, "alone", 3);
    let both = TrainConfig {
        device: "cpu,cpu".into(),
        ..config(&lab, ObjectiveKind::Reward, "both", 3)
    };
    let (alone, both) = (run(&alone), run(&both));
    assert_eq!(essence(&both.run), essence(&alone.run));
    assert_eq!(weights(&both.model_dir), weights(&alone.model_dir));
}

#[test]
fn a_reward_model_is_trained_further_and_dpo_trains_an_adapter() {
    let lab = lab();
    let first = run(&config(&lab, ObjectiveKind::Reward, "first", 4));
    let again = TrainConfig {
        model: first.model_dir.clone(),
        ..config(&lab, ObjectiveKind::Reward, "again", 4)
    };
    let before = records(&first.run).last().unwrap().loss;
    let second = run(&again);
    assert_eq!(
        records(&second.run)[0].loss,
        before,
        "it goes on from where the first one ended"
    );
    // A reward model is no cost model.
    let other = TrainConfig {
        objective: ObjectiveKind::Cost,
        data: vec![lab.path("cost.jsonl")],
        valid: Vec::new(),
        out: lab.path("other"),
        ..again
    };
    let error = fine_tune(&other, RunOptions::default()).unwrap_err().to_string();
    assert!(
        error.contains("reward model") && error.contains("cost"),
        "{error}"
    );
    let adapter = TrainConfig {
        lora: Some(LoraChoice::default()),
        ..config(&lab, ObjectiveKind::Dpo, "adapter", 4)
    };
    let outcome = run(&adapter);
    assert_eq!(records(&outcome.run)[0].pairs.unwrap().pair_margin, 0.0);
    assert!(last_pairs(&outcome.run).pair_margin > 0.0);
}

/// The tiny model with another tokenizer: the same, but its control tokens are those of ChatML.
fn with_chatml(lab: &Lab) -> PathBuf {
    let dir = lab.path("chatml");
    std::fs::create_dir(&dir).unwrap();
    for entry in std::fs::read_dir(lab.path("base")).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        if path
            .file_name()
            .unwrap()
            .to_string_lossy()
            .starts_with("tokenizer")
        {
            let text = String::from_utf8(bytes).unwrap();
            bytes = text
                .replace("<pad>", "<|im_start|>")
                .replace("<eos>", "<|im_end|>")
                .into();
        }
        std::fs::write(dir.join(path.file_name().unwrap()), bytes).unwrap();
    }
    dir
}

#[test]
fn a_trained_model_records_how_its_chats_were_written() {
    let lab = lab();
    let base = with_chatml(&lab);
    let chat_of = |dir: &Path| {
        ChatFormat::of(&Tokenizer::from_dir(dir).unwrap())
            .unwrap()
            .fingerprint()
    };
    let named = |objective, out: &str| TrainConfig {
        model: base.clone(),
        chat_format: "chatml".into(),
        ..config(&lab, objective, out, 2)
    };
    // A format that was named, of each kind of model; nothing else in the directory tells it.
    for (objective, out) in [(ObjectiveKind::Sft, "sft"), (ObjectiveKind::Reward, "reward")] {
        let first = run(&named(objective, out));
        assert_eq!(chat_of(&first.model_dir), "chatml");
        // One that goes on from it takes it over.
        let further = run(&TrainConfig {
            model: first.model_dir.clone(),
            ..config(&lab, objective, &format!("{out}-further"), 2)
        });
        assert_eq!(chat_of(&further.model_dir), "chatml");
        let last = records(&first.run).last().unwrap().loss;
        assert_eq!(records(&further.run)[0].loss, last);
    }
    let adapter = run(&TrainConfig {
        lora: Some(LoraChoice::default()),
        ..named(ObjectiveKind::Dpo, "adapter")
    });
    assert_eq!(chat_of(&adapter.model_dir), "chatml");
    // One that was told, with what its template says for the system, when the template is gone.
    let template = "{{ '<|im_start|>system\\nBe brief.<|im_end|>\\n' }}";
    std::fs::write(base.join("chat_template.jinja"), template).unwrap();
    let told = run(&TrainConfig {
        model: base.clone(),
        ..config(&lab, ObjectiveKind::Sft, "told", 2)
    });
    std::fs::remove_file(told.model_dir.join("chat_template.jinja")).unwrap();
    assert_eq!(chat_of(&told.model_dir), "chatml system \"Be brief.\"");
    // And the one without a template, when there is one.
    let plain = run(&config(&lab, ObjectiveKind::Sft, "plain", 2));
    std::fs::write(plain.model_dir.join("chat_template.jinja"), template).unwrap();
    assert_eq!(chat_of(&plain.model_dir), "safe-rlhf");
}

#[test]
fn a_chat_format_whose_control_tokens_are_words_to_the_tokenizer_is_refused() {
    let lab = lab();
    let config = TrainConfig {
        model: with_chatml(&lab),
        chat_format: "llama3".into(),
        ..config(&lab, ObjectiveKind::Sft, "run", 2)
    };
    let error = fine_tune(&config, RunOptions::default()).unwrap_err().to_string();
    assert!(
        error.contains("llama3") && error.contains("<|begin_of_text|>"),
        "{error}"
    );
}

#[test]
fn settings_that_mean_nothing_to_an_objective_are_refused() {
    let lab = lab();
    let usable = config(&lab, ObjectiveKind::Reward, "run", 4);
    usable.validate().unwrap();
    for (key, config) in [
        (
            "lora",
            TrainConfig {
                lora: Some(LoraChoice::default()),
                ..usable.clone()
            },
        ),
        (
            "identity_share",
            TrainConfig {
                identity_share: 0.1,
                ..usable.clone()
            },
        ),
        (
            "warmup",
            TrainConfig {
                warmup: WarmupChoice {
                    share: Some(0.2),
                    ..WarmupChoice::default()
                },
                ..usable.clone()
            },
        ),
        (
            "beta",
            TrainConfig {
                objective: ObjectiveKind::Dpo,
                beta: 0.0,
                ..usable.clone()
            },
        ),
        (
            "device",
            TrainConfig {
                objective: ObjectiveKind::Dpo,
                device: "cpu,cpu".into(),
                ..usable.clone()
            },
        ),
    ] {
        let error = config.validate().unwrap_err();
        assert!(
            matches!(error, TrainError::Config { .. }) && error.to_string().starts_with(key),
            "{error}"
        );
    }
    // Rows with one answer are no pairs.
    let single = TrainConfig {
        data: vec![lab.path("sft.jsonl")],
        ..usable
    };
    assert!(fine_tune(&single, RunOptions::default()).is_err());
}
