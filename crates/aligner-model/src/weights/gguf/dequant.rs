//! ggml's element types: how a block of each is laid out, and what numbers it stands for.
//!
//! The layouts are those of llama.cpp's `ggml-common.h`; every block starts with or holds scales in half precision. In
//! blocks of 32 the low nibbles are the first half, the high nibbles the second. K types are super-blocks of 256 whose
//! parts have small integer scales of their own.

use half::{bf16, f16};
use rayon::prelude::*;

/// Elements of a block, and of a K type's.
const BLOCK: usize = 32;
const SUPER_BLOCK: usize = 256;
/// Elements that one task converts: enough to be worth a task, few enough to spread a matrix over all cores.
const TASK_ELEMENTS: usize = 1 << 16;

/// How elements are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GgmlType {
    /// Single precision.
    F32,
    /// Half precision.
    F16,
    /// The upper half of single precision.
    Bf16,
    /// Four bits around 0, a scale for 32.
    Q4_0,
    /// Four bits, a scale and a minimum for 32.
    Q4_1,
    /// Five bits around 0, a scale for 32.
    Q5_0,
    /// Five bits, a scale and a minimum for 32.
    Q5_1,
    /// Eight bits, a scale for 32.
    Q8_0,
    /// Four bits, scales and minima of six bits for 32.
    Q4K,
    /// Five bits, scales and minima of six bits for 32.
    Q5K,
    /// Six bits around 0, scales of eight bits for 16.
    Q6K,
}

const ALL: [(u32, GgmlType); 11] = [
    (0, GgmlType::F32),
    (1, GgmlType::F16),
    (2, GgmlType::Q4_0),
    (3, GgmlType::Q4_1),
    (6, GgmlType::Q5_0),
    (7, GgmlType::Q5_1),
    (8, GgmlType::Q8_0),
    (12, GgmlType::Q4K),
    (13, GgmlType::Q5K),
    (14, GgmlType::Q6K),
    (30, GgmlType::Bf16),
];

/// Types that exist and are not read, for messages.
const OTHERS: [(u32, &str); 21] = [
    (9, "Q8_1"),
    (10, "Q2_K"),
    (11, "Q3_K"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
];

impl GgmlType {
    /// The type with a number; otherwise its name, if it has one, and the names of those that are read.
    pub(super) fn from_id(id: u32) -> Result<Self, String> {
        if let Some((_, kind)) = ALL.iter().find(|(known, _)| *known == id) {
            return Ok(*kind);
        }
        let name = OTHERS.iter().find(|(known, _)| *known == id);
        let name = name.map_or(id.to_string(), |(_, name)| (*name).to_string());
        let read: Vec<&str> = ALL.iter().map(|(_, kind)| kind.name()).collect();
        Err(format!("{name}, which is not read; read are {}", read.join(", ")))
    }

    /// The name that ggml gives it.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q8_0 => "Q8_0",
            Self::Q4K => "Q4_K",
            Self::Q5K => "Q5_K",
            Self::Q6K => "Q6_K",
        }
    }

    /// Elements and bytes of a block.
    pub(super) fn block(self) -> (usize, usize) {
        match self {
            Self::F32 => (1, 4),
            Self::F16 | Self::Bf16 => (1, 2),
            Self::Q4_0 => (BLOCK, 2 + 16),
            Self::Q4_1 => (BLOCK, 2 + 2 + 16),
            Self::Q5_0 => (BLOCK, 2 + 4 + 16),
            Self::Q5_1 => (BLOCK, 2 + 2 + 4 + 16),
            Self::Q8_0 => (BLOCK, 2 + 32),
            Self::Q4K => (SUPER_BLOCK, 2 + 2 + 12 + 128),
            Self::Q5K => (SUPER_BLOCK, 2 + 2 + 12 + 32 + 128),
            Self::Q6K => (SUPER_BLOCK, 128 + 64 + 16 + 2),
        }
    }

    /// The numbers that whole blocks stand for.
    pub(super) fn to_f32(self, bytes: &[u8]) -> Vec<f32> {
        let (block_elements, block_bytes) = self.block();
        let blocks = TASK_ELEMENTS / block_elements;
        let mut out = vec![0.0; bytes.len() / block_bytes * block_elements];
        bytes
            .par_chunks(blocks * block_bytes)
            .zip(out.par_chunks_mut(blocks * block_elements))
            .for_each(|(bytes, out)| self.convert(bytes, out));
        out
    }

    fn convert(self, bytes: &[u8], out: &mut [f32]) {
        match self {
            Self::F32 => each(bytes, out, |word, out| *out = [f32::from_le_bytes(*word)]),
            Self::F16 => each(bytes, out, |word, out| {
                *out = [f16::from_le_bytes(*word).to_f32()]
            }),
            Self::Bf16 => each(bytes, out, |word, out| {
                *out = [bf16::from_le_bytes(*word).to_f32()]
            }),
            Self::Q4_0 => each(bytes, out, q4_0),
            Self::Q4_1 => each(bytes, out, q4_1),
            Self::Q5_0 => each(bytes, out, q5_0),
            Self::Q5_1 => each(bytes, out, q5_1),
            Self::Q8_0 => each(bytes, out, q8_0),
            Self::Q4K => each(bytes, out, q4_k),
            Self::Q5K => each(bytes, out, q5_k),
            Self::Q6K => each(bytes, out, q6_k),
        }
    }
}

/// Calls `convert` for every block of `BYTES` bytes that stands for `ELEMENTS` numbers.
fn each<const BYTES: usize, const ELEMENTS: usize>(
    bytes: &[u8],
    out: &mut [f32],
    convert: impl Fn(&[u8; BYTES], &mut [f32; ELEMENTS]),
) {
    let (blocks, _) = bytes.as_chunks::<BYTES>();
    let (parts, _) = out.as_chunks_mut::<ELEMENTS>();
    for (block, part) in blocks.iter().zip(parts) {
        convert(block, part);
    }
}

/// The number in half precision at `at`.
fn half(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// Writes what `number` makes of the sixteen bytes' low nibbles, then of their high nibbles; `number` gets a position
/// and its nibble.
fn nibbles(bytes: &[u8], out: &mut [f32; BLOCK], number: impl Fn(usize, u8) -> f32) {
    for (at, byte) in bytes.iter().enumerate() {
        out[at] = number(at, byte & 15);
        out[at + BLOCK / 2] = number(at + BLOCK / 2, byte >> 4);
    }
}

/// Scale, nibbles.
fn q4_0(block: &[u8; 18], out: &mut [f32; BLOCK]) {
    let scale = half(block, 0);
    nibbles(&block[2..], out, |_, low| f32::from(low as i8 - 8) * scale);
}

/// Scale, minimum, nibbles.
fn q4_1(block: &[u8; 20], out: &mut [f32; BLOCK]) {
    let (scale, minimum) = (half(block, 0), half(block, 2));
    nibbles(&block[4..], out, |_, low| f32::from(low) * scale + minimum);
}

/// The fifth bit of the element at `at`, in its place.
fn fifth(high: u32, at: usize) -> u8 {
    (((high >> at) & 1) << 4) as u8
}

fn word(block: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
}

/// Scale, fifth bits, nibbles.
fn q5_0(block: &[u8; 22], out: &mut [f32; BLOCK]) {
    let (scale, high) = (half(block, 0), word(block, 2));
    nibbles(&block[6..], out, |at, low| {
        f32::from((low | fifth(high, at)) as i8 - 16) * scale
    });
}

/// Scale, minimum, fifth bits, nibbles.
fn q5_1(block: &[u8; 24], out: &mut [f32; BLOCK]) {
    let (scale, minimum, high) = (half(block, 0), half(block, 2), word(block, 4));
    nibbles(&block[8..], out, |at, low| {
        f32::from(low | fifth(high, at)) * scale + minimum
    });
}

/// Scale, signed bytes.
fn q8_0(block: &[u8; 34], out: &mut [f32; BLOCK]) {
    let scale = half(block, 0);
    for (out, &byte) in out.iter_mut().zip(&block[2..]) {
        *out = f32::from(byte as i8) * scale;
    }
}

/// Scale and minimum of a part of a K type's block, six bits each: those of the first four parts are the low bits of
/// bytes 0 to 7; of the last four the low four bits share bytes 8 to 11, the upper two are atop bytes 0 to 7.
fn part_scale(packed: &[u8], part: usize) -> (f32, f32) {
    let (scale, minimum) = if part < 4 {
        (packed[part] & 63, packed[part + 4] & 63)
    } else {
        let low = packed[part + 4];
        (
            (low & 15) | (packed[part - 4] >> 6 << 4),
            (low >> 4) | (packed[part] >> 6 << 4),
        )
    };
    (f32::from(scale), f32::from(minimum))
}

/// Scale, scale of minima, the parts' scales and minima, nibbles: two parts share 32 bytes.
fn q4_k(block: &[u8; 144], out: &mut [f32; SUPER_BLOCK]) {
    let (scale, minima) = (half(block, 0), half(block, 2));
    for (part, out) in out.chunks_exact_mut(BLOCK).enumerate() {
        let (own, minimum) = part_scale(&block[4..16], part);
        let (own, minimum) = (scale * own, minima * minimum);
        let bytes = &block[16 + part / 2 * BLOCK..][..BLOCK];
        for (out, byte) in out.iter_mut().zip(bytes) {
            *out = own * f32::from(byte >> (part % 2 * 4) & 15) - minimum;
        }
    }
}

/// As [`q4_k`], with 32 bytes of fifth bits before the nibbles: bit `part` of byte `at`.
fn q5_k(block: &[u8; 176], out: &mut [f32; SUPER_BLOCK]) {
    let (scale, minima) = (half(block, 0), half(block, 2));
    for (part, out) in out.chunks_exact_mut(BLOCK).enumerate() {
        let (own, minimum) = part_scale(&block[4..16], part);
        let (own, minimum) = (scale * own, minima * minimum);
        let bytes = &block[48 + part / 2 * BLOCK..][..BLOCK];
        for ((out, byte), high) in out.iter_mut().zip(bytes).zip(&block[16..48]) {
            let value = (byte >> (part % 2 * 4) & 15) | ((high >> part & 1) << 4);
            *out = own * f32::from(value) - minimum;
        }
    }
}

/// Nibbles, upper two bits, the scales of sixteen parts, scale. Each half of the block has 64 bytes of nibbles for four
/// runs of 32 — low of the first 32 bytes, low of the others, then their high ones — and 32 bytes of upper bits.
fn q6_k(block: &[u8; 210], out: &mut [f32; SUPER_BLOCK]) {
    let scale = half(block, 208);
    for (run, out) in out.chunks_exact_mut(BLOCK).enumerate() {
        let (whole, run_in_half) = (run / 4, run % 4);
        let low = &block[whole * 64 + run_in_half % 2 * BLOCK..][..BLOCK];
        let high = &block[128 + whole * BLOCK..][..BLOCK];
        for (at, out) in out.iter_mut().enumerate() {
            let nibble = low[at] >> (run_in_half / 2 * 4) & 15;
            let upper = high[at] >> (run_in_half * 2) & 3;
            let own = scale * f32::from(block[192 + run * 2 + at / 16] as i8);
            *out = own * f32::from((nibble | upper << 4) as i8 - 32);
        }
    }
}
