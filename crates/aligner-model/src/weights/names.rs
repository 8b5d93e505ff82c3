//! Module paths ↔ weight names, and projections that a family stores as one tensor.
//!
//! Fields carry Hugging Face's names, so a module path is a weight name behind a prefix. What differs is packing: some
//! families store several projections as one tensor, the rows of one behind those of another.

use std::path::Path;

use super::{Bands, HostTensor, NamedTensor, TensorSource};
use crate::config::{ModelConfig, Packing, ScoreLayout};
use crate::error::{ModelError, Result};

/// The head of a model that scores, as transformers and this crate call it, and as Safe-RLHF does.
const SCORE: &str = "score.";
const SAFE_RLHF_SCORE: &str = "score_head.";
/// Of Safe-RLHF's normaliser; read apart from the weights.
pub(super) const NORMALIZER: &str = "normalizer.";

/// The weight name of a module path such as `layers.0.self_attn.q_proj.weight`.
pub(super) fn weight_name(path: &str) -> String {
    if path.starts_with("lm_head.") || path.starts_with(SCORE) {
        path.to_string()
    } else {
        format!("model.{path}")
    }
}

/// Names that other programs store and this one computes or does not need.
pub(super) fn is_redundant(name: &str, tied: bool) -> bool {
    name.ends_with("rotary_emb.inv_freq") || (tied && name == "lm_head.weight")
}

/// A stored tensor and the projections that make it up, in order, with their numbers of rows.
struct Pack {
    stored: &'static str,
    parts: Vec<(&'static str, usize)>,
}

fn packs(config: &ModelConfig) -> Vec<Pack> {
    let (queries, keys) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
    let qkv = |stored| Pack {
        stored,
        parts: vec![
            ("self_attn.q_proj", queries),
            ("self_attn.k_proj", keys),
            ("self_attn.v_proj", keys),
        ],
    };
    let inner = config.intermediate_size;
    match config.packing {
        Packing::None => Vec::new(),
        Packing::Baichuan => vec![qkv("self_attn.W_pack")],
        Packing::Phi3 => vec![
            qkv("self_attn.qkv_proj"),
            Pack {
                stored: "mlp.gate_up_proj",
                parts: vec![("mlp.gate_proj", inner), ("mlp.up_proj", inner)],
            },
        ],
    }
}

fn is_safe_rlhf(config: &ModelConfig) -> bool {
    let score = config.score.as_ref();
    score.is_some_and(|score| score.layout == ScoreLayout::SafeRlhf)
}

/// Gives the projections of packed tensors under their own names.
pub(super) struct Unpacked<'a> {
    inner: &'a mut dyn TensorSource,
    packs: Vec<Pack>,
    /// Whether names are those of Safe-RLHF.
    is_safe_rlhf: bool,
    /// The packed tensor that was read last: its parts are asked for one after the other.
    last: Option<(String, HostTensor)>,
}

impl<'a> Unpacked<'a> {
    pub fn new(inner: &'a mut dyn TensorSource, config: &ModelConfig) -> Self {
        Self {
            inner,
            packs: packs(config),
            is_safe_rlhf: is_safe_rlhf(config),
            last: None,
        }
    }

    /// The stored name of what is no part of a packed tensor.
    fn stored(&self, name: &str) -> String {
        match name.strip_prefix(SCORE) {
            Some(rest) if self.is_safe_rlhf => format!("{SAFE_RLHF_SCORE}{rest}"),
            _ => name.to_string(),
        }
    }

    /// The stored name of a part, the rows before it, and those of the part and of the whole.
    fn place(&self, name: &str) -> Option<(String, usize, usize, usize)> {
        self.packs.iter().find_map(|pack| {
            let mut before = 0;
            for (part, rows) in &pack.parts {
                if let Some(at) = name.find(&format!(".{part}.")) {
                    let stored = format!("{}.{}{}", &name[..at], pack.stored, &name[at + 1 + part.len()..]);
                    return Some((
                        stored,
                        before,
                        *rows,
                        pack.parts.iter().map(|(_, rows)| rows).sum(),
                    ));
                }
                before += rows;
            }
            None
        })
    }

    /// Holds the rows of a packed tensor against those of its parts.
    fn check_rows(&self, stored: String, shape: &[usize], all: usize) -> Result<()> {
        if shape.first() == Some(&all) {
            return Ok(());
        }
        let mut expected = shape.to_vec();
        if let Some(rows) = expected.first_mut() {
            *rows = all;
        }
        Err(ModelError::Shape {
            path: self.inner.path().to_path_buf(),
            name: stored,
            expected,
            got: shape.to_vec(),
        })
    }

    fn part(
        &mut self,
        stored: String,
        (before, rows, all): (usize, usize, usize),
    ) -> Result<Option<HostTensor>> {
        if self.last.as_ref().is_none_or(|(name, _)| *name != stored) {
            let Some(tensor) = self.inner.read(&stored)? else {
                return Ok(None);
            };
            self.last = Some((stored.clone(), tensor));
        }
        let Some((_, tensor)) = &self.last else {
            return Ok(None);
        };
        self.check_rows(stored, &tensor.shape, all)?;
        let width = tensor.values.len() / all;
        let mut shape = tensor.shape.clone();
        shape[0] = rows;
        Ok(Some(HostTensor {
            shape,
            values: tensor.values[before * width..(before + rows) * width].to_vec(),
        }))
    }
}

impl TensorSource for Unpacked<'_> {
    fn read(&mut self, name: &str) -> Result<Option<HostTensor>> {
        match self.place(name) {
            Some((stored, before, rows, all)) => self.part(stored, (before, rows, all)),
            None => self.inner.read(&self.stored(name)),
        }
    }

    fn read_transposed(&mut self, name: &str) -> Result<Option<HostTensor>> {
        match self.place(name) {
            Some((stored, before, rows, all)) => {
                let part = self.part(stored, (before, rows, all))?;
                Ok(part.map(HostTensor::transposed))
            }
            None => self.inner.read_transposed(&self.stored(name)),
        }
    }

    fn read_bands(&mut self, name: &str, bands: Bands<'_>) -> Result<Option<Vec<usize>>> {
        match self.place(name) {
            Some((stored, before, rows, all)) => {
                let part = self.part(stored, (before, rows, all))?;
                Ok(part.map(|part| part.hand_over(bands)))
            }
            None => self.inner.read_bands(&self.stored(name), bands),
        }
    }

    fn shape_of(&self, name: &str) -> Result<Option<Vec<usize>>> {
        let Some((stored, _, rows, all)) = self.place(name) else {
            return self.inner.shape_of(&self.stored(name));
        };
        let Some(mut shape) = self.inner.shape_of(&stored)? else {
            return Ok(None);
        };
        self.check_rows(stored, &shape, all)?;
        shape[0] = rows;
        Ok(Some(shape))
    }

    fn names(&self) -> Vec<String> {
        let parts = |name: String| -> Vec<String> {
            let pack = self
                .packs
                .iter()
                .find(|pack| name.contains(&format!(".{}.", pack.stored)));
            match pack {
                Some(pack) => pack
                    .parts
                    .iter()
                    .map(|(part, _)| name.replace(pack.stored, part))
                    .collect(),
                None if self.is_safe_rlhf && name.starts_with(NORMALIZER) => Vec::new(),
                None => match name.strip_prefix(SAFE_RLHF_SCORE) {
                    Some(rest) if self.is_safe_rlhf => vec![format!("{SCORE}{rest}")],
                    _ => vec![name],
                },
            }
        };
        self.inner.names().into_iter().flat_map(parts).collect()
    }

    fn path(&self) -> &Path {
        self.inner.path()
    }
}

/// Tensors as a family stores them: the projections that it packs become one.
pub(super) fn packed(config: &ModelConfig, tensors: Vec<NamedTensor>) -> Vec<NamedTensor> {
    let packs = packs(config);
    let mut out: Vec<NamedTensor> = Vec::with_capacity(tensors.len());
    for mut tensor in tensors {
        if let Some(rest) = tensor.name.strip_prefix(SCORE)
            && is_safe_rlhf(config)
        {
            tensor.name = format!("{SAFE_RLHF_SCORE}{rest}");
        }
        let stored = packs.iter().find_map(|pack| {
            let (part, _) = pack
                .parts
                .iter()
                .find(|(part, _)| tensor.name.contains(&format!(".{part}.")))?;
            Some(tensor.name.replace(part, pack.stored))
        });
        let Some(stored) = stored else {
            out.push(tensor);
            continue;
        };
        match out.iter().position(|known| known.name == stored) {
            None => out.push(NamedTensor {
                name: stored,
                ..tensor
            }),
            Some(at) => {
                // Parts come in the order in which they are stored: it is the order of the modules' fields.
                let first = out.remove(at);
                out.insert(at, joined(first, tensor));
            }
        }
    }
    out.extend(normalizer(config));
    out
}

/// The tensors of Safe-RLHF's normaliser.
fn normalizer(config: &ModelConfig) -> Vec<NamedTensor> {
    let numbers = config
        .score
        .as_ref()
        .and_then(|score| score.normalization.as_ref());
    let Some(numbers) = numbers else {
        return Vec::new();
    };
    let tensor = |name, values: &Vec<f32>| {
        let values = values.clone();
        NamedTensor {
            name: format!("{NORMALIZER}{name}"),
            shape: vec![values.len()],
            read: Box::new(move || Ok(values)),
        }
    };
    vec![tensor("mean", &numbers.mean), tensor("var", &numbers.variance)]
}

fn joined(first: NamedTensor, second: NamedTensor) -> NamedTensor {
    let mut shape = first.shape;
    shape[0] += second.shape[0];
    let read = move || {
        let mut values = (first.read)()?;
        values.extend((second.read)()?);
        Ok(values)
    };
    NamedTensor {
        name: first.name,
        shape,
        read: Box::new(read),
    }
}
