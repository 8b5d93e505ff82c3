//! `aligner inspect`, with a tiny model.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod lab;

use std::fmt::Write;

use lab::{Lab, TRAIN, lines, text};

/// Rows that are copied and rows that are not, of many questions.
fn mixed(lab: &Lab) {
    let rows = lines(&std::fs::read_to_string(lab.path("train.jsonl")).unwrap());
    let mut out = String::new();
    for (index, row) in rows.iter().enumerate() {
        let mut row = row.clone();
        row["question"] = format!("{} ({index})", row["question"].as_str().unwrap()).into();
        if index % 2 == 0 {
            row["answer"] = row["correction"].clone();
        }
        let _ = writeln!(out, "{row}");
    }
    std::fs::write(lab.path("mixed.jsonl"), out).unwrap();
}

#[test]
fn layers_are_probed_as_a_table_json_and_a_picture() {
    let lab = Lab::new();
    mixed(&lab);
    let inspect = "inspect layers --model base --template correction --data mixed.jsonl --rows 80 --tokens 2 --label given";
    let table = lab.ok(&format!("{inspect} --out first"));
    // Embedding, two layers, majority, and a head.
    assert_eq!(table.lines().count(), 5, "{table}");
    assert!(table.contains("step 2"), "{table}");
    let read = |dir: &str, file: &str| std::fs::read_to_string(lab.path(dir).join(file)).unwrap();
    let json: serde_json::Value = serde_json::from_str(&read("first", "layers.json")).unwrap();
    assert_eq!(json["rows"], 80);
    assert_eq!(json["label"], "given");
    let steps = json["steps"].as_array().unwrap();
    assert_eq!(steps.len(), 2);
    for step in steps {
        let places = step["places"].as_array().unwrap();
        assert_eq!(places.len(), 3);
        assert!(places[0]["layer"].is_null());
        assert_eq!(places[2]["layer"], 1);
    }
    // The prompt ends the same in every row, so its last token's embedding tells nothing.
    let first = &steps[0]["places"][0]["probe"];
    assert_eq!(first["auc"]["value"], 0.5);
    assert!(read("first", "layers.svg").starts_with("<svg"));
    assert_eq!(lab.ok(&format!("{inspect} --out again")), table);
    for file in ["layers.json", "layers.svg"] {
        assert_eq!(read("first", file), read("again", file), "{file}");
    }
}

#[test]
fn the_models_own_corrections_are_probed() {
    let lab = Lab::new();
    mixed(&lab);
    // Trained until it copies what is right.
    lab.ok(&format!(
        "{} --out run",
        TRAIN
            .replace("--steps 16", "--steps 60")
            .replace("train.jsonl", "mixed.jsonl")
    ));
    let inspect = "inspect layers --model run --data mixed.jsonl --rows 100 --tokens 1 --max-new-tokens 60";
    let output = lab.run(inspect);
    let said = text(&output.stderr);
    if output.status.success() {
        assert!(
            said.contains("of them copies") && said.contains("token 1:"),
            "{said}"
        );
        assert!(lab.path("inspect/layers.svg").is_file());
    } else {
        // A model that copies all or nothing cannot be probed, and it is said why.
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("a probe needs both kinds"), "{said}");
    }
}

#[test]
fn tokens_are_shown_as_lines_json_and_a_page() {
    let lab = Lab::new();
    let inspect = |more: &[&str]| {
        let mut command = lab.command("inspect tokens --model base --template correction --html page.html");
        command.args([
            "--question",
            "2 + <2>?",
            "--answer",
            "it is </p><script>alert(1)</script> 5",
        ]);
        let output = command.args(more).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    let correction = ["--correction", "it is four & <b>\"more\"</b> 5"];
    let table = inspect(&correction);
    assert!(!table.contains('\u{1b}'), "no colours where there is no terminal");
    assert!(table.lines().last().unwrap().contains("end"), "{table}");
    let json: serde_json::Value =
        serde_json::from_str(&inspect(&[&correction[..], &["--json"]].concat())).unwrap();
    assert_eq!(json["correction"], correction[1]);
    let tokens = json["tokens"].as_array().unwrap();
    assert_eq!(tokens.len(), table.lines().count());
    let joined: String = tokens
        .iter()
        .map(|token| token["text"].as_str().unwrap())
        .collect();
    assert_eq!(joined, correction[1]);
    let kept: String = tokens
        .iter()
        .filter(|token| token["kept"] == true)
        .map(|token| token["text"].as_str().unwrap())
        .collect();
    // White space goes with the words beside it, whichever tokens it is in.
    assert_eq!(kept.split_whitespace().collect::<Vec<_>>(), ["it", "is", "5"]);
    // The same sum as `score` gives.
    let row = serde_json::json!({
        "question": "2 + <2>?", "answer": "it is </p><script>alert(1)</script> 5", "correction": correction[1]
    });
    std::fs::write(lab.path("row.jsonl"), format!("{row}\n")).unwrap();
    let score = &lines(&lab.ok("score --model base --template correction --input row.jsonl"))[0];
    let (a, b) = (
        score["logprob"].as_f64().unwrap(),
        json["logprob"].as_f64().unwrap(),
    );
    assert!((a - b).abs() < 1e-9, "{a} {b}");
    let page = std::fs::read_to_string(lab.path("page.html")).unwrap();
    assert!(!page.contains("<script") && !page.contains("\"more\"</b>"));
    assert!(page.contains("&lt;script&gt;"));
    // Its own correction has tokens that are each the most probable.
    let own: serde_json::Value = serde_json::from_str(&inspect(&[
        "--json",
        "--max-new-tokens",
        "6",
        "--alternatives",
        "1",
    ]))
    .unwrap();
    for token in own["tokens"].as_array().unwrap() {
        assert_eq!(token["alternatives"].as_array().unwrap().len(), 1);
        if token["ids"].as_array().unwrap().len() == 1 {
            assert_eq!(token["ids"][0], token["alternatives"][0]["id"]);
        }
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    let lab = Lab::new();
    let inspect = "inspect layers --model base --template correction --data few.jsonl --label given";
    let error = lab.fails(2, &format!("{inspect} --tokens 0"));
    assert!(error.contains("--tokens 0"), "{error}");
    let many = "inspect tokens --model base --template correction --question Q --answer A --alternatives 21";
    let error = lab.fails(2, many);
    assert!(
        error.contains("--alternatives 21") && error.contains("20 at most"),
        "{error}"
    );
    let error = lab.fails(2, inspect);
    assert!(error.contains("a probe needs both kinds"), "{error}");
    let error = lab.fails(1, &format!("{inspect} --data missing.jsonl"));
    assert!(error.contains("missing.jsonl"), "{error}");
}
