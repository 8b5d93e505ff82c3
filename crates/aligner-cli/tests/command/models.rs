//! Adapters, and models in other formats.

use super::*;

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
fn mixed_precision_is_recorded_planned_and_trained_in() {
    let lab = Lab::new();
    lab.ok(&format!("{TRAIN} --out runs/f32"));
    lab.ok(&format!("{TRAIN} --out runs/bf16 --precision bf16"));
    let toml = std::fs::read_to_string(lab.path("runs/bf16/run.toml")).unwrap();
    assert!(toml.contains("precision = \"bf16\""), "{toml}");
    assert_ne!(losses(&lab.path("runs/bf16")), losses(&lab.path("runs/f32")));
    let plan = lab.ok("plan --model base --max-length 256 --precision bf16 --json");
    let plan: Value = serde_json::from_str(&plan).unwrap();
    assert_eq!(plan["precision"], "bf16");
    let error = lab.fails(2, &format!("{TRAIN} --out x --precision fp8"));
    assert!(error.contains("f32, bf16"), "{error}");
    // Two devices of the CPU, and one that does not multiply this way.
    let two = TRAIN.replace("--accumulate 1", "--accumulate 2");
    lab.ok(&format!("{two} --out runs/one --precision bf16"));
    lab.ok(&format!("{two} --out runs/two --precision bf16 --device cpu,cpu"));
    assert_eq!(losses(&lab.path("runs/two")), losses(&lab.path("runs/one")));
    let error = lab.fails(2, &format!("{TRAIN} --out x --precision bf16 --device cuda"));
    assert!(error.contains("precision: bf16 is for the CPU"), "{error}");
    let error = lab.fails(
        2,
        "plan --model base --max-length 256 --precision bf16 --device cuda",
    );
    assert!(error.contains("precision: bf16 is for the CPU"), "{error}");
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
    // Nothing that is no model is replaced, nor what is exported.
    std::fs::create_dir(lab.path("run")).unwrap();
    std::fs::write(lab.path("run/run.toml"), "").unwrap();
    for out in ["run", "base"] {
        let refused = lab.fails(2, &format!("export base --format hf --out {out} --overwrite"));
        assert!(refused.contains("name another place"), "{refused}");
    }
    assert!(lab.path("run/run.toml").is_file() && lab.path("base/config.json").is_file());
    // The mean of two equal models is that model.
    let mean = lab.run("export base --average base --format hf --dtype f16 --out mean");
    assert!(text(&mean.stderr).contains("mean of 2 models"), "{mean:?}");
    let weights = |dir: &str| std::fs::read(lab.path(dir).join("model.safetensors")).unwrap();
    assert!(weights("mean") == weights("out/hf"));
    let other = lab.run("export base --average out/hf --format hf --dtype f32 --out between");
    assert!(
        other.status.success(),
        "of a model as it was and as it was rounded: {other:?}"
    );
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
