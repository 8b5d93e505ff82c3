//! `aligner plan` and `aligner train --fit`: what is advised fits, and what is fitted trains the same.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod lab;

use lab::{Lab, TRAIN, losses, text};
use serde_json::Value;

fn json(lab: &Lab, arguments: &str) -> Value {
    serde_json::from_str(&lab.ok(arguments)).unwrap()
}

fn total(lab: &Lab, arguments: &str) -> u64 {
    let plan = json(
        lab,
        &format!("plan --model base --max-length 256 --probe false --json {arguments}"),
    );
    plan["peak"]["total_bytes"].as_u64().unwrap()
}

#[test]
fn the_time_of_a_run_is_told_where_there_is_something_to_measure() {
    let lab = Lab::new();
    let asked = "plan --model base --max-length 256 --micro-batch 8 --accumulate 1 --json";
    let plan = json(&lab, &format!("{asked} --data train.jsonl --epochs 2"));
    let run = &plan["time"]["run"];
    // 24 rows of the warm-up in 3 steps, and twice 120 rows in 30.
    assert_eq!((&run["rows"], &run["steps"]), (&120.into(), &33.into()), "{plan}");
    let number = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("{plan}"));
    assert!(number(&run["seconds"]) > 0.0 && number(&plan["time"]["longest_step_seconds"]) > 0.0);
    assert!(number(&run["target_tokens"]) < number(&run["tokens"]), "{plan}");
    // The mean step has shorter rows than the longest.
    assert!(number(&run["step_seconds"]) < number(&plan["time"]["longest_step_seconds"]));
    let table = lab.ok("plan --model base --max-length 256 --data train.jsonl");
    assert!(
        table.contains("time on cpu") && table.contains("the run: 120 rows"),
        "{table}"
    );

    // A configuration alone is enough for memory; time is measured where it is asked for.
    std::fs::create_dir(lab.path("bare")).unwrap();
    std::fs::copy(lab.path("base/config.json"), lab.path("bare/config.json")).unwrap();
    let plan = json(&lab, "plan --model bare --max-length 256 --json");
    let reason = plan["time"]["not_measured"].as_str().unwrap();
    assert!(reason.contains("--probe"), "{reason}");
    let plan = json(&lab, "plan --model bare --max-length 256 --probe --json");
    assert!(number(&plan["time"]["longest_step_seconds"]) > 0.0, "{plan}");
    let plan = json(&lab, "plan --model base --max-length 256 --probe false --json");
    assert!(plan["time"].is_null(), "{plan}");
}

#[test]
fn a_device_that_is_not_there_is_planned_for_and_not_measured() {
    let lab = Lab::new();
    if aligner_model::compiled_devices().contains(&"cuda") {
        return;
    }
    let plan = json(&lab, "plan --model base --max-length 256 --device cuda --json");
    assert_eq!(plan["peak"]["is_lower_bound"], true, "{plan}");
    let reason = plan["time"]["not_measured"].as_str().unwrap();
    assert!(reason.contains("--features cuda"), "{reason}");
    let error = lab.fails(2, "plan --model base --max-length 256 --device cuda --probe");
    assert!(error.contains("--features cuda"), "{error}");
}

#[test]
fn a_fitted_run_takes_as_many_rows_a_step_and_ends_in_the_same_place() {
    let lab = Lab::new();
    lab.ok(&format!("{TRAIN} --out runs/asked"));
    let (eight, four) = (
        total(&lab, "--micro-batch 8 --accumulate 1"),
        total(&lab, "--micro-batch 4 --accumulate 2"),
    );
    assert!(four < eight, "{four} {eight}");
    let output = lab.run(&format!("{TRAIN} --out runs/fewer --fit --memory {four}"));
    let told = text(&output.stderr);
    assert!(output.status.success(), "{told}");
    assert!(
        told.contains("made to fit with --micro-batch 4 --accumulate 2") && told.contains("8 rows a step"),
        "{told}"
    );
    let toml = std::fs::read_to_string(lab.path("runs/fewer/run.toml")).unwrap();
    for line in ["micro_batch = 4", "accumulate = 2", "checkpointing = false"] {
        assert!(toml.contains(line), "{line}: {toml}");
    }
    // The same steps over the same rows: losses differ by the rounding of sums alone.
    let (asked, fewer) = (losses(&lab.path("runs/asked")), losses(&lab.path("runs/fewer")));
    assert_eq!(asked.len(), fewer.len());
    for ((step, split, asked), (_, _, fewer)) in asked.into_iter().zip(fewer) {
        let (asked, fewer) = (f64::from_bits(asked), f64::from_bits(fewer));
        assert!(
            (asked - fewer).abs() < 2e-3 * asked,
            "{step} {split}: {asked} {fewer}"
        );
    }

    // With a row at once still too much, activations are computed again.
    let one = total(&lab, "--micro-batch 1 --accumulate 8");
    let again = total(&lab, "--micro-batch 1 --accumulate 8 --checkpointing");
    assert!(again < one, "{again} {one}");
    lab.ok(&format!("{TRAIN} --out runs/again --fit --memory {again}"));
    let toml = std::fs::read_to_string(lab.path("runs/again/run.toml")).unwrap();
    assert!(toml.contains("checkpointing = true"), "{toml}");
    // A run that was fitted is resumed as it is.
    lab.ok("train --resume --out runs/again");

    // What fits stays.
    let output = lab.run(&format!("{TRAIN} --out runs/as-it-is --fit"));
    assert!(
        text(&output.stderr).contains("fits as it is"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn what_cannot_be_made_to_fit_is_refused_before_anything_is_written() {
    let lab = Lab::new();
    let error = lab.fails(1, &format!("{TRAIN} --out runs/none --fit --memory 1MB"));
    assert!(error.contains("does not fit in 1 MB"), "{error}");
    assert!(!lab.path("runs/none/run.toml").exists());
    for (asked, reason) in [
        (format!("{TRAIN} --out x --memory 1GB"), "--fit"),
        (format!("{TRAIN} --out x --fit --device cuda"), "--memory"),
        ("train --resume --fit".to_string(), "--resume"),
        ("train --fit".to_string(), "--model"),
    ] {
        let error = lab.fails(2, &asked);
        assert!(error.contains(reason), "{asked}: {error}");
    }
}
