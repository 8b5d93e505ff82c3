use super::*;

/// Bytes of a panel that look like one: any integers, scales that are ordinary numbers.
fn panel(blocks: usize, block_bytes: usize) -> Vec<u8> {
    let values = block_bytes - 2 * PANEL;
    let byte = |at: usize| match at % block_bytes {
        // −128 is no value of `q8`.
        value if value < values => ((at * 7919 + at / 7) % 255 + 129) as u8,
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

/// The tiles in `q8` and `q4` of `rows` rows from the `first` on; untouched where a tile of the format has fewer.
fn integer_tiles(isa: Isa, first: usize, rows: usize, blocks: usize) -> [Tile; 2] {
    let values: Vec<i16> = (first * blocks * BLOCK..(first + rows) * blocks * BLOCK)
        .map(|at| ((at * 6151) % 255) as i16 - 127)
        .collect();
    let bytes: Vec<i8> = values.iter().map(|&value| value as i8).collect();
    let scales: Vec<f32> = (first * blocks..(first + rows) * blocks)
        .map(|at| 0.01 + at as f32 * 1e-3)
        .collect();
    let offsets: Vec<i32> = values
        .chunks(BLOCK)
        .map(|block| -8 * block.iter().map(|&v| i32::from(v)).sum::<i32>())
        .collect();
    let mut tiles = [[[f32::NAN; PANEL]; MOST_ROWS]; 2];
    let (values, scales) = (&values[..], &scales[..]);
    let x = Blocks {
        values,
        scales,
        blocks,
    };
    if rows <= isa.rows(QuantFormat::Q8) {
        q8(isa, rows, x, &panel(blocks, Q8_BLOCK), &mut tiles[0]);
    }
    let x = Blocks {
        values: &bytes[..],
        scales,
        blocks,
    };
    if rows <= isa.rows(QuantFormat::Q4) {
        q4(isa, rows, x, &offsets, &panel(blocks, Q4_BLOCK), &mut tiles[1]);
    }
    tiles
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
    let wide = vec![0x81u8; blocks * Q8_BLOCK]; // −127
    let narrow = vec![0u8; blocks * Q4_BLOCK]; // −8
    let (x, offsets) = (
        vec![-127i16; blocks * BLOCK],
        vec![8 * 127 * BLOCK as i32; blocks],
    );
    let scales = vec![1.0; blocks];
    let mut wide = wide;
    let mut narrow = narrow;
    for (bytes, size) in [(&mut wide, Q8_BLOCK), (&mut narrow, Q4_BLOCK)] {
        for block in bytes.chunks_mut(size) {
            for scale in block[size - 2 * PANEL..].chunks_mut(2) {
                scale.copy_from_slice(&[0x80, 0x3f]); // 1
            }
        }
    }
    for isa in every() {
        let mut out = [[0.0; PANEL]; MOST_ROWS];
        let rows = Blocks {
            values: &x,
            scales: &scales,
            blocks,
        };
        q8(isa, 1, rows, &wide, &mut out);
        assert_eq!(out[0], [(blocks * BLOCK * 127 * 127) as f32; PANEL], "{isa:?}");
        let bytes: Vec<i8> = x.iter().map(|&value| value as i8).collect();
        let rows = Blocks {
            values: &bytes,
            scales: &scales,
            blocks,
        };
        q4(isa, 1, rows, &offsets, &narrow, &mut out);
        assert_eq!(out[0], [(blocks * BLOCK * 127 * 8) as f32; PANEL], "{isa:?}");
        // 15 stands for 7.
        for block in narrow.chunks_mut(Q4_BLOCK) {
            block[..Q4_BLOCK - 2 * PANEL].fill(0xff);
        }
        q4(isa, 1, rows, &offsets, &narrow, &mut out);
        assert_eq!(out[0], [-((blocks * BLOCK * 127 * 7) as f32); PANEL], "{isa:?}");
        for block in narrow.chunks_mut(Q4_BLOCK) {
            block[..Q4_BLOCK - 2 * PANEL].fill(0);
        }
    }
}

#[test]
fn sums_of_bf16_take_their_terms_in_order_beside_any_rows() {
    let width = 34;
    let x: Vec<f32> = (0..MOST_ROWS * width)
        .map(|at| (at as f32 * 0.37).sin())
        .collect();
    let panel: Vec<u8> = (0..width * 2 * PANEL)
        .map(|at| if at % 2 == 1 { 0x3e } else { (at * 31) as u8 })
        .collect();
    let weight = |output: usize, input: usize| {
        let at = input / 2 * 4 * PANEL + 4 * output + 2 * (input % 2);
        f32::from_bits(u32::from(u16::from_le_bytes([panel[at], panel[at + 1]])) << 16)
    };
    for isa in every() {
        let most = isa.rows(QuantFormat::Bf16);
        let fused = isa != Isa::Compiled || cfg!(any(target_feature = "fma", target_arch = "aarch64"));
        for rows in 1..=most {
            let first = most - rows;
            let mut got = [[f32::NAN; PANEL]; MOST_ROWS];
            bf16(isa, rows, &x[first * width..], &panel, &mut got);
            for (x, got) in x.chunks(width).skip(first).zip(&got[..rows]) {
                for (output, got) in got.iter().enumerate() {
                    let want = x.iter().enumerate().fold(0.0f32, |sum, (input, x)| {
                        let weight = weight(output, input);
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

#[test]
#[should_panic(expected = "beyond its matrix")]
fn a_tile_outside_its_panel_is_caught() {
    let x = Blocks {
        values: &[0i16; BLOCK][..],
        scales: &[0.0],
        blocks: 1,
    };
    q8(
        Isa::here(),
        1,
        x,
        &[0; Q8_BLOCK - 1],
        &mut [[0.0; PANEL]; MOST_ROWS],
    );
}
