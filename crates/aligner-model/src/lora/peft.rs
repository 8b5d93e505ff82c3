//! PEFT's `adapter_config.json` and `adapter_model.safetensors`.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::{LoraAdapter, LoraConfig, LoraWeights, TargetModules};
use crate::error::{ModelError, Result};
use crate::read::{MAX_CONFIG_BYTES, bounded, json_error};
use crate::weights::{
    HostTensor, NamedTensor, SafetensorsSource, TensorSource, WeightDtype, write_atomic, write_safetensors_as,
};

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
const PREFIX: &str = "base_model.model.";

impl LoraAdapter {
    /// Whether a directory holds an adapter instead of a model.
    pub fn is_in(dir: &Path) -> bool {
        dir.join(CONFIG).is_file()
    }

    /// Reads an adapter that PEFT or [`write`](Self::write) saved.
    ///
    /// # Errors
    /// When a file is missing or damaged, or the adapter is of a kind that this crate does not run (another method than
    /// LoRA, DoRA, trained biases or whole modules, ranks by layer).
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(CONFIG);
        let json = bounded(&path, MAX_CONFIG_BYTES)?;
        Self::parse(&path, &json, || SafetensorsSource::open_file(&dir.join(WEIGHTS)))
    }

    /// Reads an adapter whose files are in memory: the contents of `adapter_config.json` and
    /// `adapter_model.safetensors`.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn from_bytes(config: &[u8], weights: Vec<u8>) -> Result<Self> {
        let weights = || SafetensorsSource::from_bytes(Path::new(WEIGHTS), weights);
        Self::parse(Path::new(CONFIG), config, weights)
    }

    fn parse(path: &Path, json: &[u8], weights: impl FnOnce() -> Result<SafetensorsSource>) -> Result<Self> {
        let raw: Map<String, Value> = serde_json::from_slice(json).map_err(json_error(path))?;
        let config = read_config(&raw).map_err(|reason| ModelError::weights(path, reason))?;
        config.validate()?;
        Ok(Self {
            layers: read_weights(weights()?, &config)?,
            base_model: raw
                .get("base_model_name_or_path")
                .and_then(Value::as_str)
                .map(str::to_string),
            config,
        })
    }

    /// The directory of the base model that an adapter in `dir` names: as it stands, or relative to `dir`.
    ///
    /// # Errors
    /// When there is no model in either place.
    pub fn base_dir(&self, dir: &Path) -> Result<PathBuf> {
        let Some(named) = &self.base_model else {
            let reason = format!("{} does not name its base model; name it yourself", dir.display());
            return Err(ModelError::Adapter(reason));
        };
        [PathBuf::from(named), dir.join(named)]
            .into_iter()
            .find(|place| place.join("config.json").is_file())
            .ok_or_else(|| {
                let reason = format!(
                    "its base model {named:?}, named in {}, is no model directory here; get it, and name its directory",
                    dir.join(CONFIG).display()
                );
                ModelError::Adapter(reason)
            })
    }

    /// Writes the adapter as PEFT does, in f32.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(&self, dir: &Path) -> Result<()> {
        self.write_as(dir, WeightDtype::F32)
    }

    /// [`write`](Self::write) in another type.
    ///
    /// # Errors
    /// When a file cannot be written or a value is beyond the type's range.
    pub fn write_as(&self, dir: &Path, dtype: WeightDtype) -> Result<()> {
        std::fs::create_dir_all(dir).map_err(ModelError::io("create", dir))?;
        let mut tensors = Vec::with_capacity(2 * self.layers.len());
        for (name, weights) in &self.layers {
            for (matrix, tensor) in [("lora_A", &weights.a), ("lora_B", &weights.b)] {
                let values = tensor.values.clone();
                tensors.push(NamedTensor {
                    name: format!("{PREFIX}{name}.{matrix}.weight"),
                    shape: tensor.shape.clone(),
                    read: Box::new(move || Ok(values)),
                });
            }
        }
        write_safetensors_as(&dir.join(WEIGHTS), tensors, dtype)?;
        let text = format!("{:#}\n", self.config_json());
        let path = dir.join(CONFIG);
        write_atomic(&path, |file| {
            file.write_all(text.as_bytes())
                .map_err(ModelError::io("write", &path))
        })
    }

    fn config_json(&self) -> Value {
        // Names without the path to them, as PEFT writes them: every layer has the same.
        let mut names: Vec<&str> = self
            .layers
            .keys()
            .filter_map(|name| name.rsplit('.').next())
            .collect();
        names.sort_unstable();
        names.dedup();
        json!({
            "peft_type": "LORA", "task_type": "CAUSAL_LM", "inference_mode": true,
            "base_model_name_or_path": self.base_model,
            "r": self.config.rank, "lora_alpha": self.config.alpha, "lora_dropout": self.config.dropout,
            "use_rslora": self.config.rslora, "target_modules": names,
            "bias": "none", "fan_in_fan_out": false, "init_lora_weights": true, "use_dora": false,
            "modules_to_save": null, "rank_pattern": {}, "alpha_pattern": {},
        })
    }
}

fn read_config(raw: &Map<String, Value>) -> Result<LoraConfig, String> {
    let method = raw.get("peft_type").and_then(Value::as_str).unwrap_or("(none)");
    if method != "LORA" {
        return Err(format!("peft_type is {method}; only LORA adapters are supported"));
    }
    for name in ["use_dora", "fan_in_fan_out", "use_qalora", "lora_bias"] {
        if flag(raw, name)? {
            return Err(format!("{name} is set; such adapters are not supported"));
        }
    }
    for name in ["rank_pattern", "alpha_pattern"] {
        if raw
            .get(name)
            .and_then(Value::as_object)
            .is_some_and(|map| !map.is_empty())
        {
            return Err(format!(
                "{name} is not empty; adapters with ranks by layer are not supported"
            ));
        }
    }
    let number = |name: &str, default: f64| match raw.get(name) {
        None | Some(Value::Null) => Ok(default),
        Some(value) => value.as_f64().ok_or_else(|| format!("{name} is not a number")),
    };
    let rank = raw
        .get("r")
        .and_then(Value::as_u64)
        .filter(|rank| (1..=1 << 20).contains(rank));
    let rank = rank.ok_or("r is not a number of 1 or more")?;
    let target_modules = match raw.get("target_modules") {
        Some(Value::Array(names)) => {
            let names = names.iter().map(|name| name.as_str().map(str::to_string));
            let names: Option<Vec<String>> = names.collect();
            TargetModules::Names(names.ok_or("target_modules has an entry that is no text")?)
        }
        _ => TargetModules::AllLinear,
    };
    Ok(LoraConfig {
        rank: rank as usize,
        alpha: number("lora_alpha", 8.0)?,
        dropout: number("lora_dropout", 0.0)?,
        target_modules,
        rslora: flag(raw, "use_rslora")?,
    })
}

fn flag(raw: &Map<String, Value>, name: &str) -> Result<bool, String> {
    match raw.get(name) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(set)) => Ok(*set),
        Some(_) => Err(format!("{name} is not true or false")),
    }
}

fn read_weights(mut source: SafetensorsSource, config: &LoraConfig) -> Result<BTreeMap<String, LoraWeights>> {
    let path = source.path().to_path_buf();
    let error = |reason: String| ModelError::weights(&path, reason);
    let mut halves: BTreeMap<String, [Option<HostTensor>; 2]> = BTreeMap::new();
    for name in source.names() {
        let place = name.strip_prefix(PREFIX).and_then(|rest| {
            let a = rest.strip_suffix(".lora_A.weight").map(|layer| (layer, 0));
            a.or_else(|| rest.strip_suffix(".lora_B.weight").map(|layer| (layer, 1)))
        });
        let Some((layer, half)) = place else {
            return Err(error(format!(
                "tensor {name} is no LoRA matrix of a linear layer"
            )));
        };
        halves.entry(layer.to_string()).or_default()[half] = source.read(&name)?;
    }
    let mut layers = BTreeMap::new();
    for (layer, halves) in halves {
        let [Some(a), Some(b)] = halves else {
            return Err(error(format!("{layer} has one of its two matrices only")));
        };
        let rank = config.rank;
        if !matches!(a.shape[..], [rows, _] if rows == rank)
            || !matches!(b.shape[..], [_, columns] if columns == rank)
        {
            let (a, b) = (&a.shape, &b.shape);
            return Err(error(format!(
                "{layer} has matrices of shapes {a:?} and {b:?}, which are not of rank {rank}"
            )));
        }
        layers.insert(layer, LoraWeights { a, b });
    }
    if layers.is_empty() {
        return Err(error("holds no adapter".into()));
    }
    Ok(layers)
}
