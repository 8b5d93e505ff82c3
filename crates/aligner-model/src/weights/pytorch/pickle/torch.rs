//! What PyTorch means by the few names that a state dict has.

use std::collections::BTreeSet;

use super::{Machine, Value};
use crate::weights::view::Element;

const MAX_TENSORS: usize = 1 << 17;
/// Dimensions of a tensor.
const MAX_RANK: usize = 16;

/// The element type of a storage.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::weights::pytorch) struct Dtype {
    /// As PyTorch's storage classes are named.
    pub name: &'static str,
    /// Size of an element, in bytes.
    pub size: usize,
    /// How it is read, when it is a type for weights.
    pub element: Option<Element>,
}

const fn dtype(name: &'static str, size: usize, element: Option<Element>) -> Dtype {
    Dtype { name, size, element }
}

const DTYPES: [Dtype; 12] = [
    dtype("Float", 4, Some(Element::F32)),
    dtype("Half", 2, Some(Element::F16)),
    dtype("BFloat16", 2, Some(Element::Bf16)),
    dtype("Double", 8, Some(Element::F64)),
    // Buffers beside the weights, such as positions or masks: they may be there, but not be asked for.
    dtype("Long", 8, None),
    dtype("Int", 4, None),
    dtype("Short", 2, None),
    dtype("Char", 1, None),
    dtype("Byte", 1, None),
    dtype("Bool", 1, None),
    dtype("ComplexFloat", 8, None),
    dtype("ComplexDouble", 16, None),
];

/// What a state dict may name.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Global {
    OrderedDict,
    Size,
    RebuildTensor,
    RebuildParameter,
    Storage(Dtype),
}

impl Global {
    fn find(module: &str, name: &str) -> Option<Self> {
        match (module, name) {
            ("collections", "OrderedDict") => Some(Self::OrderedDict),
            ("torch", "Size") => Some(Self::Size),
            ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => Some(Self::RebuildTensor),
            ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => {
                Some(Self::RebuildParameter)
            }
            ("torch", _) => {
                let kind = name.strip_suffix("Storage")?;
                let dtype = DTYPES.iter().find(|dtype| dtype.name == kind);
                dtype.copied().map(Self::Storage)
            }
            _ => None,
        }
    }
}

/// A tensor as the pickle describes it; nothing of it is checked against the storage yet.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::weights::pytorch) struct Stored<'a> {
    pub dtype: Dtype,
    /// The name of the storage's entry in the archive.
    pub key: &'a str,
    /// Elements of the storage.
    pub numel: usize,
    /// The tensor's first element in the storage.
    pub offset: usize,
    pub shape: Vec<usize>,
    pub strides: Vec<usize>,
}

impl<'a> Machine<'a> {
    pub(super) fn global(&mut self, opcode: u8) -> Result<(), String> {
        let (module, name) = if opcode == b'c' {
            (self.line()?, self.line()?)
        } else {
            match (self.pop()?, self.pop()?) {
                (Value::Str(name), Value::Str(module)) => (module, name),
                _ => return Err("names something that is no text".into()),
            }
        };
        let global = Global::find(module, name).ok_or_else(|| {
            let full: String = format!("{module}.{name}").chars().take(200).collect();
            format!(
                "asks for {full:?}, which no state dict of weights needs and which is not loaded, because that could run \
                 code; save the model's state_dict() alone"
            )
        })?;
        self.push(Value::Global(global))
    }

    pub(super) fn persistent_id(&mut self) -> Result<(), String> {
        let id = self.pop()?;
        let Some(
            [
                Value::Str("storage"),
                Value::Global(Global::Storage(dtype)),
                Value::Str(key),
                Value::Str(_),
                Value::Int(numel),
            ],
        ) = self.items_of(id)
        else {
            return Err("has a persistent id that is no storage".into());
        };
        let storage = (*dtype, *key, size(*numel)?);
        self.hold(1)?;
        self.storages.push(storage);
        self.push(Value::Storage(self.storages.len() - 1))
    }

    fn items_of(&self, value: Value<'a>) -> Option<&[Value<'a>]> {
        match value {
            Value::Tuple(start, count) => self.items.get(start..start + count),
            _ => None,
        }
    }

    /// Calls a function, as the pickle sees it.
    pub(super) fn reduce(&mut self) -> Result<(), String> {
        let (arguments, callable) = (self.pop()?, self.pop()?);
        let arguments = self
            .items_of(arguments)
            .ok_or("calls something without arguments")?;
        let result = match (callable, arguments) {
            (Value::Global(Global::OrderedDict), []) => return self.new_dict(),
            (Value::Global(Global::Size), [sizes @ Value::Tuple(..)]) => *sizes,
            (Value::Global(Global::RebuildParameter), [tensor @ Value::Tensor(_), ..]) => *tensor,
            (
                Value::Global(Global::RebuildTensor),
                [Value::Storage(storage), Value::Int(offset), shape, strides, ..],
            ) => {
                let tensor = self.tensor(*storage, *offset, (*shape, *strides))?;
                self.hold(1 + tensor.shape.len())?;
                self.tensors.push(tensor);
                Value::Tensor(self.tensors.len() - 1)
            }
            (Value::Global(global), _) => {
                return Err(format!("calls {global:?} with arguments that do not fit"));
            }
            _ => return Err("calls something that is no function".into()),
        };
        self.push(result)
    }

    fn tensor(
        &self,
        storage: usize,
        offset: i64,
        (shape, strides): (Value<'a>, Value<'a>),
    ) -> Result<Stored<'a>, String> {
        let sizes = |value| -> Result<Vec<usize>, String> {
            let items = self.items_of(value).filter(|items| items.len() <= MAX_RANK);
            let items =
                items.ok_or_else(|| format!("has a shape that is no tuple of up to {MAX_RANK} sizes"))?;
            let sizes = items.iter().map(|item| match item {
                Value::Int(number) => size(*number),
                _ => Err("has a size that is no number".into()),
            });
            sizes.collect()
        };
        let (dtype, key, numel) = self.storages[storage];
        Ok(Stored {
            dtype,
            key,
            numel,
            offset: size(offset)?,
            shape: sizes(shape)?,
            strides: sizes(strides)?,
        })
    }

    /// Sets attributes: those of a dictionary (PyTorch's `_metadata`) and of a parameter are not needed.
    pub(super) fn build(&mut self) -> Result<(), String> {
        self.pop()?;
        match self.stack.last() {
            Some(Value::Dict(_) | Value::Tensor(_)) => Ok(()),
            _ => Err("sets attributes of something that has none".into()),
        }
    }

    pub(super) fn tensors_of(mut self, result: Value<'a>) -> Result<Vec<(&'a str, Stored<'a>)>, String> {
        let Value::Dict(dict) = result else {
            return Err("holds no dictionary; save the model's state_dict()".into());
        };
        let mut seen = BTreeSet::new();
        let mut tensors = Vec::new();
        for (key, value) in std::mem::take(&mut self.dicts[dict]) {
            let Value::Str(name) = key else {
                return Err("has a key that is no text; save the model's state_dict()".into());
            };
            if !seen.insert(name) {
                return Err(format!("has {name} twice"));
            }
            // What else a program keeps beside its weights is not needed.
            if let Value::Tensor(tensor) = value {
                if tensors.len() == MAX_TENSORS {
                    return Err(format!("has more than {MAX_TENSORS} tensors"));
                }
                tensors.push((name, self.tensors[tensor].clone()));
            }
        }
        if tensors.is_empty() {
            return Err("has no tensors at its top level; save the model's state_dict() alone".into());
        }
        Ok(tensors)
    }
}

fn size(number: i64) -> Result<usize, String> {
    usize::try_from(number).map_err(|_| format!("has a size of {number}"))
}
