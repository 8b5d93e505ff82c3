//! Rows from files, and what is said of those that cannot be used.

use std::path::{Path, PathBuf};

use aligner_eval::alpaca::{WinRates, read};
use serde_json::{Value, json};

use super::{Model, models};

/// Writes files.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn lines<T: serde::Serialize>(&self, name: &str, rows: &[T]) -> PathBuf {
        let lines: Vec<String> = rows
            .iter()
            .map(|row| serde_json::to_string(row).unwrap())
            .collect();
        self.write(name, &lines.join("\n"))
    }
}

fn rates(annotations: &Path, instructions: &Path, gamed: &Path) -> WinRates {
    read(annotations, Some(instructions), Some(gamed))
        .unwrap()
        .win_rates()
        .unwrap()
}

fn refusal(annotations: &Path, instructions: &Path, gamed: &Path) -> String {
    read(annotations, Some(instructions), Some(gamed))
        .unwrap_err()
        .to_string()
}

#[test]
fn files_give_what_rows_in_memory_give() {
    let files = Files::new();
    let model = &models()[1];
    let instructions = files.lines("instructions.jsonl", &model.instructions);
    let gamed = files.lines("gamed.jsonl", &model.gamed);
    let annotations = files.lines("annotations.jsonl", &model.annotations);
    assert_eq!(rates(&annotations, &instructions, &gamed), model.rates());
}

/// Outputs in place of lengths, instructions in place of indices.
fn as_alpaca_eval_writes(model: &Model) -> Vec<Value> {
    let written = model.annotations.iter().map(|row| {
        json!({"instruction": format!("Question {}", row.index), "output_1": "é".repeat(row.len_1 as usize),
               "output_2": "😀".repeat(row.len_2 as usize), "generator_1": "base", "generator_2": "model",
               "annotator": "any", "preference": row.preference})
    });
    written.collect()
}

#[test]
fn annotations_of_alpaca_eval_are_matched_by_text() {
    let files = Files::new();
    let model = &models()[1];
    let instructions = files.lines("instructions.jsonl", &model.instructions);
    let gamed = files.lines("gamed.jsonl", &model.gamed);
    let mut written = as_alpaca_eval_writes(model);
    let in_order = files.write("in_order.json", &serde_json::to_string(&written).unwrap());
    assert_eq!(rates(&in_order, &instructions, &gamed), model.rates());

    written.reverse();
    let reversed = files.write("reversed.json", &serde_json::to_string_pretty(&written).unwrap());
    let (found, expected) = (rates(&reversed, &instructions, &gamed), model.rates());
    assert_eq!(
        (found.avg_length, found.n_total),
        (expected.avg_length, expected.n_total)
    );
    // Not to the last bit: rows are dealt to other folds.
    assert!((found.lc_win_rate.unwrap() - expected.lc_win_rate.unwrap()).abs() < 0.1);

    written[1] = written[0].clone();
    let twice = files.write("twice.json", &serde_json::to_string(&written).unwrap());
    let error = refusal(&twice, &instructions, &gamed);
    assert!(
        error.contains("twice.json: row 2: ") && error.contains("earlier row"),
        "{error}"
    );
}

#[test]
fn tables_without_texts_go_by_place_as_in_alpaca_eval() {
    let files = Files::new();
    let model = &models()[1];
    let written = serde_json::to_string(&as_alpaca_eval_writes(model)).unwrap();
    let annotations = files.write("annotations.json", &written);
    let mut gamed =
        "model,index,preference,std_delta_len,instruction_difficulty,not_gamed_baseline\n".to_owned();
    for row in &model.gamed {
        let difficulty = model.instructions[row.index as usize].instruction_difficulty;
        let (index, preference, z) = (row.index, row.preference.unwrap(), row.std_delta_len);
        gamed += &format!("verbose,{index},{preference},{z},{difficulty},False\n");
    }
    let gamed = files.write("df_gamed.csv", &gamed);
    assert_eq!(rates(&annotations, &gamed, &gamed), model.rates());

    let mut difficulties = ",instruction_difficulty\n".to_owned();
    for row in &model.instructions {
        difficulties += &format!("{},{}\n", row.index, row.instruction_difficulty);
    }
    let difficulties = files.write("instruction_difficulty.csv", &difficulties);
    assert_eq!(rates(&annotations, &difficulties, &gamed), model.rates());
}

fn small_control(files: &Files) -> (PathBuf, PathBuf) {
    let instructions = files.write(
        "instructions.jsonl",
        "{\"index\": 0, \"instruction\": \"Who?\", \"instruction_difficulty\": 0.5}\n\
         {\"index\": 1, \"instruction\": \"Why?\", \"instruction_difficulty\": -1}\n",
    );
    let gamed = files.write(
        "gamed.jsonl",
        "{\"index\": 0, \"std_delta_len\": 1.5, \"preference\": 0.25}",
    );
    (instructions, gamed)
}

const GOOD: &str =
    r#"{"index": 0, "len_1": 1, "len_2": 2, "preference": 1, "generator_1": "a", "generator_2": "b"}"#;

#[test]
fn errors_name_the_row_and_what_is_wrong_with_it() {
    let files = Files::new();
    let (instructions, gamed) = small_control(&files);
    let cases = [
        ("\"preference\": 1, ", "", "no column `preference`"),
        ("\"len_2\": 2, ", "", "`len_2`"),
        ("\"generator_1\": \"a\", ", "", "missing field `generator_1`"),
        ("", "", "index 0 is that of an earlier row"),
        ("\"preference\": 1", "\"preference\": NaN", "no JSON"),
        ("\"preference\": 1", "\"preference\": 2.5", "the preference 2.5"),
        ("\"preference\": 1", "\"preference\": -1", "the preference -1"),
        ("\"preference\": 1", "\"preference\": \"1\"", "invalid type"),
        (
            "\"index\": 0",
            "\"index\": 7",
            "index 7 is that of no instruction",
        ),
        ("\"index\": 0", "\"instruction\": \"What?\"", "\"What?\" is none"),
        (
            "\"generator_1\": \"a\"",
            "\"generator_1\": \"c\"",
            "generator_1 is \"c\"",
        ),
        (
            "\"generator_2\": \"b\"",
            "\"generator_2\": \"c\"",
            "generator_2 is \"c\"",
        ),
        (GOOD, "[1]", "no JSON object"),
    ];
    for (from, to, reason) in cases {
        let bad = if from.is_empty() {
            GOOD.to_owned()
        } else {
            GOOD.replace(from, to)
        };
        let annotations = files.write("bad.jsonl", &format!("{GOOD}\n\n{bad}\n"));
        let error = refusal(&annotations, &instructions, &gamed);
        assert!(
            error.contains("bad.jsonl: row 3: ") && error.contains(reason),
            "{error}"
        );
    }
}

#[test]
fn what_length_control_needs_is_checked() {
    let files = Files::new();
    let (instructions, gamed) = small_control(&files);
    let annotations = files.write("good.jsonl", GOOD);
    let error = read(&annotations, Some(&instructions), None)
        .unwrap_err()
        .to_string();
    assert!(error.contains("gamed rows"), "{error}");
    let few = read(&annotations, Some(&instructions), Some(&gamed))
        .unwrap()
        .win_rates();
    assert!(few.unwrap_err().to_string().contains("needs 5 rows"));
    for (name, text, reason) in [
        (
            "a.jsonl",
            r#"{"index": 3, "std_delta_len": 1, "preference": 0}"#,
            "row 1: index 3",
        ),
        (
            "b.jsonl",
            r#"{"index": 0, "std_delta_len": 1, "preference": 1.5}"#,
            "row 1: the preference 1.5",
        ),
        (
            "c.csv",
            "index,preference,std_delta_len\n0,0.5,1\n0,0.5,nan\n",
            "row 2: std_delta_len is NaN",
        ),
        (
            "d.csv",
            "index,preference\n0,0.5\n",
            "row 1: missing field `std_delta_len`",
        ),
        ("e.jsonl", "", "holds no rows"),
    ] {
        let error = refusal(&annotations, &instructions, &files.write(name, text));
        assert!(error.contains(name) && error.contains(reason), "{error}");
    }
    let other =
        "{\"index\": 0, \"instruction_difficulty\": 1}\n{\"index\": 0, \"instruction_difficulty\": 2}";
    let error = refusal(&annotations, &files.write("other.jsonl", other), &gamed);
    assert!(error.contains("other.jsonl: row 2: index 0"), "{error}");
}
