//! What transformers and llama.cpp make of an export.

use super::*;

fn python(mode: &str, path: &Path, input: &Value) -> Option<Value> {
    let Some(python) = std::env::var_os("ALIGNER_TEST_PYTHON") else {
        println!("skipped: ALIGNER_TEST_PYTHON does not name a Python with transformers and llama_cpp");
        return None;
    };
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/check_export.py");
    let mut child = Command::new(python)
        .arg(script)
        .arg(mode)
        .arg(path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.to_string().as_bytes())
        .unwrap();
    let out = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    let answer = serde_json::from_str(text.lines().last().unwrap_or_default());
    Some(answer.unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&out.stderr))))
}

/// A tokenizer as SentencePiece makes them, with `<s>` before every text and the merges of some English.
fn write_sentencepiece(dir: &Path) -> Tokenizer {
    std::fs::create_dir_all(dir).unwrap();
    let bytes = (0..=255u8).map(|byte| format!("<0x{byte:02X}>"));
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(String::from).to_vec();
    tokens.extend(bytes);
    tokens.extend(
        "▁abcdefghijklmnopqrstuvwxyzABEGHINORSTUVQ#:.,'?"
            .chars()
            .map(String::from),
    );
    let mut merges = Vec::new();
    for token in [
        "▁t", "he", "th", "▁th", "in", "re", "▁a", "▁the", "er", "on", "▁w", "at", "ing", "▁▁", "ter",
        "▁wat", "▁water", "##",
    ] {
        let cuts = token.char_indices().skip(1).map(|(at, _)| token.split_at(at));
        let known = |part: &str| tokens.iter().any(|token| token == part);
        let pairs = cuts.filter(|(left, right)| known(left) && known(right));
        let pairs: Vec<String> = pairs.map(|(left, right)| format!("{left} {right}")).collect();
        assert!(!pairs.is_empty(), "{token}");
        merges.extend(pairs);
        tokens.push(token.into());
    }
    let vocab: serde_json::Map<String, Value> = tokens
        .iter()
        .enumerate()
        .map(|(id, text)| (text.clone(), id.into()))
        .collect();
    let added: Vec<Value> = ["<unk>", "<s>", "</s>"]
        .iter()
        .enumerate()
        .map(|(id, text)| {
            json!({"id": id, "content": text, "special": true, "normalized": false, "single_word": false,
                   "lstrip": false, "rstrip": false})
        })
        .collect();
    let before =
        json!([{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]);
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "pre_tokenizer": null,
        "post_processor": {"type": "TemplateProcessing", "single": before, "pair": before, "special_tokens": {
            "<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "vocab": vocab, "merges": merges},
    });
    std::fs::write(dir.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let settings = json!({"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
                          "tokenizer_class": "PreTrainedTokenizerFast"});
    std::fs::write(dir.join("tokenizer_config.json"), settings.to_string()).unwrap();
    Tokenizer::from_dir(dir).unwrap()
}

fn sentencepiece_lab(template: &PromptTemplate) -> Lab {
    let lab = Lab {
        root: tempfile::tempdir().unwrap(),
    };
    let tokenizer = write_sentencepiece(&lab.model());
    lab.write_model(&tokenizer, template);
    lab
}

#[test]
fn chats_become_the_prompt_in_transformers_and_llama_cpp() {
    for id in PromptTemplate::builtin_ids() {
        let template = PromptTemplate::builtin(id).unwrap();
        for (lab, bos) in [(Lab::new(&template), ""), (sentencepiece_lab(&template), "<s>")] {
            let (hf, gguf) = (lab.out("hf"), lab.out("m.gguf"));
            export(&lab.model(), &hf, &options(ExportFormat::Hf, ExportDtype::F32)).unwrap();
            export(
                &lab.model(),
                &gguf,
                &options(ExportFormat::Gguf, ExportDtype::F32),
            )
            .unwrap();
            let tokenizer = Tokenizer::from_dir(&lab.model()).unwrap();
            // A special token typed by a user becomes one there; here it does not, and that is not promised of others.
            let typed = NASTY.map(|text| text.replace("</s>", "").replace("<eos>", ""));
            let mut chats = Vec::new();
            let mut wanted = Vec::new();
            for (question, answer) in typed.iter().zip(typed.iter().rev()) {
                chats.push(json!([
                    {"role": "system", "content": "left out"},
                    {"role": "user", "content": question}, {"role": "assistant", "content": answer}]));
                wanted.push((question, answer, Vec::new()));
                chats.push(json!([
                    {"role": "user", "content": answer}, {"role": "assistant", "content": question},
                    {"role": "user", "content": question}, {"role": "assistant", "content": answer}]));
                let past = aligner_data::Turn {
                    question: answer.clone(),
                    answer: question.clone(),
                };
                wanted.push((question, answer, vec![past]));
            }
            for path in [&hf, &gguf] {
                let Some(got) = python("chat", path, &chats.clone().into()) else {
                    return;
                };
                for (got, (question, answer, history)) in got.as_array().unwrap().iter().zip(&wanted) {
                    let prompt = template.render(question, answer, history);
                    assert_eq!(got[0].as_str().unwrap(), format!("{bos}{prompt}"), "{id}");
                    let ids = tokenizer
                        .encode_prompt(&template, question, answer, history)
                        .unwrap();
                    assert_eq!(got[1], json!(ids), "{id}, {}", path.display());
                }
            }
        }
    }
}

#[test]
fn llama_cpp_cuts_texts_into_the_same_tokens() {
    let template = PromptTemplate::default();
    for lab in [Lab::new(&template), sentencepiece_lab(&template)] {
        let gguf = lab.out("m.gguf");
        let written = export(
            &lab.model(),
            &gguf,
            &options(ExportFormat::Gguf, ExportDtype::F32),
        );
        assert_eq!(written.unwrap().notes, Vec::<String>::new());
        let mut texts: Vec<String> = NASTY.map(String::from).to_vec();
        texts.push("the thing in the water other there".into());
        texts.extend(
            CorrectionTask::new(5)
                .held_out(10)
                .into_iter()
                .map(|row| row.answer),
        );
        let Some(got) = python("tokens", &gguf, &json!(texts)) else {
            return;
        };
        let tokenizer = Tokenizer::from_dir(&lab.model()).unwrap();
        let plain = PromptTemplate::custom("plain", "{question}{answer}").unwrap();
        for (text, got) in texts.iter().zip(got.as_array().unwrap()) {
            let want = tokenizer.encode_prompt(&plain, text, "", &[]).unwrap();
            assert_eq!(*got, json!(want), "{text:?}");
        }
    }
}

#[derive(serde::Deserialize)]
struct Row {
    prompt: Vec<u32>,
    greedy: Vec<u32>,
}

/// SmolLM2's greedy corrections, recorded from transformers (see `golden/make_smollm2.py`), by llama.cpp.
#[test]
fn llama_cpp_corrects_as_the_real_model_does() {
    let Some(dir) = std::env::var_os("ALIGNER_TEST_MODEL").map(PathBuf::from) else {
        println!("skipped: ALIGNER_TEST_MODEL does not name a model directory");
        return;
    };
    let rows: Vec<Row> = serde_json::from_str(include_str!("../golden/smollm2.json")).unwrap();
    let longest = rows.iter().map(|row| row.greedy.len()).max().unwrap();
    let prompts: Vec<&Vec<u32>> = rows.iter().map(|row| &row.prompt).collect();
    let input = json!({"prompts": prompts, "max_new_tokens": longest});
    let root = tempfile::tempdir().unwrap();
    for (dtype, name, exact) in [
        (ExportDtype::F32, "f32", true),
        (ExportDtype::F16, "f16", false),
        (ExportDtype::Q8_0, "q8_0", false),
    ] {
        let out = root.path().join(format!("{name}.gguf"));
        export(&dir, &out, &options(ExportFormat::Gguf, dtype)).unwrap();
        let Some(got) = python("greedy", &out, &input) else {
            return;
        };
        let mut same = 0;
        for (row, got) in rows.iter().zip(got.as_array().unwrap()) {
            let got: Vec<u32> = got
                .as_array()
                .unwrap()
                .iter()
                .map(|id| id.as_u64().unwrap() as u32)
                .collect();
            let agree = got.iter().zip(&row.greedy).take_while(|(a, b)| a == b).count();
            println!("{name}: {agree} of {} tokens before they part", row.greedy.len());
            same += usize::from(agree == row.greedy.len());
            assert!(!exact || agree == row.greedy.len(), "{name}: {agree}");
        }
        println!("{name}: {same} of {} corrections the same", rows.len());
    }
}
