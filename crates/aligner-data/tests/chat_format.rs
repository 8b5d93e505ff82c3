//! Chats as a real model's own template writes them, by transformers.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    missing_docs
)]

use std::process::Command;

use aligner_data::{ChatFormat, Tokenizer, Turn};

const SCRIPT: &str = "
import json, sys
from transformers import AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
messages = json.loads(sys.argv[2])
ids = lambda *args, **more: list(tokenizer.apply_chat_template(*args, tokenize=True, return_dict=False, **more))
print(json.dumps([ids(messages), ids(messages[:-1], add_generation_prompt=True)]))
";

/// Runs when `ALIGNER_TEST_PYTHON` names a Python with transformers and `ALIGNER_TEST_MODEL` the directory of a chat
/// model's tokenizer.
#[test]
fn the_ids_are_those_of_the_models_own_template() {
    let variable = |name| std::env::var_os(name);
    let (Some(python), Some(model)) = (variable("ALIGNER_TEST_PYTHON"), variable("ALIGNER_TEST_MODEL"))
    else {
        println!("skipped: ALIGNER_TEST_PYTHON and ALIGNER_TEST_MODEL do not name a Python and a chat model");
        return;
    };
    let history = [Turn {
        question: "Who has the map?".into(),
        answer: "Ada has it.\nI think.".into(),
    }];
    let (question, answer) = ("And the lamp? 北京 🦀", "Ben does.");
    let messages = serde_json::json!([
        {"role": "user", "content": history[0].question}, {"role": "assistant", "content": history[0].answer},
        {"role": "user", "content": question}, {"role": "assistant", "content": answer},
    ]);
    let out = Command::new(python)
        .args(["-c", SCRIPT])
        .arg(&model)
        .arg(messages.to_string())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    let theirs: Result<[Vec<u32>; 2], _> = serde_json::from_str(text.lines().last().unwrap_or_default());
    let [whole, prompt] = theirs.unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&out.stderr)));
    let tokenizer = Tokenizer::from_dir(std::path::Path::new(&model)).unwrap();
    let chat = ChatFormat::of(&tokenizer).unwrap();
    println!("{chat}: {} tokens", whole.len());
    assert_eq!(
        tokenizer
            .encode_conversation(&chat, question, answer, &history)
            .unwrap(),
        whole
    );
    let mut ours = tokenizer.encode_chat_prompt(&chat, question, &history).unwrap();
    assert_eq!(ours, prompt);
    ours.extend(tokenizer.encode_chat_answer(&chat, answer).unwrap());
    assert_eq!(ours, whole, "a prompt and its answer are the conversation");
}
