//! What is asked wrongly, and what fails.

use super::*;

#[test]
fn what_is_asked_wrongly_exits_with_two_and_says_what_would_be_right() {
    let lab = Lab::new();
    for (arguments, part) in [
        ("correct --model base --input few.jsonl", "--template"),
        (
            "correct --model base --template nonsense --input few.jsonl",
            "edit, revision, correction",
        ),
        ("correct --input few.jsonl", "aligner train"),
        ("correct --model base", "--question"),
        (
            "correct --model base --template edit --input few.jsonl --top-p 2",
            "top_p",
        ),
        (
            "correct --model base --template edit --input few.jsonl --device cuda",
            "--features cuda",
        ),
        (
            "correct --model base --template edit --input few.jsonl --device tpu",
            "cpu, cuda[:N]",
        ),
        ("train --model base", "data"),
        ("train --model base --data train.jsonl --lr 0", "lr"),
        (
            "train --model base --data train.jsonl --warmup-share 2",
            "warmup.share: must be in 0..=1",
        ),
        (
            "train --model base --data train.jsonl --warmup-share 0.1 --warmup-data few.jsonl",
            "cannot be used with",
        ),
        (
            "train --model base --data train.jsonl --warmup-from question",
            "answer, correction",
        ),
        (
            "train --model base --data train.jsonl --identity-share 0.7",
            "identity_share: must be in 0..=0.5",
        ),
        (
            "train --model base --data train.jsonl --best-by exact_match",
            "best_by",
        ),
        (
            "train --model base --data train.jsonl --best-by bleu",
            "loss, exact_match",
        ),
        (
            "train --model base --data train.jsonl --columns answer",
            "field=column",
        ),
        (
            "train --model base --data train.jsonl --beta 0.5",
            "beta: is nothing for the objective correction",
        ),
        (
            "train --model base --data train.jsonl --valid few.jsonl --patience 2",
            "eval_every",
        ),
        ("train --objective reward", "--model"),
        (
            "train --model base --data train.jsonl --device cpu,cpu --accumulate 2 --fit",
            "more than once",
        ),
        ("train --resume --out nowhere", "nowhere"),
        ("data show few.jsonl --model base --row 99", "no row 99"),
        (
            "score --model base --template edit --input few.jsonl --columns x=y",
            "fields are question",
        ),
        (
            "score --model base --template edit --input few.jsonl --format csv",
            "formats are qac, hh-rlhf",
        ),
        ("data convert few.jsonl --out train.jsonl", "--overwrite"),
        (
            "data convert few.jsonl --out new.jsonl --prefer best",
            "preferences are safer, better",
        ),
        ("frobnicate", "unrecognized subcommand"),
    ] {
        let message = lab.fails(2, arguments);
        assert!(message.contains(part), "{arguments}: {message}");
    }
    std::fs::write(lab.path("run.toml"), "micro_bach = 3").unwrap();
    assert!(lab.fails(2, "train --config run.toml").contains("`micro_batch`"));
}

#[test]
fn what_fails_exits_with_one_and_names_the_file() {
    let lab = Lab::new();
    std::fs::write(lab.path("bad.jsonl"), "{\"question\": \"q\"}\n").unwrap();
    for (arguments, part) in [
        (
            "score --model base --template edit --input none.jsonl",
            "none.jsonl",
        ),
        (
            "score --model base --template edit --input bad.jsonl",
            "bad.jsonl:1: row 0",
        ),
        ("train --model base --data bad.jsonl", "bad.jsonl:1: row 0"),
        ("data check bad.jsonl", "1 rows cannot be read"),
    ] {
        let message = lab.fails(1, arguments);
        assert!(message.contains(part), "{arguments}: {message}");
    }
    assert!(
        lab.fails(2, "correct --model none --question q --answer a")
            .contains("no model directory")
    );
}

#[test]
fn a_run_that_never_began_is_not_the_latest_and_takes_no_name() {
    let lab = Lab::new();
    lab.ok(&format!("{TRAIN} --out good"));
    lab.fails(1, "train --model base --data none.jsonl");
    lab.fails(2, "train --model base --data train.jsonl --lr 0");
    lab.fails(1, "train --model base --data none.jsonl");
    let latest = std::fs::read_to_string(lab.path("runs/latest")).unwrap();
    assert!(latest.ends_with("good"), "{latest}");
    assert_eq!(lab.ok(TRAIN).trim(), "runs/base/final");
}

#[test]
fn a_resumed_run_refuses_other_values_and_a_started_one_a_second_start() {
    let lab = Lab::new();
    lab.ok(&format!("{TRAIN} --out run"));
    assert!(lab.fails(2, &format!("{TRAIN} --out run")).contains("--resume"));
    assert!(
        lab.fails(2, "train --resume --out run --lr 1e-3")
            .contains("values of: lr")
    );
    assert!(
        lab.fails(2, "train --resume --out run --warmup-share 0.5")
            .contains("values of: warmup")
    );
    assert_eq!(lab.ok("train --resume --out run").trim(), "run/final");
    // A file that leaves the warm-up to the model asks for what the model decided.
    std::fs::write(
        lab.path("same.toml"),
        std::fs::read_to_string(lab.path("run/run.toml"))
            .unwrap()
            .replace("share = 0.2\n", ""),
    )
    .unwrap();
    lab.ok("train --resume --out run --config same.toml");
}

#[test]
fn a_named_template_overrides_the_recorded_one_with_a_warning() {
    let lab = Lab::new();
    lab.ok(&format!("{TRAIN} --out run"));
    let output = lab.run("correct --model run --template edit --max-new-tokens 2 --input few.jsonl");
    assert!(output.status.success());
    let warning = text(&output.stderr);
    assert!(
        warning.contains("was trained on template \"correction\"") && warning.contains("sha256:"),
        "{warning}"
    );
}
