//! The command as a user runs it: files in, files and exit status out.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod lab;

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

/// Rows as hh-rlhf publishes them, converted, and as they are: checked, scored and trained on they are the same.
#[test]
fn published_rows_are_read_by_every_command_and_converted() {
    let lab = Lab::new();
    let turn = |reply: &str| format!("\n\nHuman: Has Ada 4 pens?\n\nAssistant: {reply}");
    let row = |chosen: &str, rejected: &str| serde_json::json!({"chosen": turn(chosen), "rejected": turn(rejected)});
    let other = serde_json::json!({"chosen": turn("No."), "rejected": "\n\nHuman: Why?\n\nAssistant: No."});
    let rows = [row("Yes.", "No."), other, row("Ada has.", "Ada has not.")];
    let rows: Vec<String> = rows.iter().map(Value::to_string).collect();
    std::fs::write(lab.path("hh.jsonl"), rows.join("\n")).unwrap();
    let output = lab.run("data convert hh.jsonl --out qac.jsonl.gz");
    let told = text(&output.stderr);
    assert!(output.status.success(), "{told}");
    assert_eq!(output.stdout, b"qac.jsonl.gz\n");
    for part in [
        "hh.jsonl: hh-rlhf",
        "3 rows read, 2 written, 1 left out",
        "hh.jsonl:2: row 1: ",
        "differ before",
    ] {
        assert!(told.contains(part), "{told}");
    }
    let score = |file: &str| lab.ok(&format!("score --model base --template edit --input {file}"));
    assert_eq!(score("hh.jsonl --format hh-rlhf"), score("qac.jsonl.gz"));
    assert_eq!(score("hh.jsonl"), score("qac.jsonl.gz"));
    // Rows are counted as they lie in the file, those that are left out too.
    assert!(lab.ok("data show hh.jsonl --row 2 --model base").contains("has"));
    assert!(
        lab.fails(2, "data show hh.jsonl --row 1 --model base")
            .contains("differ before")
    );
    assert!(
        lab.fails(2, "data show hh.jsonl --row 3 --model base")
            .contains("no row 3")
    );
    lab.ok("data check qac.jsonl.gz");
    assert!(
        lab.ok("data check hh.jsonl --format hh-rlhf")
            .contains("left out, without a pair  1")
    );
    lab.ok("train --model base --data hh.jsonl --format hh-rlhf --out run --steps 1 --no-dashboard");
    let config = std::fs::read_to_string(lab.path("run/run.toml")).unwrap();
    assert!(config.contains("format = \"hh-rlhf\""), "{config}");
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

#[test]
fn check_reports_what_is_in_a_file() {
    let lab = Lab::new();
    let report: Value = serde_json::from_str(&lab.ok("data check train.jsonl --model base --json")).unwrap();
    assert_eq!(
        (&report["rows"], &report["unit"]),
        (&120.into(), &"tokens".into())
    );
    assert!(report["identical"].as_u64().unwrap() > 20 && report["whole"]["max"].as_u64().unwrap() < 200);
    let plain = lab.ok("data check train.jsonl");
    assert!(
        plain.contains("usable rows") && plain.contains("length in characters"),
        "{plain}"
    );
    assert!(
        lab.fails(1, "data check train.jsonl --model base --max-length 20")
            .contains("too long")
    );
}

#[test]
fn check_fails_on_leaks_and_on_what_is_asked_for() {
    let lab = Lab::new();
    let file = |name: &str, rows: &[[&str; 3]]| {
        let line = |[question, answer, correction]: &[&str; 3]| {
            serde_json::json!({"question": question, "answer": answer, "correction": correction}).to_string()
        };
        std::fs::write(
            lab.path(name),
            rows.iter().map(line).collect::<Vec<_>>().join("\n"),
        )
        .unwrap();
    };
    file(
        "a.jsonl",
        &[
            ["Is the earth flat?", "Yes.", "No."],
            ["Where is Rome?", "In France.", "In Italy."],
        ],
    );
    file("b.jsonl", &[["Is the sun cold?", "Yes.", "No."]]);
    file("leak.jsonl", &[["is the earth FLAT", "Sure.", "No."]]);
    file("clean.jsonl", &[["Is the moon made of cheese?", "Yes.", "No."]]);
    std::fs::write(lab.path("benchmark.txt"), "Is the sun cold?\n").unwrap();

    let error = lab.fails(1, "data check a.jsonl b.jsonl --valid clean.jsonl leak.jsonl");
    assert!(
        error.contains("1 of 2 validation rows ask a training row's question"),
        "{error}"
    );
    let report = lab.ok("data check a.jsonl b.jsonl --valid leak.jsonl --fail-on never --json");
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["rows"], 3);
    assert_eq!(report["leaks"]["equal_question_examples"][0]["first"]["row"], 0);
    assert_eq!(report["findings"][0]["code"], "leaked_questions");

    let plain = lab.ok("data check a.jsonl b.jsonl --valid clean.jsonl --benchmark benchmark.txt");
    assert!(
        plain.contains("WARN  1 rows (33.3 %) share 13 words in a row"),
        "{plain}"
    );
    let warned = "data check b.jsonl --benchmark benchmark.txt --fail-on warning";
    assert!(lab.fails(1, warned).contains("benchmark.txt"));
    lab.ok("data check a.jsonl --valid clean.jsonl --benchmark benchmark.txt --fail-on warning");
    assert!(
        lab.fails(2, "data check a.jsonl --fail-on all")
            .contains("warning, error, never")
    );
    assert!(
        lab.fails(2, "data check a.jsonl --near 1.5")
            .contains("at most 1")
    );
    let forecast: Value =
        serde_json::from_str(&lab.ok("data check train.jsonl --model base --micro-batch 8 --json")).unwrap();
    let padding = forecast["forecast"]["padding"].as_f64().unwrap();
    assert!(padding > 0.0 && padding < 0.5 && forecast["forecast"]["keeps"][3]["percent"] == 100);
}

#[test]
fn an_adapter_is_trained_used_and_trained_further() {
    let lab = Lab::new();
    let stdout = lab.ok(&format!(
        "{TRAIN} --out runs/lora --lora-rank 4 --lora-targets q_proj,v_proj"
    ));
    assert_eq!(stdout.trim(), "runs/lora/final");
    let toml = std::fs::read_to_string(lab.path("runs/lora/run.toml")).unwrap();
    assert!(toml.contains("[lora]") && toml.contains("alpha = 8.0"), "{toml}");
    // The run, its directory of the adapter, and the adapter over its base named by hand are one.
    let score = |place: &str| lab.ok(&format!("score --input few.jsonl {place}"));
    let scores = score("");
    assert_eq!(score("--model runs/lora"), scores);
    assert_eq!(score("--model base --adapter runs/lora/final"), scores);
    assert_ne!(score("--model base --template correction"), scores);
    let losses = losses(&lab.path("runs/lora"));
    let further = "train --model runs/lora/final --data train.jsonl --valid few.jsonl --steps 2 --micro-batch 8 --max-length 256 --out more";
    lab.ok(further);
    assert_eq!(
        self::losses(&lab.path("more"))[0].2,
        losses.last().unwrap().2,
        "it starts where the first ended"
    );
    let error = lab.fails(2, &format!("{TRAIN} --out x --lora-alpha 4"));
    assert!(error.contains("--lora-rank"), "{error}");
    let error = lab.fails(1, &format!("{TRAIN} --out x --lora-rank 4 --lora-targets qproj"));
    assert!(error.contains("\"qproj\"") && error.contains("q_proj"), "{error}");
}

#[test]
fn a_base_in_int8_is_recorded_planned_and_merged_into_as_it_was() {
    let lab = Lab::new();
    lab.ok(&format!(
        "{TRAIN} --out runs/int8 --lora-rank 4 --base-weights int8"
    ));
    let toml = std::fs::read_to_string(lab.path("runs/int8/run.toml")).unwrap();
    assert!(toml.contains("base_weights = \"int8\""), "{toml}");
    let error = lab.fails(2, "train --resume --out runs/int8 --base-weights f32");
    assert!(error.contains("base_weights"), "{error}");
    // The adapter runs, and is exported, over the weights as the base's files have them.
    lab.ok("export runs/int8 --format hf --out merged");
    assert_eq!(
        lab.ok("score --input few.jsonl --model merged").lines().count(),
        lab.ok("score --input few.jsonl --model runs/int8")
            .lines()
            .count(),
    );
    for asked in [
        &format!("{TRAIN} --out x --base-weights int8"),
        "plan --model base --max-length 256 --base-weights int8",
    ] {
        let output = lab.command(asked).output().unwrap();
        assert!(
            !output.status.success() && text(&output.stderr).contains("--lora-rank"),
            "{asked}"
        );
    }
    let weights = |flags: &str| -> u64 {
        let plan = lab.ok(&format!(
            "plan --model base --max-length 256 --lora-rank 4 --json {flags}"
        ));
        let plan: Value = serde_json::from_str(&plan).unwrap();
        plan["peak"]["weights_bytes"].as_u64().unwrap()
    };
    assert!(weights("--base-weights int8") < weights(""));
}

#[test]
fn an_aligner_that_is_trained_further_keeps_its_template() {
    let lab = Lab::new();
    lab.ok(&format!("{TRAIN} --out runs/edit --template edit"));
    let further = "train --model runs/edit/final --data train.jsonl --steps 2 --max-length 256";
    lab.ok(&format!("{further} --out kept"));
    let manifest = |run: &str| std::fs::read_to_string(lab.path(run).join("final/aligner.json")).unwrap();
    assert!(
        manifest("kept").contains("Edit the following"),
        "{}",
        manifest("kept")
    );
    let output = lab.run(&format!("{further} --out other --template correction"));
    assert!(
        text(&output.stderr).contains("was trained on template \"edit\""),
        "{}",
        text(&output.stderr)
    );
    assert!(manifest("other").contains("##Correction"));
}

#[test]
fn a_gguf_file_becomes_a_model_directory() {
    let lab = Lab::new();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../aligner-model/tests/golden/gguf");
    std::fs::copy(golden.join("qwen2.gguf"), lab.path("qwen2.gguf")).unwrap();
    assert_eq!(lab.ok("import qwen2.gguf --out imported"), "imported\n");
    // Another command takes the directory for what it is.
    lab.ok("data check few.jsonl --model imported");
    let refused = lab.fails(2, "import qwen2.gguf --out imported");
    assert!(
        refused.contains("holds a model already") && refused.contains("--overwrite"),
        "{refused}"
    );
    let output = lab.run("import qwen2.gguf --out imported --overwrite");
    let said = text(&output.stderr);
    assert!(
        output.status.success() && said.contains("Qwen2ForCausalLM") && said.contains("BF16"),
        "{said}"
    );
    std::fs::write(lab.path("half.gguf"), b"GGUF\x03\0\0\0").unwrap();
    let error = lab.fails(1, "import half.gguf --out other");
    assert!(
        error.contains("half.gguf") && !lab.path("other").exists(),
        "{error}"
    );
}

#[test]
fn exports_are_what_they_are_called_and_say_what_they_lack() {
    let lab = Lab::new();
    let done = lab.run("export base --format hf --dtype bf16 --out out/hf");
    assert!(done.status.success(), "{done:?}");
    assert!(
        String::from_utf8_lossy(&done.stderr).contains("aligner.json"),
        "{done:?}"
    );
    assert!(lab.path("out/hf/model.safetensors").is_file());
    let again = lab.run("export base --format hf --out out/hf");
    assert_eq!(again.status.code(), Some(2), "{again:?}");
    let replaced = lab.run("export base --format hf --dtype f16 --out out/hf --overwrite");
    assert!(replaced.status.success(), "{replaced:?}");
    let gguf = lab.run("export base --format gguf --dtype q8_0 --out out/base.gguf");
    assert!(gguf.status.success(), "{gguf:?}");
    assert_eq!(&std::fs::read(lab.path("out/base.gguf")).unwrap()[..4], b"GGUF");
    for asked_wrongly in [
        "export base --format peft --out out/peft",
        "export base --format hf --dtype q8_0 --out out/q8",
        "export base --format gguf --out out/directory",
        "export base --format zip --out out/zip",
    ] {
        let refused = lab.run(asked_wrongly);
        assert_eq!(refused.status.code(), Some(2), "{asked_wrongly}: {refused:?}");
    }
    assert_eq!(std::fs::read_dir(lab.path("out")).unwrap().count(), 2);
}

#[test]
fn a_model_that_is_exported_as_gguf_and_imported_is_the_same_aligner() {
    let lab = Lab::new();
    lab.ok(&format!("{TRAIN} --out run --data-licence MIT"));
    lab.ok("export run --format gguf --dtype f32 --out out/run.gguf");
    let modelfile = std::fs::read_to_string(lab.path("out/run.Modelfile")).unwrap();
    assert!(modelfile.contains("FROM ./run.gguf"), "{modelfile}");
    lab.ok("import out/run.gguf --out back");
    assert_eq!(
        lab.ok("score --model back --input few.jsonl"),
        lab.ok("score --model run --input few.jsonl")
    );
    let manifest = |dir: &str| std::fs::read_to_string(lab.path(dir).join("aligner.json")).unwrap();
    assert_eq!(manifest("back"), manifest("run/final"));
    lab.ok("export run --format hf --dtype f32 --out hf");
    assert_eq!(
        lab.ok("score --model hf --input few.jsonl"),
        lab.ok("score --model run --input few.jsonl")
    );
    let error = lab.fails(2, "export run --format peft --dtype f32 --out peft");
    assert!(error.contains("holds no adapter"), "{error}");
}

#[test]
fn an_adapter_that_is_exported_merged_scores_as_it_did() {
    let lab = Lab::new();
    lab.ok(&format!("{TRAIN} --out run --lora-rank 4"));
    lab.ok("export run --format hf --dtype f32 --out merged");
    lab.ok("export run --format peft --dtype f32 --out adapter");
    let scores = |model: &str| -> Vec<f64> {
        lines(&lab.ok(&format!("score --input few.jsonl {model}")))
            .iter()
            .map(|row| row["logprob"].as_f64().unwrap())
            .collect()
    };
    let trained = scores("--model run");
    for model in ["--model merged", "--model base --adapter adapter"] {
        for (got, want) in scores(model).iter().zip(&trained) {
            assert!((got - want).abs() < 1e-3, "{model}: {got} {want}");
        }
    }
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
