//! `aligner data`, and rows as they are published.

use super::*;

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
fn a_row_is_shown_whatever_is_before_it() {
    let lab = Lab::new();
    let good =
        |answer: &str| serde_json::json!({"question": "q", "answer": answer, "correction": "c"}).to_string();
    let rows = [
        good("first"),
        r#"{"question": "q"}"#.to_string(),
        "no JSON".into(),
        good("last"),
    ];
    std::fs::write(lab.path("rows.jsonl"), rows.join("\n")).unwrap();
    let show = |row: usize| format!("data show rows.jsonl --model base --row {row}");
    let (first, last) = (lab.ok(&show(0)), lab.ok(&show(3)));
    assert!(first != last, "{last}");
    assert!(lab.fails(2, &show(1)).contains("row 1: has no `answer`"));
    assert!(lab.fails(2, &show(2)).contains("rows.jsonl:3: row 2: "));
    assert!(lab.fails(2, &show(4)).contains("no row 4"));
}

#[test]
fn a_template_from_windows_is_the_same_template() {
    let lab = Lab::new();
    let text = "Q: {question}\nA: {answer}\n\nC: \n";
    std::fs::write(lab.path("unix.txt"), text).unwrap();
    let windows = "\u{feff}".to_string() + &text.replace('\n', "\r\n");
    std::fs::write(lab.path("windows.txt"), windows).unwrap();
    let shown = |template: &str| lab.ok(&format!("data show few.jsonl --model base --template {template}"));
    assert_eq!(shown("windows.txt"), shown("unix.txt"));
    assert!(shown("unix.txt") != shown("edit"));
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
    // What a program that pads would lose is told, and no finding: training here pads nothing.
    let long = "It is in Italy. ".repeat(40);
    file(
        "uneven.jsonl",
        &[
            ["Is the sun cold?", "Yes.", "No."],
            ["Where is Rome?", long.as_str(), long.as_str()],
        ],
    );
    let report = lab.ok("data check uneven.jsonl --model base --micro-batch 2 --json");
    let report: Value = serde_json::from_str(&report).unwrap();
    assert!(report["forecast"]["padding"].as_f64().unwrap() > 0.3, "{report}");
    let findings = report["findings"].as_array().unwrap();
    assert!(
        findings.iter().all(|finding| finding["code"] != "padding"),
        "{report}"
    );
}
