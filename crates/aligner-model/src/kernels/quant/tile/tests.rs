use super::super::layout::{bias, in_fours};
#[cfg(target_arch = "x86_64")]
use super::super::round::round_bf16;
use super::*;

/// Bytes of a panel that look like one: any integers, scales that are ordinary numbers.
fn panel(blocks: usize, block_bytes: usize) -> Vec<u8> {
    let values = block_bytes - 2 * PANEL;
    let byte = |at: usize| match at % block_bytes {
        // A zero is no value of `q8`.
        value if value < values => ((at * 7919 + at / 7) % 255 + 1) as u8,
        scale if scale % 2 == 1 => 0x3c,
        _ => (at * 31) as u8,
    };
    (0..blocks * block_bytes).map(byte).collect()
}

fn every() -> impl Iterator<Item = Isa> {
    Isa::EVERY.iter().copied().filter(|isa| isa.is_here())
}

/// Says what was tested: a machine has only some of the instructions.
#[test]
fn the_widest_instructions_are_used() {
    let every: Vec<Isa> = every().collect();
    println!("instructions: {every:?}");
    assert_eq!(every.first(), Some(&Isa::here()));
    assert_eq!(every.last(), Some(&Isa::Compiled));
}

/// Rows of integers as the instructions take them in a format.
struct Rows {
    wide: Vec<i16>,
    narrow: Vec<i8>,
    scales: Vec<f32>,
    offsets: Vec<i32>,
}

impl Rows {
    fn new(values: Vec<i16>, scales: Vec<f32>, format: QuantFormat) -> Self {
        let sum = |block: &[i16]| block.iter().map(|&value| i32::from(value)).sum::<i32>();
        Self {
            narrow: (0..values.len())
                .map(|place| values[in_fours(place)] as i8)
                .collect(),
            offsets: values
                .chunks(BLOCK)
                .map(|block| -bias(format) * sum(block))
                .collect(),
            wide: values,
            scales,
        }
    }

    fn blocks<'a, T>(&'a self, values: &'a [T], rows: usize) -> Blocks<'a, T> {
        Blocks {
            values,
            scales: &self.scales,
            offsets: &self.offsets,
            blocks: self.scales.len() / rows,
        }
    }

    fn times(&self, isa: Isa, format: QuantFormat, rows: usize, panel: &[u8], out: &mut Tile) {
        if isa.is_wide(format) {
            q8_wide(isa, rows, self.blocks(&self.wide, rows), panel, out);
        } else if format == QuantFormat::Q8 {
            q8(isa, rows, self.blocks(&self.narrow, rows), panel, out);
        } else {
            q4(isa, rows, self.blocks(&self.narrow, rows), panel, out);
        }
    }
}

const INTEGERS: [(QuantFormat, usize); 2] = [(QuantFormat::Q8, Q8_BLOCK), (QuantFormat::Q4, Q4_BLOCK)];

/// The tiles in `q8` and `q4` of `rows` rows from the `first` on; untouched where a tile of the format has fewer.
fn integer_tiles(isa: Isa, first: usize, rows: usize, blocks: usize) -> [Tile; 2] {
    let values: Vec<i16> = (first * blocks * BLOCK..(first + rows) * blocks * BLOCK)
        .map(|at| ((at * 6151) % 255) as i16 - 127)
        .collect();
    let scales: Vec<f32> = (first * blocks..(first + rows) * blocks)
        .map(|at| 0.01 + at as f32 * 1e-3)
        .collect();
    INTEGERS.map(|(format, bytes)| {
        let mut tile = [[f32::NAN; PANEL]; MOST_ROWS];
        if rows <= isa.rows(format) {
            let x = Rows::new(values.clone(), scales.clone(), format);
            x.times(isa, format, rows, &panel(blocks, bytes), &mut tile);
        }
        tile
    })
}

#[test]
fn integers_give_the_same_bits_with_all_instructions_and_numbers_of_rows() {
    for blocks in [1, 2, 5] {
        let want = [0, 6].map(|first| integer_tiles(Isa::Compiled, first, 6, blocks));
        for isa in every() {
            let most = [QuantFormat::Q8, QuantFormat::Q4].map(|format| isa.rows(format));
            for rows in 1..=most[0].max(most[1]) {
                let got = integer_tiles(isa, 0, rows, blocks);
                for format in (0..2).filter(|&format| rows <= most[format]) {
                    let want = [&want[0][format][..6], &want[1][format][..6]].concat();
                    let got = &got[format];
                    assert_eq!(got[..rows], want[..rows], "{isa:?} {rows} {blocks}");
                    assert!(got[rows..].iter().flatten().all(|value| value.is_nan()));
                }
            }
        }
    }
}

#[test]
fn largest_integers_do_not_overflow() {
    let blocks = 2;
    // What is stored, what it stands for, and its format.
    let largest = [(1u8, -127, 0), (255, 127, 0), (0, -8, 1), (0xff, 7, 1)];
    for (stored, weight, format) in largest {
        let (format, size) = INTEGERS[format];
        let mut panel = vec![stored; blocks * size];
        for block in panel.chunks_mut(size) {
            for scale in block[size - 2 * PANEL..].chunks_mut(2) {
                scale.copy_from_slice(&[0x80, 0x3f]); // 1
            }
        }
        for x in [-127i16, 127] {
            let rows = Rows::new(vec![x; blocks * BLOCK], vec![1.0; blocks], format);
            for isa in every() {
                let mut out = [[0.0; PANEL]; MOST_ROWS];
                rows.times(isa, format, 1, &panel, &mut out);
                let want = blocks as i32 * BLOCK as i32 * i32::from(x) * weight;
                assert_eq!(out[0], [want as f32; PANEL], "{isa:?} {format} {stored} {x}");
            }
        }
    }
}

/// Rows of activations, and a panel in bf16.
struct OfBf16 {
    width: usize,
    x: Vec<f32>,
    panel: Vec<u8>,
}

impl OfBf16 {
    fn new() -> Self {
        let width = 34;
        Self {
            width,
            x: (0..MOST_ROWS * width)
                .map(|at| (at as f32 * 0.37).sin())
                .collect(),
            panel: (0..width * 2 * PANEL)
                .map(|at| if at % 2 == 1 { 0x3e } else { (at * 31) as u8 })
                .collect(),
        }
    }

    fn weight(&self, output: usize, input: usize) -> f32 {
        let at = input / 2 * 4 * PANEL + 4 * output + 2 * (input % 2);
        of_bf16(u16::from_le_bytes([self.panel[at], self.panel[at + 1]]))
    }
}

fn of_bf16(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

#[test]
fn sums_of_bf16_take_their_terms_in_order_beside_any_rows() {
    let given = OfBf16::new();
    let (width, x, panel) = (given.width, &given.x, &given.panel);
    for isa in every() {
        let most = isa.rows(QuantFormat::Bf16);
        let fused = isa != Isa::Compiled || cfg!(any(target_feature = "fma", target_arch = "aarch64"));
        for rows in 1..=most {
            let first = most - rows;
            let mut got = [[f32::NAN; PANEL]; MOST_ROWS];
            bf16(isa, rows, &x[first * width..], panel, &mut got);
            for (x, got) in x.chunks(width).skip(first).zip(&got[..rows]) {
                for (output, got) in got.iter().enumerate() {
                    let want = x.iter().enumerate().fold(0.0f32, |sum, (input, x)| {
                        let weight = given.weight(output, input);
                        if fused {
                            x.mul_add(weight, sum)
                        } else {
                            sum + x * weight
                        }
                    });
                    assert_eq!(got.to_bits(), want.to_bits(), "{isa:?} {rows} {output}");
                }
            }
            assert!(got[rows..].iter().flatten().all(|value| value.is_nan()));
        }
    }
}

/// The instruction adds the odd product first, then the even one, each with a rounding to the nearest.
#[cfg(target_arch = "x86_64")]
#[test]
fn sums_of_bf16_on_both_sides_take_their_terms_in_order_beside_any_rows() {
    let isa = Isa::Avx512Bf16;
    if !isa.is_here() {
        return;
    }
    let given = OfBf16::new();
    let width = given.width;
    let x: Vec<u16> = given.x.iter().map(|&x| round_bf16(x)).collect();
    for rows in 1..=MOST_ROWS {
        let first = MOST_ROWS - rows;
        let mut got = [[f32::NAN; PANEL]; MOST_ROWS];
        bf16_both(isa, rows, &x[first * width..], &given.panel, &mut got);
        for (x, got) in x.chunks(width).skip(first).zip(&got[..rows]) {
            for (output, got) in got.iter().enumerate() {
                let want = (0..width / 2).fold(0.0f32, |sum, pair| {
                    let term =
                        |input: usize, sum| of_bf16(x[input]).mul_add(given.weight(output, input), sum);
                    term(2 * pair, term(2 * pair + 1, sum))
                });
                assert_eq!(got.to_bits(), want.to_bits(), "{rows} {output}");
            }
        }
        assert!(got[rows..].iter().flatten().all(|value| value.is_nan()));
    }
}

#[test]
#[should_panic(expected = "beyond its matrix")]
fn a_tile_outside_its_panel_is_caught() {
    let rows = Rows::new(vec![0; BLOCK], vec![0.0], QuantFormat::Q8);
    let mut out = [[0.0; PANEL]; MOST_ROWS];
    rows.times(Isa::here(), QuantFormat::Q8, 1, &[0; Q8_BLOCK - 1], &mut out);
}
