use super::*;

#[test]
fn the_list_of_keys_is_the_struct() {
    let full = TrainConfig {
        steps: Some(1),
        lora: Some(LoraChoice::default()),
        warmup: WarmupChoice {
            share: Some(0.1),
            steps: Some(1),
            lr: Some(0.1),
            ..WarmupChoice::default()
        },
        ..TrainConfig::default()
    };
    let table = toml::Table::try_from(&full).unwrap();
    let nested = |name: &str| table[name].as_table().unwrap();
    for (table, known) in [
        (&table, &KEYS[..]),
        (nested("lora"), &LORA_KEYS),
        (nested("warmup"), &WARMUP_KEYS),
    ] {
        let mut keys: Vec<&str> = table.keys().map(String::as_str).collect();
        let mut known = known.to_vec();
        keys.sort_unstable();
        known.sort_unstable();
        assert_eq!(keys, known);
    }
}

#[test]
fn toml_round_trips() {
    let config = TrainConfig {
        template: TemplateChoice::Custom {
            id: "mine".into(),
            text: "{question} {answer}".into(),
        },
        steps: Some(7),
        lora: Some(LoraChoice {
            target_modules: vec!["q_proj".into(), "v_proj".into()],
            ..LoraChoice::default()
        }),
        ..TrainConfig::default()
    };
    assert_eq!(
        TrainConfig::from_toml(&config.to_toml().unwrap(), "run.toml").unwrap(),
        config
    );
}

#[test]
fn an_unknown_key_names_the_nearest() {
    let error = TrainConfig::from_toml("micro_bach = 4", "run.toml")
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("`micro_batch`") && error.contains("run.toml"),
        "{error}"
    );
}

#[test]
fn an_unknown_key_of_a_table_names_the_nearest() {
    for (text, nearest) in [
        ("[lora]\nrang = 4", "`rank`"),
        ("[warmup]\nshares = 0.2", "`share`"),
    ] {
        let error = TrainConfig::from_toml(text, "run.toml").unwrap_err().to_string();
        assert!(error.contains(nearest), "{error}");
    }
}

#[test]
fn impossible_values_name_their_key() {
    let usable = TrainConfig {
        model: "m".into(),
        data: vec!["d".into()],
        out: "o".into(),
        ..TrainConfig::default()
    };
    usable.validate().unwrap();
    for (key, config) in [
        (
            "lr",
            TrainConfig {
                lr: f64::NAN,
                ..usable.clone()
            },
        ),
        (
            "steps",
            TrainConfig {
                steps: Some(0),
                ..usable.clone()
            },
        ),
        (
            "device",
            TrainConfig {
                device: "cuda:1,cuda:1".into(),
                ..usable.clone()
            },
        ),
        (
            "accumulate",
            TrainConfig {
                device: "cpu,cpu,cpu".into(),
                accumulate: 2,
                ..usable.clone()
            },
        ),
        (
            "precision",
            TrainConfig {
                precision: Precision::Bf16,
                device: "cuda:0".into(),
                ..usable.clone()
            },
        ),
        (
            "warmup_ratio",
            TrainConfig {
                warmup_ratio: 1.5,
                ..usable.clone()
            },
        ),
        (
            "patience",
            TrainConfig {
                patience: 3,
                ..usable.clone()
            },
        ),
        (
            "patience",
            TrainConfig {
                patience: 3,
                valid: vec!["valid.jsonl".into()],
                eval_every: 0,
                ..usable.clone()
            },
        ),
        (
            "beta",
            TrainConfig {
                beta: 0.3,
                ..usable.clone()
            },
        ),
        (
            "chat_format",
            TrainConfig {
                chat_format: "chatml".into(),
                ..usable.clone()
            },
        ),
        (
            "best_by",
            TrainConfig {
                best_by: BestBy::ExactMatch,
                ..usable.clone()
            },
        ),
        (
            "identity_share",
            TrainConfig {
                identity_share: 0.6,
                ..usable.clone()
            },
        ),
        (
            "warmup.share",
            TrainConfig {
                warmup: WarmupChoice {
                    share: Some(1.5),
                    ..WarmupChoice::default()
                },
                ..usable.clone()
            },
        ),
        (
            "warmup.data",
            TrainConfig {
                warmup: WarmupChoice {
                    share: Some(0.2),
                    data: vec!["d".into()],
                    ..WarmupChoice::default()
                },
                ..usable.clone()
            },
        ),
        (
            "lora",
            TrainConfig {
                lora: Some(LoraChoice {
                    rank: 0,
                    ..LoraChoice::default()
                }),
                ..usable.clone()
            },
        ),
        (
            "data",
            TrainConfig {
                data: Vec::new(),
                ..usable.clone()
            },
        ),
    ] {
        assert!(
            config.validate().unwrap_err().to_string().starts_with(key),
            "{key}"
        );
    }
}
