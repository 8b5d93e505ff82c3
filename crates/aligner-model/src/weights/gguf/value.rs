//! The values of a GGUF file's metadata.

/// One value of a file's metadata.
#[derive(Debug, Clone, PartialEq)]
pub enum GgufValue {
    /// Eight bits.
    U8(u8),
    /// Eight bits, signed.
    I8(i8),
    /// Sixteen bits.
    U16(u16),
    /// Sixteen bits, signed.
    I16(i16),
    /// Thirty-two bits.
    U32(u32),
    /// Thirty-two bits, signed.
    I32(i32),
    /// Single precision.
    F32(f32),
    /// True or false.
    Bool(bool),
    /// UTF-8 text.
    String(String),
    /// Values of one type.
    Array(GgufArray),
    /// Sixty-four bits.
    U64(u64),
    /// Sixty-four bits, signed.
    I64(i64),
    /// Double precision.
    F64(f64),
}

/// Values of one type. The format allows arrays of arrays; nothing that describes a model holds one, and the reader
/// refuses them.
#[derive(Debug, Clone, PartialEq)]
pub enum GgufArray {
    /// Eight bits each.
    U8(Vec<u8>),
    /// Eight bits each, signed.
    I8(Vec<i8>),
    /// Sixteen bits each.
    U16(Vec<u16>),
    /// Sixteen bits each, signed.
    I16(Vec<i16>),
    /// Thirty-two bits each.
    U32(Vec<u32>),
    /// Thirty-two bits each, signed.
    I32(Vec<i32>),
    /// Single precision.
    F32(Vec<f32>),
    /// True or false.
    Bool(Vec<bool>),
    /// UTF-8 texts.
    String(Vec<String>),
    /// Sixty-four bits each.
    U64(Vec<u64>),
    /// Sixty-four bits each, signed.
    I64(Vec<i64>),
    /// Double precision.
    F64(Vec<f64>),
}

impl GgufValue {
    /// An integer of any width that is not negative.
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            Self::U8(value) => Some(value.into()),
            Self::U16(value) => Some(value.into()),
            Self::U32(value) => Some(value.into()),
            Self::U64(value) => Some(value),
            Self::I8(value) => value.try_into().ok(),
            Self::I16(value) => value.try_into().ok(),
            Self::I32(value) => value.try_into().ok(),
            Self::I64(value) => value.try_into().ok(),
            _ => None,
        }
    }

    /// A number. One of single precision becomes the double with the same shortest decimal: 1e-5 stays 1e-5, where a
    /// cast gives 9.999999747378752e-6.
    pub fn as_f64(&self) -> Option<f64> {
        match *self {
            Self::F32(value) => Some(decimal(value)),
            Self::F64(value) => Some(value),
            _ => self.as_u64().map(|value| value as f64),
        }
    }

    /// True or false.
    pub fn as_bool(&self) -> Option<bool> {
        match *self {
            Self::Bool(value) => Some(value),
            _ => None,
        }
    }

    /// A text.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// An array.
    pub fn as_array(&self) -> Option<&GgufArray> {
        match self {
            Self::Array(array) => Some(array),
            _ => None,
        }
    }
}

impl GgufArray {
    /// The texts of an array of strings.
    pub fn strings(&self) -> Option<&[String]> {
        match self {
            Self::String(texts) => Some(texts),
            _ => None,
        }
    }

    /// The numbers of an array of floats or integers of at most 32 bits, which a double holds without loss.
    pub fn numbers(&self) -> Option<Vec<f64>> {
        fn all<T: Copy + Into<f64>>(values: &[T]) -> Option<Vec<f64>> {
            Some(values.iter().map(|&value| value.into()).collect())
        }
        match self {
            Self::U8(values) => all(values),
            Self::I8(values) => all(values),
            Self::U16(values) => all(values),
            Self::I16(values) => all(values),
            Self::U32(values) => all(values),
            Self::I32(values) => all(values),
            Self::F32(values) => all(values),
            Self::F64(values) => all(values),
            Self::Bool(_) | Self::String(_) | Self::U64(_) | Self::I64(_) => None,
        }
    }
}

/// The double nearest to the shortest decimal that reads back as `value`.
pub(super) fn decimal(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}
