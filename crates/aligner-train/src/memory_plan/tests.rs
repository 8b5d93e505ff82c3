use aligner_model::{LlamaShape, Precision};

use super::*;

fn smollm2() -> ModelConfig {
    ModelConfig::llama(LlamaShape {
        vocab_size: 49_152,
        hidden_size: 576,
        intermediate_size: 1536,
        layers: 30,
        heads: 9,
        kv_heads: 3,
        max_positions: 8192,
    })
    .unwrap()
}

/// Four rows of 512 tokens, of all weights.
pub(crate) fn choices() -> MemoryChoices {
    MemoryChoices {
        micro_batch: 4,
        max_length: 512,
        accumulate: 1,
        lora: None,
        base_weights: WeightFormat::F32,
        checkpointing: false,
        precision: Precision::F32,
        device: DeviceSpec::Cpu,
    }
}

fn total(config: &ModelConfig, choices: &MemoryChoices) -> u64 {
    MemoryPlan::of(config, choices).total_bytes
}

#[test]
fn parts_are_what_the_kernels_keep_and_add_up() {
    let plan = MemoryPlan::of(&smollm2(), &choices());
    assert_eq!(plan.weights_bytes, 134_515_008 * 4);
    assert_eq!(plan.moments_bytes, 2 * plan.weights_bytes);
    // In buffers q, k, v, context, highest score and sum; gate, up. The inputs of both halves are gone when the last gradient is there.
    let a_token = 576 + 192 + 192 + 576 + 2 * 9 + 2 * 1536;
    assert_eq!(plan.moment, PeakMoment::BackwardEnd);
    assert_eq!(plan.activations_bytes, 2048 * 30 * a_token * 4);
    assert_eq!(plan.gradients_bytes, plan.weights_bytes);
    // More rows, and the inputs are more than the gradients.
    let more = MemoryChoices {
        micro_batch: 16,
        ..choices()
    };
    let plan16 = MemoryPlan::of(&smollm2(), &more);
    assert_eq!(plan16.moment, PeakMoment::ForwardEnd);
    assert_eq!(plan16.activations_bytes, 4 * 2048 * 30 * (a_token + 2 * 576) * 4);
    assert_eq!(plan16.gradients_bytes, 49_152 * 576 * 4);
    let parts = plan.weights_bytes
        + plan.moments_bytes
        + plan.gradients_bytes
        + plan.activations_bytes
        + plan.logits_bytes
        + plan.scratch_bytes
        + plan.held_bytes
        + plan.fixed_bytes;
    assert!(plan.total_bytes.abs_diff(parts) < 8);
    assert!(!plan.is_lower_bound);
}

#[test]
fn adapters_checkpointing_and_accumulation_do_what_they_do() {
    let config = smollm2();
    let of = |change: fn(&mut MemoryChoices)| {
        let mut choices = choices();
        change(&mut choices);
        MemoryPlan::of(&config, &choices)
    };
    let once = of(|_| ());
    let lora = of(|choices| choices.lora = Some(LoraConfig::default()));
    // PEFT counts 4 884 480 for rank 16 on every linear layer.
    assert_eq!(lora.moments_bytes, 2 * 4 * 4_884_480);
    assert_eq!(lora.weights_bytes, once.weights_bytes + 4 * 4_884_480);
    let again = of(|choices| choices.checkpointing = true);
    assert_eq!(again.moment, PeakMoment::BackwardEnd);
    assert!(again.activations_bytes < once.activations_bytes / 10);
    let accumulated = of(|choices| choices.accumulate = 2);
    assert_eq!(
        accumulated.gradients_bytes - once.gradients_bytes,
        once.weights_bytes
    );
    let elsewhere = of(|choices| choices.device = DeviceSpec::Cuda(None));
    assert!(elsewhere.is_lower_bound && elsewhere.activations_bytes > once.activations_bytes);
}

#[test]
fn eight_bits_are_those_of_the_layers_below_an_adapter() {
    let config = smollm2();
    let lora = MemoryChoices {
        lora: Some(LoraConfig::default()),
        ..choices()
    };
    let int8 = MemoryChoices {
        base_weights: WeightFormat::Int8,
        ..lora.clone()
    };
    let saved = MemoryPlan::of(&config, &lora).weights_bytes - MemoryPlan::of(&config, &int8).weights_bytes;
    // All matrices but the embedding, in nine bits a weight instead of 32.
    assert_eq!(saved, 30 * (576 * (576 + 192) * 2 + 3 * 576 * 1536) * 23 / 8);
    // The memory of another device holds none of them.
    let on = |choices: &MemoryChoices| MemoryChoices {
        device: DeviceSpec::Cuda(None),
        ..choices.clone()
    };
    let saved =
        MemoryPlan::of(&config, &on(&lora)).weights_bytes - MemoryPlan::of(&config, &on(&int8)).weights_bytes;
    assert_eq!(saved, 30 * (576 * (576 + 192) * 2 + 3 * 576 * 1536) * 4);
    // What is trained is not stored so.
    let full = MemoryChoices { lora: None, ..int8 };
    assert_eq!(
        MemoryPlan::of(&config, &full).weights_bytes,
        MemoryPlan::of(&config, &choices()).weights_bytes
    );
}

#[test]
fn what_fits_just_fits() {
    let config = smollm2();
    let memory = 6_000_000_000;
    let rows = MemoryPlan::largest_micro_batch(&config, &choices(), memory).unwrap();
    let of = |micro_batch| {
        let choices = MemoryChoices {
            micro_batch,
            ..choices()
        };
        total(&config, &choices)
    };
    assert!(of(rows) <= memory && of(rows + 1) > memory);
    let length = MemoryPlan::largest_length(&config, &choices(), memory).unwrap();
    let of = |max_length| {
        let choices = MemoryChoices {
            max_length,
            ..choices()
        };
        total(&config, &choices)
    };
    assert!(of(length) <= memory && of(length + 1) > memory);
    assert_eq!(
        MemoryPlan::largest_length(&config, &choices(), u64::MAX),
        Some(8192)
    );
    assert_eq!(
        MemoryPlan::largest_micro_batch(&config, &choices(), 1_000_000),
        None
    );
}

#[test]
fn every_remedy_fits_with_as_many_rows_a_step_and_there_is_none_where_nothing_helps() {
    let config = smollm2();
    let choices = MemoryChoices {
        micro_batch: 32,
        accumulate: 3,
        ..choices()
    };
    for memory in [1_500_000_000, 2_000_000_000, 3_000_000_000, 8_000_000_000] {
        let remedies = MemoryPlan::remedies(&config, &choices, memory);
        assert!(!remedies.is_empty(), "{memory}");
        for remedy in &remedies {
            assert!(total(&config, remedy) <= memory, "{remedy:?}");
            assert_eq!(remedy.rows_per_step(), 96, "{remedy:?}");
            assert!(remedy.micro_batch <= 32, "{remedy:?}");
        }
        // More switches are only advised for more rows at once.
        for pair in remedies.windows(2) {
            let more = |choices: &MemoryChoices| choices.checkpointing || choices.lora.is_some();
            assert!(!more(&pair[0]) || more(&pair[1]), "{pair:?}");
        }
    }
    assert!(MemoryPlan::remedies(&config, &choices, 500_000_000).is_empty());
}

#[test]
fn what_is_fitted_trains_the_same_and_changes_no_more_than_it_must() {
    let config = smollm2();
    let asked = MemoryChoices {
        micro_batch: 8,
        accumulate: 4,
        ..choices()
    };
    let fitted = |memory| MemoryPlan::fitted(&config, &asked, memory);
    assert_eq!(fitted(u64::MAX), Some(asked.clone()));
    let most = total(&config, &asked);
    let fewer = fitted(most - 1).unwrap();
    assert_eq!((fewer.micro_batch, fewer.accumulate), (4, 8));
    assert!(!fewer.checkpointing);
    let one_row = MemoryChoices {
        micro_batch: 1,
        accumulate: 32,
        ..asked.clone()
    };
    let again = fitted(total(&config, &one_row) - 1).unwrap();
    assert!(again.checkpointing && again.rows_per_step() == 32, "{again:?}");
    assert_eq!(again.lora, None);
    assert_eq!(fitted(1_000_000_000), None);
    // 7 rows are divided by nothing but 7.
    let odd = MemoryChoices {
        micro_batch: 7,
        accumulate: 1,
        ..asked.clone()
    };
    let fewer = MemoryPlan::fitted(&config, &odd, total(&config, &odd) - 1).unwrap();
    assert_eq!((fewer.micro_batch, fewer.accumulate), (1, 7));
}

/// Who ran out of memory fine-tuning a 7B model on a card of 24 GB.
#[test]
fn seven_billion_weights_fit_in_24_gb_in_eight_bits_below_an_adapter_and_not_otherwise() {
    let json = br#"{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 32000,
        "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 32, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "hidden_act": "silu",
        "tie_word_embeddings": false}"#;
    let config = ModelConfig::parse("config.json".as_ref(), json).unwrap();
    let memory = 24_000_000_000;
    let full = MemoryChoices {
        max_length: 2048,
        accumulate: 8,
        ..choices()
    };
    let plan = MemoryPlan::of(&config, &full);
    // Weights, gradients and two moments of 6.74 billion weights alone are 108 GB.
    assert_eq!(plan.weights_bytes, 4 * 6_738_415_616);
    assert!(plan.total_bytes > 108_000_000_000, "{plan:?}");
    // In f32 the weights alone do not fit, whatever else is done.
    let smallest = MemoryChoices {
        micro_batch: 1,
        lora: Some(LoraConfig::default()),
        checkpointing: true,
        precision: Precision::F32,
        ..full.clone()
    };
    assert!(MemoryPlan::of(&config, &smallest).weights_bytes > memory);
    let int8 = MemoryChoices {
        base_weights: WeightFormat::Int8,
        ..smallest
    };
    let plan = MemoryPlan::of(&config, &int8);
    assert!(
        (11_500_000_000..12_500_000_000).contains(&plan.total_bytes),
        "{plan:?}"
    );
    let rows = MemoryPlan::largest_micro_batch(&config, &int8, memory);
    assert!(rows.is_some_and(|rows| rows >= 4), "{rows:?}");
    let remedies = MemoryPlan::remedies(&config, &full, memory);
    assert!(
        remedies
            .iter()
            .any(|remedy| remedy.base_weights == WeightFormat::Int8),
        "{remedies:?}"
    );
    assert_eq!(MemoryPlan::fitted(&config, &full, memory), None);
    // On a card Burn's operations keep more of a row: it has to be shorter.
    let there = MemoryChoices {
        device: DeviceSpec::Cuda(None),
        ..full
    };
    assert_eq!(MemoryPlan::remedies(&config, &there, memory), []);
    let shorter = MemoryPlan::with_shorter_rows(&config, &there, memory).unwrap();
    assert!((1000..2048).contains(&shorter.max_length), "{shorter:?}");
    assert!(MemoryPlan::of(&config, &shorter).total_bytes <= memory);
    assert_eq!(shorter.rows_per_step(), there.rows_per_step());
    assert_eq!(
        MemoryPlan::with_shorter_rows(&config, &there, 1_000_000_000),
        None
    );
}
