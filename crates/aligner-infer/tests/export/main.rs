//! An exported model is the same model, for us and for other programs.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    missing_docs
)]

mod parity;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use aligner_data::synthetic::{CorrectionTask, train_tokenizer};
use aligner_data::{AlignerManifest, ChatFormat, PromptTemplate, Tokenizer};
use aligner_infer::export::{ExportDtype, ExportFormat, ExportOptions, export};
use aligner_infer::{CorrectOptions, Corrector};
use aligner_model::weights::named_tensors;
use aligner_model::{
    CausalDecoder, DeviceSpec, LlamaShape, LoraAdapter, LoraConfig, ModelConfig, load_dir, save_dir,
};
use serde_json::{Value, json};

/// Texts that look like everything that a template could trip over.
const NASTY: [&str; 5] = [
    "What's {{ 7 * 7 }}? {% if true %}{question}{% endif %} {# no #}",
    "{answer}} 'single' \"double\" \\ back\\nslash",
    "line\nbreaks\r\nand\ttabs ",
    "  two  spaces, Grüße, 世界 🦀 12345 1,000.50",
    "{{ .Messages }} `ticks` ${x} </s> <eos> <|im_end|>",
];

/// A tiny Aligner in a directory.
struct Lab {
    root: tempfile::TempDir,
}

impl Lab {
    fn new(template: &PromptTemplate) -> Self {
        let lab = Self {
            root: tempfile::tempdir().unwrap(),
        };
        let rows = CorrectionTask::new(5).train(120);
        let dir = lab.model();
        let tokenizer = train_tokenizer(&rows, template, 320, &dir).unwrap();
        lab.write_model(&tokenizer, template);
        lab
    }

    fn write_model(&self, tokenizer: &Tokenizer, template: &PromptTemplate) {
        let dir = self.model();
        let shape = LlamaShape {
            // More rows than tokens, as many models have.
            vocab_size: tokenizer.vocab_size() + 3,
            hidden_size: 32,
            intermediate_size: 64,
            layers: 2,
            heads: 4,
            kv_heads: 2,
            max_positions: 1024,
        };
        let config = ModelConfig::llama(shape)
            .unwrap()
            .with_token_ids(None, tokenizer.eos_id());
        let device = DeviceSpec::Cpu.open().unwrap();
        let decoder = CausalDecoder::random(&config, 9, &device).unwrap();
        save_dir(&config, &decoder, &dir).unwrap();
        let mut manifest = AlignerManifest::new(template.clone(), tokenizer.hash(), "models/tiny-base");
        manifest.data_licence = Some("CC-BY-4.0 \"\"\"".into());
        manifest.write(&dir).unwrap();
    }

    fn model(&self) -> PathBuf {
        self.root.path().join("run/final")
    }

    fn out(&self, name: &str) -> PathBuf {
        self.root.path().join("out").join(name)
    }

    /// An adapter over the model, in a directory of its own.
    fn adapter(&self) -> PathBuf {
        let device = DeviceSpec::Cpu.open().unwrap();
        let base = load_dir(&self.model(), &device).unwrap();
        let mut adapter = LoraAdapter::new(&LoraConfig::default(), &base.decoder, 3).unwrap();
        for weights in adapter.layers.values_mut() {
            let values = weights.b.values.iter_mut().enumerate();
            values.for_each(|(at, value)| *value = ((at * 37 % 101) as f32 - 50.0) * 1e-3);
        }
        adapter.base_model = Some(self.model().to_string_lossy().into_owned());
        let dir = self.root.path().join("adapter");
        adapter.write(&dir).unwrap();
        AlignerManifest::read(&self.model())
            .unwrap()
            .unwrap()
            .write(&dir)
            .unwrap();
        dir
    }
}

fn options(format: ExportFormat, dtype: ExportDtype) -> ExportOptions {
    ExportOptions::new(format, dtype)
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn a_hugging_face_directory_is_an_aligner_with_our_chat_template() {
    let template = PromptTemplate::default();
    let lab = Lab::new(&template);
    let settings = lab.model().join("tokenizer_config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&settings).unwrap()).unwrap();
    config["chat_template"] = "the base's own".into();
    std::fs::write(&settings, config.to_string()).unwrap();
    let out = lab.out("hf");
    let written = export(&lab.model(), &out, &options(ExportFormat::Hf, ExportDtype::F32)).unwrap();
    assert_eq!(written.notes, Vec::<String>::new());
    let want = [
        "aligner.json",
        "chat_template.base.jinja",
        "chat_template.jinja",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ];
    assert_eq!(names(&out), want);
    assert_eq!(written.files.len(), want.len());
    assert_eq!(names(out.parent().unwrap()), ["hf"], "nothing is left beside it");
    let read = |name: &str| std::fs::read_to_string(out.join(name)).unwrap();
    assert_eq!(read("chat_template.jinja"), template.to_jinja(false));
    assert_eq!(read("chat_template.base.jinja"), "the base's own");
    assert!(!read("tokenizer_config.json").contains("chat_template"));
    let correct = |dir: &Path| {
        let corrector = Corrector::open(dir).unwrap();
        let options = CorrectOptions {
            max_new_tokens: 12,
            ..CorrectOptions::default()
        };
        corrector.correct("7 + 4?", "It is 12.", &options).unwrap().ids
    };
    assert_eq!(correct(&out), correct(&lab.model()));
}

#[test]
fn what_is_there_stays_until_something_whole_replaces_it() {
    let lab = Lab::new(&PromptTemplate::default());
    let out = lab.out("hf");
    let mut options = options(ExportFormat::Hf, ExportDtype::Bf16);
    export(&lab.model(), &out, &options).unwrap();
    let before = std::fs::read(out.join("model.safetensors")).unwrap();
    let error = export(&lab.model(), &out, &options).unwrap_err().to_string();
    assert!(error.contains("--overwrite"), "{error}");
    options.overwrite = true;
    // A tensor that cannot be read ends the export in its midst.
    let path = lab.model().join("model.safetensors");
    let mut weights = std::fs::read(&path).unwrap();
    let end = weights.len();
    weights[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&path, &weights).unwrap();
    let error = export(&lab.model(), &out, &options).unwrap_err().to_string();
    assert!(error.contains("NaN"), "{error}");
    assert_eq!(std::fs::read(out.join("model.safetensors")).unwrap(), before);
    let file = lab.out("m.gguf");
    options.format = ExportFormat::Gguf;
    assert!(export(&lab.model(), &file, &options).is_err());
    assert_eq!(names(out.parent().unwrap()), ["hf"], "nothing looks finished");
    weights[end - 4..].copy_from_slice(&1.0f32.to_le_bytes());
    std::fs::write(&path, &weights).unwrap();
    (options.format, options.dtype) = (ExportFormat::Hf, ExportDtype::F16);
    export(&lab.model(), &out, &options).unwrap();
    assert_ne!(std::fs::read(out.join("model.safetensors")).unwrap(), before);
    assert_eq!(names(out.parent().unwrap()), ["hf"]);
}

#[test]
fn a_directory_that_is_no_models_or_holds_what_is_exported_stays() {
    let lab = Lab::new(&PromptTemplate::default());
    let adapter = lab.adapter();
    let write = |name: &str| {
        let path = lab.out(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "{}").unwrap();
    };
    ["notes/notes.txt", "run/run.toml", "run/config.json"]
        .iter()
        .for_each(|name| write(name));
    let mut options = options(ExportFormat::Hf, ExportDtype::F32);
    options.overwrite = true;
    for (dir, files) in [
        ("notes", &["notes.txt"][..]),
        ("run", &["config.json", "run.toml"][..]),
    ] {
        let error = export(&lab.model(), &lab.out(dir), &options).unwrap_err();
        assert!(
            error.to_string().contains("neither empty nor a model's"),
            "{error}"
        );
        assert_eq!(names(&lab.out(dir)), files);
    }
    // The model, what it lies in, and the base of an adapter, by any name.
    std::fs::write(lab.root.path().join("run/config.json"), "{}").unwrap();
    let before = names(&lab.model());
    for (source, out) in [
        (lab.model(), lab.model()),
        (lab.model(), lab.root.path().join("run")),
        (lab.model(), lab.model().join("../../run/final")),
        (adapter.clone(), lab.model()),
        (adapter.clone(), adapter.clone()),
    ] {
        let error = export(&source, &out, &options).unwrap_err().to_string();
        assert!(error.contains("is what is exported"), "{error}");
        assert_eq!(names(&lab.model()), before);
    }
    std::fs::create_dir(lab.out("empty")).unwrap();
    export(&lab.model(), &lab.out("empty"), &options).unwrap();
}

#[test]
fn a_gguf_file_carries_what_makes_it_an_aligner_and_has_a_modelfile() {
    let template = PromptTemplate::default();
    let lab = Lab::new(&template);
    let out = lab.out("tiny-q8_0.gguf");
    let written = export(
        &lab.model(),
        &out,
        &options(ExportFormat::Gguf, ExportDtype::Q8_0),
    )
    .unwrap();
    assert_eq!(
        names(out.parent().unwrap()),
        ["tiny-q8_0.Modelfile", "tiny-q8_0.gguf"]
    );
    assert_eq!(written.files.len(), 2);
    let bytes = std::fs::read(&out).unwrap();
    let contains = |text: &str| bytes.windows(text.len()).any(|part| part == text.as_bytes());
    for text in [
        "aligner.manifest",
        "\"format_version\": 1",
        "aligner.template",
        template.text(),
        template.fingerprint().as_str(),
        "aligner.data_licence",
        "CC-BY-4.0",
        "general.base_model.0.name",
        "tiny-base",
        "tokenizer.chat_template",
        template.to_jinja(false).as_str(),
    ] {
        assert!(contains(text), "{text}");
    }
    // The run gives the name, not its part.
    assert!(contains("general.name") && !contains("models/tiny-base/"));
    let modelfile = std::fs::read_to_string(lab.out("tiny-q8_0.Modelfile")).unwrap();
    for line in [
        "FROM ./tiny-q8_0.gguf",
        "PARAMETER temperature 0",
        "PARAMETER num_ctx 1024",
        "PARAMETER stop \"<eos>\"",
        "LICENSE \"\"\"The training data: CC-BY-4.0 '''\"\"\"",
    ] {
        assert!(
            modelfile.lines().any(|found| found == line),
            "{line}: {modelfile}"
        );
    }
    assert!(modelfile.contains(&format!("TEMPLATE \"\"\"{}\"\"\"", template.to_go_template())));
}

#[test]
fn an_adapter_is_written_by_itself_or_merged() {
    let lab = Lab::new(&PromptTemplate::default());
    let adapter = lab.adapter();
    let out = lab.out("peft");
    let peft = options(ExportFormat::Peft, ExportDtype::F32);
    export(&adapter, &out, &peft).unwrap();
    let (read, original) = (
        LoraAdapter::read(&out).unwrap(),
        LoraAdapter::read(&adapter).unwrap(),
    );
    assert_eq!(read, original);
    for name in ["aligner.json", "tokenizer.json", "chat_template.jinja"] {
        assert!(out.join(name).is_file(), "{name}");
    }
    let error = export(&lab.model(), &lab.out("no"), &peft)
        .unwrap_err()
        .to_string();
    assert!(error.contains("adapter_config.json"), "{error}");
    assert!(!lab.out("no").exists());

    let device = DeviceSpec::Cpu.open().unwrap();
    let base = load_dir(&lab.model(), &device).unwrap();
    let tensors = |decoder: &CausalDecoder| -> Vec<(String, Vec<f32>)> {
        named_tensors(decoder)
            .into_iter()
            .map(|tensor| (tensor.name, (tensor.read)().unwrap()))
            .collect()
    };
    let merged = tensors(&base.decoder.merged(&original).unwrap());
    assert!(merged != tensors(&base.decoder));
    let over = ExportOptions {
        adapter: Some(adapter.clone()),
        ..options(ExportFormat::Hf, ExportDtype::F32)
    };
    for (dir, options, name) in [
        (
            &adapter,
            options(ExportFormat::Hf, ExportDtype::F32),
            "by its directory",
        ),
        (&lab.model(), over, "over a model"),
    ] {
        let out = lab.out(name);
        export(dir, &out, &options).unwrap();
        assert!(
            tensors(&load_dir(&out, &device).unwrap().decoder) == merged,
            "{name}"
        );
        assert!(!LoraAdapter::is_in(&out));
    }
}

#[test]
fn a_merged_chat_model_says_how_its_adapter_writes_chats_and_not_its_base() {
    let lab = Lab::new(&PromptTemplate::default());
    let adapter = lab.adapter();
    ChatFormat::named("chatml").unwrap().record(&lab.model()).unwrap();
    ChatFormat::SAFE_RLHF.record(&adapter).unwrap();
    let out = lab.out("merged");
    export(&adapter, &out, &options(ExportFormat::Hf, ExportDtype::F32)).unwrap();
    assert_eq!(ChatFormat::recorded(&out).unwrap(), Some(ChatFormat::SAFE_RLHF));
}

#[test]
fn the_mean_of_models_is_that_of_their_weights() {
    let lab = Lab::new(&PromptTemplate::default());
    let device = DeviceSpec::Cpu.open().unwrap();
    let config = ModelConfig::read(&lab.model()).unwrap();
    let other = lab.root.path().join("other");
    save_dir(
        &config,
        &CausalDecoder::random(&config, 10, &device).unwrap(),
        &other,
    )
    .unwrap();
    let average = |others: Vec<PathBuf>, format: ExportFormat| ExportOptions {
        average: others,
        ..options(format, ExportDtype::F32)
    };
    let values = |dir: &Path| -> Vec<(String, Vec<f32>)> {
        let tensors = named_tensors(&load_dir(dir, &device).unwrap().decoder).into_iter();
        tensors
            .map(|tensor| (tensor.name, (tensor.read)().unwrap()))
            .collect()
    };
    // An adapter over the first counts as the model that it makes of it.
    let merged = lab.out("merged");
    export(
        &lab.adapter(),
        &merged,
        &options(ExportFormat::Hf, ExportDtype::F32),
    )
    .unwrap();
    let parts = [lab.model(), other.clone(), merged].map(|dir| values(&dir));
    let out = lab.out("mean");
    let written = export(
        &lab.model(),
        &out,
        &average(vec![other.clone(), lab.adapter()], ExportFormat::Hf),
    )
    .unwrap();
    assert!(
        written.notes.iter().any(|note| note.contains("mean of 3 models")),
        "{written:?}"
    );
    let mean = values(&out);
    assert_eq!(mean.len(), parts[0].len());
    let mut differ = false;
    for (at, (name, mean)) in mean.iter().enumerate() {
        for (index, value) in mean.iter().enumerate() {
            let all = parts.each_ref().map(|part| part[at].1[index]);
            let expected = all.iter().sum::<f32>() / 3.0;
            assert!(
                (value - expected).abs() <= 1e-6,
                "{name} {index}: {value} {all:?}"
            );
            differ |= (value - all[0]).abs() > 1e-3;
        }
    }
    assert!(differ);
    assert_eq!(
        AlignerManifest::read(&out).unwrap(),
        AlignerManifest::read(&lab.model()).unwrap()
    );

    // What does not go together is refused before anything is written.
    let refused = |others: Vec<PathBuf>, format: ExportFormat, part: &str| {
        let (dir, out) = (lab.model(), lab.out("none"));
        let error = export(&dir, &out, &average(others, format))
            .unwrap_err()
            .to_string();
        assert!(error.contains(part) && !out.exists(), "{error}");
    };
    refused(vec![other.clone()], ExportFormat::Peft, "mean of adapters");
    let template = PromptTemplate::custom("own", "{question} {answer} ").unwrap();
    let manifest = AlignerManifest::read(&lab.model()).unwrap().unwrap();
    AlignerManifest::new(template, &manifest.tokenizer_hash, "base")
        .write(&other)
        .unwrap();
    refused(vec![other.clone()], ExportFormat::Hf, "another prompt template");
    let path = other.join("config.json");
    let mut json: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    json["rms_norm_eps"] = 1e-3.into();
    std::fs::write(&path, json.to_string()).unwrap();
    refused(vec![other], ExportFormat::Hf, "another shape");
}

#[test]
fn what_makes_no_sense_is_said() {
    let lab = Lab::new(&PromptTemplate::default());
    let error = |out: &str, options: &ExportOptions| {
        let error = export(&lab.model(), &lab.out(out), options);
        error.unwrap_err().to_string()
    };
    let text = error("x", &options(ExportFormat::Hf, ExportDtype::Q8_0));
    assert!(text.contains("--format gguf"), "{text}");
    let text = error("x", &options(ExportFormat::Gguf, ExportDtype::F32));
    assert!(text.contains(".gguf"), "{text}");
    let mut adapter = options(ExportFormat::Hf, ExportDtype::F32);
    adapter.adapter = Some(lab.model());
    assert!(error("x", &adapter).contains("holds no adapter"));
    std::fs::remove_file(lab.model().join("aligner.json")).unwrap();
    let plain = export(
        &lab.model(),
        &lab.out("m.gguf"),
        &options(ExportFormat::Gguf, ExportDtype::F16),
    );
    let plain = plain.unwrap();
    assert!(plain.notes[0].contains("aligner.json"), "{:?}", plain.notes);
    assert_eq!(plain.files.len(), 1, "no template, no Modelfile");
}

#[test]
fn an_adapter_over_a_model_of_the_hub_names_it_and_not_a_place_on_this_machine() {
    let lab = Lab::new(&PromptTemplate::default());
    let adapter = lab.adapter();
    let mut manifest = AlignerManifest::read(&adapter).unwrap().unwrap();
    let peft = options(ExportFormat::Peft, ExportDtype::F32);
    let base_named = |out: &str, manifest: &AlignerManifest| {
        manifest.write(&adapter).unwrap();
        export(&adapter, &lab.out(out), &peft).unwrap();
        LoraAdapter::read(&lab.out(out)).unwrap().base_model.unwrap()
    };
    manifest.base_model = "org/name@0123abcd".into();
    assert_eq!(base_named("hub", &manifest), "org/name");
    manifest.base_model = "base".into();
    assert_eq!(base_named("local", &manifest), lab.model().to_string_lossy());
}
