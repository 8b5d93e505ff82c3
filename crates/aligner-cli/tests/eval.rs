//! `aligner eval` and `aligner bootstrap`, as processes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod lab;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use lab::Lab;
use serde_json::{Value, json};

/// A judge that holds no answer for better, and counts.
struct Judge {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
}

impl Judge {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, count) = (stream.unwrap(), Arc::clone(&count));
                // Several calls at a time, each on a connection that stays.
                std::thread::spawn(move || {
                    while let Some(body) = request(&mut stream) {
                        count.fetch_add(1, Ordering::SeqCst);
                        judge(&mut stream, &body);
                    }
                });
            }
        });
        Self { address, asked }
    }
}

fn judge(stream: &mut TcpStream, body: &[u8]) {
    let body: Value = serde_json::from_slice(body).unwrap();
    assert_eq!(body["model"], "judge-1");
    let reply = json!({
        "id": "1", "object": "chat.completion", "created": 1, "model": "judge-1",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Both are short.\n[[C]]"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
    })
    .to_string();
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        reply.len()
    );
    stream.write_all(format!("{head}{reply}").as_bytes()).unwrap();
}

fn request(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let (mut bytes, mut some) = (Vec::new(), [0; 4096]);
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
            let length = head
                .split("content-length: ")
                .nth(1)
                .map_or(0, |rest| rest.lines().next().unwrap().trim().parse().unwrap());
            if bytes.len() >= end + 4 + length {
                return Some(bytes[end + 4..].to_vec());
            }
        }
        match stream.read(&mut some) {
            Ok(count) if count > 0 => bytes.extend_from_slice(&some[..count]),
            _ => return None,
        }
    }
}

fn lines(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

const QUESTIONS: [&str; 3] = ["What orbits what?", "Is it so?", "How many?"];

/// Answers of two upstreams, in AlpacaEval's shape.
fn write_set(lab: &Lab) {
    for upstream in ["one", "two"] {
        let rows: Vec<Value> = QUESTIONS
            .iter()
            .map(|question| {
                json!({"dataset": "own", "instruction": question, "output": format!("{upstream} says so."), "generator": upstream})
            })
            .collect();
        std::fs::write(lab.path(&format!("{upstream}.json")), json!(rows).to_string()).unwrap();
    }
    let questions: Vec<Value> = QUESTIONS
        .iter()
        .map(|question| json!({"question": question}))
        .collect();
    let text: String = questions.iter().map(|row| format!("{row}\n")).collect();
    std::fs::write(lab.path("questions.jsonl"), text).unwrap();
}

const RUN: &str = "eval run --input questions.jsonl --answers one.json --answers two.json --model base \
                   --template correction --max-new-tokens 40 --second-pass --out ev";

#[test]
fn an_evaluation_goes_from_questions_to_a_page_and_to_rows() {
    let lab = Lab::new();
    write_set(&lab);
    let said = lab.ok(RUN);
    assert!(
        said.contains("one + base on") && said.contains("3 rows"),
        "{said}"
    );
    let read = |name: &str| std::fs::read_to_string(lab.path(name)).unwrap();
    let whole = read("ev/outcomes.jsonl");
    let rows = lines(&whole);
    assert_eq!(rows.len(), 6);
    // Each is what `correct` makes of it.
    let pairs = ["one", "two"]
        .into_iter()
        .flat_map(|name| QUESTIONS.map(|question| (name, question)));
    let plain: String = pairs
        .clone()
        .map(|(name, question)| {
            json!({"question": question, "answer": format!("{name} says so.")}).to_string() + "\n"
        })
        .collect();
    std::fs::write(lab.path("plain.jsonl"), plain).unwrap();
    let corrected =
        lines(&lab.ok("correct --model base --template correction --max-new-tokens 40 --input plain.jsonl"));
    for ((row, corrected), (upstream, question)) in rows.iter().zip(corrected).zip(pairs) {
        assert_eq!(row["output"], corrected["corrected"]);
        assert_eq!(
            (&row["instruction"], &row["upstream"], &row["generator"]),
            (
                &json!(question),
                &json!(upstream),
                &json!(format!("{upstream}+base"))
            )
        );
        assert!(row["output"].is_string() && row["second_output"].is_string());
    }
    // A run that was killed goes on behind its last whole row, and ends with the same bytes.
    let cut = whole.len() * 2 / 3;
    std::fs::write(lab.path("ev/outcomes.jsonl"), &whole[..cut]).unwrap();
    lab.ok(RUN);
    assert_eq!(read("ev/outcomes.jsonl"), whole);
    // What was made otherwise is not gone on with.
    let error = lab.fails(2, &RUN.replace("--second-pass ", ""));
    assert!(error.contains("second_pass"), "{error}");
    // The same directory is not mixed with other rows.
    let error = lab.fails(1, &RUN.replace("--answers one.json", "--upstream x"));
    assert!(error.contains("outcomes.jsonl"), "{error}");

    // AlpacaEval compares one generator at a time.
    let alpaca: Value = serde_json::from_str(&read("ev/model_outputs.one+base.json")).unwrap();
    assert_eq!(alpaca.as_array().unwrap().len(), 3);
    assert_eq!(alpaca[0]["original_output"], "one says so.");
    let metrics: Value = serde_json::from_str(&lab.ok("eval metrics ev --embed base --json")).unwrap();
    assert_eq!(
        (&metrics[0]["rows"], &metrics[1]["upstream"]),
        (&json!(3), &json!("two"))
    );
    // A run that has nothing left to do leaves what took longer than its own figures.
    let measured = read("ev/metrics.json");
    lab.ok(RUN);
    assert_eq!(read("ev/metrics.json"), measured);

    let judge = Judge::new();
    let ask = format!("eval judge ev --url http://{}/v1 --judge judge-1", judge.address);
    let keyless = format!("{ask} --api-key-env ALIGNER_TEST_NO_SUCH_KEY");
    let estimate = lab.ok(&format!("{keyless} --estimate --price 2.5,10"));
    assert_eq!(judge.asked.load(Ordering::SeqCst), 0, "an estimate asks nothing");
    assert!(estimate.contains("; 36 calls"), "{estimate}");
    let error = lab.fails(2, &keyless);
    assert!(error.contains("ALIGNER_TEST_NO_SUCH_KEY"), "{error}");
    let said = lab.ok(&ask);
    // Six pairs, three dimensions, two orders.
    assert_eq!(judge.asked.load(Ordering::SeqCst), 36);
    assert!(said.contains("0 won, 3 tied, 0 lost"), "{said}");
    lab.ok(&ask);
    assert_eq!(judge.asked.load(Ordering::SeqCst), 36, "nothing is asked twice");
    // One dimension anew leaves the verdicts on the others.
    let said = lab.ok(&format!("{ask} --dimensions honest --max-tokens 512"));
    assert_eq!(judge.asked.load(Ordering::SeqCst), 48);
    assert!(
        said.contains("helpful") && said.contains("harmless") && said.contains("honest"),
        "{said}"
    );
    assert_eq!(lines(&read("ev/judgements.jsonl")).len(), 36);
    let facts: Value = serde_json::from_str(&read("ev/eval.json")).unwrap();
    assert_eq!(
        (
            &facts["judge"]["judge-1"]["helpful"]["max_tokens"],
            &facts["judge"]["judge-1"]["honest"]["max_tokens"]
        ),
        (&json!(1024), &json!(512))
    );

    let page = lab.ok("eval report ev --title Ours");
    assert_eq!(page.trim(), "ev/report.html");
    let (html, markdown) = (read("ev/report.html"), read("ev/report.md"));
    assert!(html.contains("Ours") && html.contains("What orbits what?") && markdown.contains("Ours"));
    lab.ok("eval report ev --title Ours");
    assert_eq!(read("ev/report.html"), html, "the same rows give the same page");

    // An untrained model does not know how to end: none of its corrections is whole.
    let error = lab.fails(2, "bootstrap ev --out rows --upstream one");
    assert!(error.contains("3 correction cut at its limit"), "{error}");
}

#[test]
fn corrections_become_rows_with_their_rounds() {
    let lab = Lab::new();
    let rows: String = ["one", "two"]
        .into_iter()
        .flat_map(|upstream| QUESTIONS.map(|question| (upstream, question)))
        .map(|(upstream, question)| {
            json!({"question": question, "answer": "It is so.", "correction": "It is not so.", "upstream": upstream})
                .to_string()
                + "\n"
        })
        .collect();
    std::fs::write(lab.path("given.jsonl"), rows).unwrap();
    lab.ok("eval import --input given.jsonl --out ev --name ours");
    let read = |name: &str| std::fs::read_to_string(lab.path(name)).unwrap();
    let error = lab.fails(2, "bootstrap ev --out rows");
    assert!(error.contains("one") && error.contains("two"), "{error}");
    let said = lab.ok("bootstrap ev --out rows --upstream one --keep-near-duplicates");
    let rows = lines(&read("rows/train.jsonl"));
    assert_eq!(rows.len(), 3, "{said}");
    let completion = &rows[0]["completion"][0];
    assert_eq!(
        (&completion["role"], &completion["content"]),
        (&json!("assistant"), &json!("It is not so."))
    );
    let manifest: Value = serde_json::from_str(&read("rows/manifest.json")).unwrap();
    assert_eq!(manifest["round"], 1);
    let said =
        lab.ok("bootstrap ev --out pairs --upstream one --keep-near-duplicates --format dpo --parent rows");
    assert!(said.contains("51.3"), "{said}");
    let manifest: Value = serde_json::from_str(&read("pairs/manifest.json")).unwrap();
    assert_eq!(manifest["round"], 2);
}

#[test]
fn corrections_that_were_made_elsewhere_are_taken() {
    let lab = Lab::new();
    let row = |answer: &str, correction: &str| {
        json!({"instruction": format!("q of {answer}"), "original_output": answer, "output": correction})
            .to_string()
            + "\n"
    };
    let rows = row("a b c d", "a b c d") + &row("a b c d e", "a b c x e");
    std::fs::write(lab.path("given.jsonl"), rows).unwrap();
    let import = "eval import --input given.jsonl --out ev --name ours --upstream up \
                  --columns question=instruction,answer=original_output,correction=output";
    let said = lab.ok(import);
    assert!(said.contains("up + ours on given, 2 rows"), "{said}");
    let metrics: Value = serde_json::from_str(&lab.ok("eval metrics ev --json")).unwrap();
    assert_eq!(metrics[0]["copy_rate"]["value"], 0.5);
    assert_eq!(metrics[0]["edit_ratio"]["value"], 0.1);
    // Other corrections of the same answers are not mixed with them, nor left out in silence.
    let other = row("a b c d", "x") + &row("a b c d e", "a b c x e");
    std::fs::write(lab.path("other.jsonl"), other).unwrap();
    let error = lab.fails(2, &import.replace("given.jsonl", "other.jsonl --dataset given"));
    assert!(error.contains("other corrections"), "{error}");
    // Again is no more.
    lab.ok(import);
    assert_eq!(
        lines(&std::fs::read_to_string(lab.path("ev/outcomes.jsonl")).unwrap()).len(),
        2
    );
}

#[test]
fn win_rates_come_from_annotations() {
    let lab = Lab::new();
    let rows: String = [1.0, 2.0, 1.5, 2.0]
        .iter()
        .enumerate()
        .map(|(index, preference)| {
            json!({"index": index, "generator_1": "base", "generator_2": "ours", "len_1": 10, "len_2": 20, "preference": preference})
                .to_string()
                + "\n"
        })
        .collect();
    std::fs::write(lab.path("annotations.jsonl"), rows).unwrap();
    let rates: Value =
        serde_json::from_str(&lab.ok("eval alpaca --annotations annotations.jsonl --json")).unwrap();
    assert_eq!(
        (&rates["win_rate"], &rates["n_wins"], &rates["lc_win_rate"]),
        (&json!(62.5), &json!(2), &Value::Null)
    );
    let error = lab.fails(1, "eval alpaca --annotations nowhere.jsonl");
    assert!(error.contains("nowhere.jsonl"), "{error}");
    let error = lab.fails(2, "eval judge ev --url http://x/v1 --judge j --price 1");
    assert!(error.contains("--price"), "{error}");
}

#[test]
fn a_reward_model_that_was_trained_here_scores_and_guards() {
    let lab = Lab::new();
    let pairs: String = (0..12)
        .map(|number| {
            json!({
                "prompt": format!("Question {number}?"), "chosen": format!("A long and kind answer, number {number}."), "rejected": "No."
            })
            .to_string()
                + "\n"
        })
        .collect();
    std::fs::write(lab.path("pairs.jsonl"), pairs).unwrap();
    lab.ok("train --objective reward --model base --data pairs.jsonl --valid pairs.jsonl --steps 6 --micro-batch 4 --accumulate 1 \
            --lr 1e-3 --max-length 128 --out reward");
    let row = json!({"question": "Is it?", "answer": "No.", "correction": "It is, as far as we know."});
    std::fs::write(lab.path("given.jsonl"), format!("{row}\n")).unwrap();
    lab.ok("eval import --input given.jsonl --out ev --name ours --upstream up");
    let said = lab.ok("eval score ev --reward reward/final");
    assert!(said.contains("up + ours on given: helpfulness "), "{said}");
    let scores = lines(&std::fs::read_to_string(lab.path("ev/scores.jsonl")).unwrap());
    assert_eq!((scores.len(), &scores[0]["kind"]), (1, &json!("reward")));
    let margin = scores[0]["output"].as_f64().unwrap() - scores[0]["original"].as_f64().unwrap();
    // The filter of rows reads what was scored.
    let bar = format!("bootstrap ev --out rows --min-reward-margin {}", margin - 0.001);
    lab.ok(&bar);
    let error = lab.fails(
        2,
        &format!("bootstrap ev --out none --min-reward-margin {}", margin + 0.001),
    );
    assert!(error.contains("nothing to train on"), "{error}");
    let error = lab.fails(2, "eval score ev --cost reward/final");
    assert!(error.contains("--reward"), "{error}");
    let error = lab.fails(1, "eval score ev --reward base");
    assert!(error.contains("one is needed that scores"), "{error}");
}

#[test]
fn a_model_answers_a_set_and_its_answers_are_corrected() {
    let lab = Lab::new();
    write_set(&lab);
    let answer =
        "eval answer --input questions.jsonl --model base --name tiny --max-new-tokens 8 --out answers.jsonl";
    lab.ok(answer);
    let read = |name: &str| std::fs::read_to_string(lab.path(name)).unwrap();
    let rows = lines(&read("answers.jsonl"));
    assert_eq!((rows.len(), &rows[2]["upstream"]), (3, &json!("tiny")));
    let whole = read("answers.jsonl");
    assert!(!lab.path("answers.jsonl.unfinished").exists());
    assert!(lab.fails(2, answer).contains("is there already"));
    // What a run with other settings left is not gone on with, and not lost.
    std::fs::remove_file(lab.path("answers.jsonl")).unwrap();
    let left = format!("{}\n{}\n", json!({"settings": {"seed": 7}}), rows[0]);
    std::fs::write(lab.path("answers.jsonl.unfinished"), &left).unwrap();
    let error = lab.fails(1, answer);
    assert!(
        error.contains("answers.jsonl.unfinished: row 1") && error.contains("other settings"),
        "{error}"
    );
    assert_eq!(read("answers.jsonl.unfinished"), left);
    std::fs::remove_file(lab.path("answers.jsonl.unfinished")).unwrap();
    lab.ok(answer);
    assert_eq!(read("answers.jsonl"), whole);
    let said = lab
        .ok("eval run --input answers.jsonl --model base --template correction --max-new-tokens 64 --out ev");
    assert!(said.contains("tiny + base on questions, 3 rows"), "{said}");
}

#[test]
fn each_answer_is_drawn_with_numbers_of_its_place() {
    let lab = Lab::new();
    write_set(&lab);
    let read = |name: &str| std::fs::read_to_string(lab.path(name)).unwrap();
    let reversed: String = read("questions.jsonl")
        .lines()
        .rev()
        .map(|row| format!("{row}\n"))
        .collect();
    std::fs::write(lab.path("reversed.jsonl"), reversed).unwrap();
    let answers = |set: &str| -> Vec<String> {
        let answer = "eval answer --model base --max-new-tokens 8 --temperature 1 --seed 3";
        lab.ok(&format!("{answer} --input {set}.jsonl --out of-{set}.jsonl"));
        let rows = lines(&read(&format!("of-{set}.jsonl")));
        rows.iter()
            .map(|row| row["original_output"].as_str().unwrap().to_string())
            .collect()
    };
    let (set, reversed) = (answers("questions"), answers("reversed"));
    assert_eq!(set[1], reversed[1]);
    assert_ne!(set[0], reversed[2], "the same question in another place");
}
