//! The command as a user runs it: files in, files and exit status out.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "../lab/mod.rs"]
mod lab;

mod data;
mod models;
mod refusals;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use lab::{Lab, TRAIN, lines, losses, text};
use serde_json::Value;

#[test]
fn train_then_correct_score_and_show_with_the_latest_run() {
    let lab = Lab::new();
    let out = lab.ok(TRAIN);
    assert_eq!(out.trim(), "runs/base/final");
    assert!(lab.path("runs/base/run.toml").is_file());
    let mut one = lab.command("correct --max-new-tokens 8");
    let one = one
        .args(["--question", "Is it?", "--answer", "It is, you fool."])
        .output()
        .unwrap();
    assert!(
        one.status.success() && !one.stdout.is_empty(),
        "{}",
        text(&one.stderr)
    );
    let scores = lines(&lab.ok("score --input few.jsonl --per-token"));
    assert_eq!(scores.len(), 6);
    for score in &scores {
        let each: f64 = score["token_logprobs"]
            .as_array()
            .unwrap()
            .iter()
            .map(|p| p.as_f64().unwrap())
            .sum();
        assert!((each - score["logprob"].as_f64().unwrap()).abs() < 1e-9);
    }
    let shown = lab.ok("data show few.jsonl --row 2");
    assert!(shown.starts_with("position\tid\tloss\ttoken"));
    let loss_column: Vec<&str> = shown
        .lines()
        .skip(1)
        .map(|line| line.split('\t').nth(2).unwrap())
        .collect();
    let first_target = loss_column.iter().position(|&loss| loss == "1").unwrap();
    assert!(first_target > 5 && loss_column[first_target..].iter().all(|&loss| loss == "1"));
    assert!(shown.lines().last().unwrap().contains("<eos>"));
}

#[test]
fn a_run_killed_at_any_moment_resumes_to_the_same_end() {
    let lab = Lab::new();
    lab.ok(&format!("{TRAIN} --out whole"));
    let mut kills = 0;
    let mut delay = 150;
    while !lab.path("killed/final").is_dir() {
        let arguments = if lab.path("killed/run.toml").is_file() {
            "train --resume --out killed".to_string()
        } else {
            format!("{TRAIN} --out killed")
        };
        let mut child = lab
            .command(&arguments)
            .stderr(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let started = Instant::now();
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                assert!(status.success(), "after {kills} kills: {status}");
                break;
            }
            if started.elapsed() > Duration::from_millis(delay) {
                child.kill().unwrap();
                child.wait().unwrap();
                kills += 1;
                break;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        // Longer each time, so that a slow machine gets to the end too.
        delay += 97;
    }
    assert!(kills > 0, "the run was too short to be killed");
    assert_eq!(losses(&lab.path("killed")), losses(&lab.path("whole")));
    // Through both stages: three steps of copying, sixteen of correcting.
    assert_eq!(losses(&lab.path("killed")).last().unwrap().0, 19);
    let samples = |run: &str| std::fs::read(lab.path(run).join("samples.jsonl")).unwrap();
    assert_eq!(samples("killed"), samples("whole"));
    let weights = |run: &str| std::fs::read(lab.path(run).join("final/model.safetensors")).unwrap();
    assert_eq!(weights("killed"), weights("whole"));
}

#[cfg(unix)]
#[test]
fn a_signal_saves_and_ends_the_run() {
    let lab = Lab::new();
    for signal in ["INT", "TERM"] {
        let out = format!("stopped-{signal}");
        let long = TRAIN.replace("--steps 16", "--steps 100000");
        let mut child = lab
            .command(&format!("{long} --out {out}"))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let started = Instant::now();
        while losses_so_far(&lab.path(&out)) < 3 {
            assert!(
                started.elapsed() < Duration::from_secs(60),
                "the run does not get going"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        let sent = Command::new("kill")
            .args([&format!("-{signal}"), &child.id().to_string()])
            .status()
            .unwrap();
        assert!(sent.success());
        assert!(child.wait().unwrap().success());
        let model = text(
            &std::io::read_to_string(child.stdout.take().unwrap())
                .unwrap()
                .into_bytes(),
        );
        assert!(model.contains(&format!("{out}/checkpoints/step-")), "{model}");
        assert!(
            Path::new(&lab.path(model.trim()))
                .join("checkpoint.json")
                .is_file()
        );
    }
}

#[cfg(unix)]
fn losses_so_far(run: &Path) -> usize {
    std::fs::read_to_string(run.join("metrics.jsonl")).map_or(0, |text| text.lines().count())
}

#[test]
fn a_batch_keeps_rows_and_order_and_goes_on_where_it_stopped() {
    let lab = Lab::new();
    let correct = "correct --model base --template correction --max-new-tokens 6 --input few.jsonl";
    lab.ok(&format!("{correct} --output out.jsonl"));
    let whole = std::fs::read_to_string(lab.path("out.jsonl")).unwrap();
    let (rows, inputs) = (
        lines(&whole),
        lines(&std::fs::read_to_string(lab.path("few.jsonl")).unwrap()),
    );
    assert_eq!(rows.len(), 6);
    for (row, input) in rows.iter().zip(&inputs) {
        for field in ["question", "answer", "correction"] {
            assert_eq!(row[field], input[field]);
        }
        assert!(row["corrected"].is_string() && row["seconds"].is_number());
        assert!(row["timings"]["prefill_seconds"].as_f64().unwrap() > 0.0);
        assert!(row["timings"]["decode_seconds"].is_number());
        assert!(["stop", "length"].contains(&row["finish_reason"].as_str().unwrap()));
        assert!(row["usage"]["completion_tokens"].as_u64().unwrap() <= 6);
        assert!(row["usage"]["prompt_tokens"].as_u64().unwrap() > 5);
    }
    // Two rows and a half were written when the machine went down.
    let second_end = whole.match_indices('\n').nth(1).unwrap().0;
    std::fs::write(lab.path("out.jsonl"), &whole[..second_end + 40]).unwrap();
    lab.ok(&format!("{correct} --output out.jsonl"));
    let without_time = |text: &str| -> Vec<Value> {
        let mut rows = lines(text);
        for row in &mut rows {
            // What is drafted depends on how long passes take.
            for field in ["draft_proposed", "draft_accepted"] {
                row["usage"][field] = Value::Null;
            }
            (row["seconds"], row["timings"]) = (Value::Null, Value::Null);
        }
        rows
    };
    let again = std::fs::read_to_string(lab.path("out.jsonl")).unwrap();
    assert_eq!(without_time(&again), without_time(&whole));
    assert_eq!(
        without_time(&lab.ok(correct)),
        without_time(&whole),
        "stdout gets the same rows"
    );
    for switch in ["--parallel 4", "--parallel 2 --no-draft", "--no-draft"] {
        assert_eq!(
            without_time(&lab.ok(&format!("{correct} {switch}"))),
            without_time(&whole),
            "{switch}"
        );
    }
    // The file is continued by many at once, too.
    std::fs::write(lab.path("out.jsonl"), &whole[..second_end + 40]).unwrap();
    lab.ok(&format!("{correct} --output out.jsonl --parallel 3"));
    let again = std::fs::read_to_string(lab.path("out.jsonl")).unwrap();
    assert_eq!(without_time(&again), without_time(&whole));
    let other = lab.fails(
        2,
        &format!("{} --output out.jsonl", correct.replace("few", "train")),
    );
    assert!(other.contains("--overwrite"), "{other}");
}

#[test]
fn an_output_that_is_no_output_of_ours_stays_as_it_is() {
    let lab = Lab::new();
    let correct = "correct --model base --template correction --max-new-tokens 2 --input few.jsonl";
    lab.ok(&format!("{correct} --output out.jsonl"));
    let whole = std::fs::read_to_string(lab.path("out.jsonl")).unwrap();
    let damaged = whole.replacen("{\"", "[\"", 1);
    let rows = std::fs::read_to_string(lab.path("train.jsonl")).unwrap();
    for (name, text, part) in [
        ("notes.csv", "question,answer\nq,a\n", "notes.csv:1: "),
        ("out.jsonl", &damaged[..], "out.jsonl:1: "),
        ("train.jsonl", &rows[..], "no `corrected`"),
    ] {
        std::fs::write(lab.path(name), text).unwrap();
        let error = lab.fails(2, &format!("{correct} --output {name}"));
        assert!(error.contains(part) && error.contains("--overwrite"), "{error}");
        assert_eq!(std::fs::read_to_string(lab.path(name)).unwrap(), text, "{name}");
    }
    // Nor is the input its own output, whatever it is called.
    let rows = std::fs::read_to_string(lab.path("few.jsonl")).unwrap();
    for output in ["few.jsonl", "./base/../few.jsonl --overwrite"] {
        let error = lab.fails(2, &format!("{correct} --output {output}"));
        assert!(error.contains("--output is --input"), "{error}");
        assert_eq!(std::fs::read_to_string(lab.path("few.jsonl")).unwrap(), rows);
    }
    lab.ok(&format!("{correct} --output notes.csv --overwrite"));
}

#[test]
fn each_row_is_drawn_with_numbers_of_its_own() {
    let lab = Lab::new();
    let row = "{\"question\": \"Is it?\", \"answer\": \"It is.\"}\n";
    std::fs::write(lab.path("same.jsonl"), row.repeat(4)).unwrap();
    let correct =
        "correct --model base --template correction --max-new-tokens 8 --input same.jsonl --temperature 1";
    let texts = |text: &str| -> Vec<String> {
        let rows = lines(text);
        rows.iter()
            .map(|row| row["corrected"].as_str().unwrap().to_string())
            .collect()
    };
    let drawn = lab.ok(&format!("{correct} --seed 3"));
    let rows = texts(&drawn);
    let distinct: std::collections::BTreeSet<&String> = rows.iter().collect();
    assert_eq!(distinct.len(), 4, "{rows:?}");
    assert_eq!(texts(&lab.ok(&format!("{correct} --seed 3 --parallel 3"))), rows);
    assert_ne!(texts(&lab.ok(&format!("{correct} --seed 4"))), rows);
    // A file that is gone on with has the rows of one that was not stopped.
    let two = drawn.split_inclusive('\n').take(2).collect::<String>();
    std::fs::write(lab.path("out.jsonl"), two).unwrap();
    lab.ok(&format!("{correct} --seed 3 --output out.jsonl"));
    assert_eq!(
        texts(&std::fs::read_to_string(lab.path("out.jsonl")).unwrap()),
        rows
    );
}

#[test]
fn a_run_goes_on_with_other_devices_that_are_asked_for() {
    let lab = Lab::new();
    let two = TRAIN.replace("--accumulate 1", "--accumulate 2");
    let run = format!("{two} --out run");
    let twice = lab.fails(2, &format!("{run} --device cuda:0,cuda:0"));
    assert!(
        twice.contains("twice") && twice.contains("cuda:0,cuda:1"),
        "{twice}"
    );
    lab.ok(&format!("{run} --device cpu,cpu"));
    lab.ok(&format!("{two} --out one"));
    assert_eq!(losses(&lab.path("run")), losses(&lab.path("one")));
    let recorded = || std::fs::read_to_string(lab.path("run/run.toml")).unwrap();
    assert!(recorded().contains("device = \"cpu,cpu\""), "{}", recorded());
    let many = lab.fails(2, "train --resume --out run --device cpu,cpu,cpu");
    assert!(many.contains("number of devices"), "{many}");
    lab.ok("train --resume --out run --device cpu");
    assert!(recorded().contains("device = \"cpu\""), "{}", recorded());
}

#[test]
fn a_run_copies_first_then_corrects_and_shows_what_it_writes() {
    let lab = Lab::new();
    let recipe = "--warmup-share 0.5 --warmup-from correction --warmup-steps 4 --warmup-lr 2e-3 --identity-share 0.25 \
                  --eval-sample 5 --eval-every 8 --best-by exact_match --out run";
    let output = lab.run(&format!("{TRAIN} {recipe}"));
    let said = text(&output.stderr);
    assert!(output.status.success(), "{said}");
    for line in [
        "warm-up: 60 rows to copy, 4 steps, lr 2.0e-3",
        "correction: 160 rows, 40 of them to copy, 16 steps, lr 5.0e-3",
    ] {
        assert!(said.contains(line), "{said}");
    }
    assert!(
        said.contains("edit ratio") && said.contains("% of the sample exact"),
        "{said}"
    );
    let jsonl = |name: &str| lines(&std::fs::read_to_string(lab.path("run").join(name)).unwrap());
    let metrics = jsonl("metrics.jsonl");
    let valid: Vec<&Value> = metrics.iter().filter(|line| line["split"] == "valid").collect();
    let steps: Vec<u64> = valid.iter().map(|line| line["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, [0, 4, 8, 16, 20]);
    for line in &valid {
        for metric in ["copy_rate", "edit_ratio", "copy_retention", "exact_match"] {
            let value = line[metric].as_f64().unwrap();
            assert!((0.0..=1.0).contains(&value), "{metric}: {line}");
        }
        // Without a terminal each validation is a line with the same numbers.
        let number = |metric: &str| line[metric].as_f64().unwrap();
        let plain = format!(
            "step {}/20  validation loss {:.4}  exact {:.1} %  copies {:.1} %  edit ratio {:.2}  right ones kept {:.1} %",
            line["step"],
            number("loss"),
            100.0 * number("exact_match"),
            100.0 * number("copy_rate"),
            number("edit_ratio"),
            100.0 * number("copy_retention")
        );
        assert!(said.contains(&plain), "{plain}: {said}");
    }
    assert!(said.contains(" tokens/s"), "{said}");
    let stages: Vec<&str> = metrics
        .iter()
        .filter(|line| line["split"] == "train")
        .map(|line| line["stage"].as_str().unwrap())
        .collect();
    assert_eq!(stages, [vec!["warmup"; 4], vec!["correction"; 16]].concat());
    // What the sample says the model wrote is what the command writes with the finished model.
    let samples = jsonl("samples.jsonl");
    assert_eq!(samples.len(), 25);
    let last: Vec<&Value> = samples.iter().filter(|line| line["step"] == 20).collect();
    let corrected = lines(&lab.ok("correct --model run --input few.jsonl --max-new-tokens 256"));
    for sample in last {
        let row = corrected
            .iter()
            .find(|row| row["question"] == sample["question"])
            .unwrap();
        assert_eq!(
            (&row["answer"], &row["correction"]),
            (&sample["answer"], &sample["reference"])
        );
        let (whole, seen) = (
            row["corrected"].as_str().unwrap(),
            sample["correction"].as_str().unwrap(),
        );
        // A model that does not know how to stop was cut off earlier there.
        assert!(
            whole.starts_with(seen.trim_end_matches('\u{fffd}')),
            "{whole:?} {seen:?}"
        );
        let is_same = |text: &Value| Value::from(text.as_str().unwrap().trim() == seen.trim());
        assert_eq!(sample["is_copy"], is_same(&sample["answer"]));
        assert_eq!(sample["is_exact"], is_same(&sample["reference"]));
        assert_eq!(sample["edit_ratio"] == 0.0, sample["is_copy"] == true, "{sample}");
    }
    let manifest = std::fs::read_to_string(lab.path("run/final/aligner.json")).unwrap();
    let manifest: Value = serde_json::from_str(&manifest).unwrap();
    let stages: Vec<(&Value, &Value)> = manifest["stages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|stage| (&stage["kind"], &stage["identity_rows"]))
        .collect();
    assert_eq!(
        stages,
        [(&"warmup".into(), &60.into()), (&"correction".into(), &40.into())]
    );
}

#[test]
fn plan_says_what_fits_and_its_advice_fits() {
    let lab = Lab::new();
    let json = |arguments: &str| -> Value { serde_json::from_str(&lab.ok(arguments)).unwrap() };
    let asked = "plan --model base --micro-batch 4096 --accumulate 1 --max-length 256 --json";
    let plan = json(&format!("{asked} --memory 1GB"));
    assert_eq!(
        (&plan["fit"]["fits"], &plan["micro_batch"]),
        (&false.into(), &4096.into())
    );
    let remedies = plan["fit"]["remedies"].as_array().unwrap();
    assert!(!remedies.is_empty());
    for remedy in remedies {
        let flags = remedy["flags"].as_str().unwrap();
        // The last of a flag that is given twice would be an error: the advice replaces what was asked.
        let mut asked = asked.to_string();
        for (flag, value) in [("--micro-batch", "4096"), ("--accumulate", "1")] {
            if flags.contains(flag) {
                asked = asked.replace(&format!(" {flag} {value}"), "");
            }
        }
        let fits = json(&format!("{asked} --memory 1GB {flags}"));
        assert_eq!(fits["fit"]["fits"], true, "{flags}");
        assert_eq!(fits["peak"]["total_bytes"], remedy["total_bytes"], "{flags}");
    }
    let table = lab.ok("plan --model base --max-length 256 --memory 24GiB");
    assert!(
        table.contains("total") && table.contains("it fits in 25.77 GB"),
        "{table}"
    );
    let wrong = lab.command("plan --model base --memory lots").output().unwrap();
    assert_eq!(wrong.status.code(), Some(2));
    let wrong = lab
        .command("plan --model base --max-length 257")
        .output()
        .unwrap();
    assert_eq!(wrong.status.code(), Some(2), "{}", text(&wrong.stderr));
}
