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

fn every() -> Vec<Isa> {
    let mut all = vec![Isa::Compiled];
    #[cfg(target_arch = "aarch64")]
    if Isa::here() == Isa::NeonDot {
        all.push(Isa::Neon);
    }
    if Isa::here() != Isa::Compiled {
        all.push(Isa::here());
    }
    all
}

#[test]
fn integers_give_the_same_bits_with_all_instructions_and_numbers_of_rows() {
    let blocks = 5;
    let values: Vec<i16> = (0..MOST_ROWS * blocks * BLOCK)
        .map(|at| ((at * 6151) % 255) as i16 - 127)
        .collect();
    let bytes: Vec<i8> = values.iter().map(|&value| value as i8).collect();
    let scales: Vec<f32> = (0..MOST_ROWS * blocks)
        .map(|at| 0.01 + at as f32 * 1e-3)
        .collect();
    let offsets: Vec<i32> = values
        .chunks(BLOCK)
        .map(|block| -8 * block.iter().map(|&v| i32::from(v)).sum::<i32>())
        .collect();
    let (wide, narrow) = (panel(blocks, Q8_BLOCK), panel(blocks, Q4_BLOCK));
    let mut want: Option<[Tile; 2]> = None;
    for isa in every() {
        for rows in (1..=MOST_ROWS).rev() {
            let mut got = [[[f32::NAN; PANEL]; MOST_ROWS]; 2];
            let x = Blocks {
                values: &values,
                scales: &scales,
                blocks,
            };
            q8(isa, rows, x, &wide, &mut got[0]);
            let x = Blocks {
                values: &bytes,
                scales: &scales,
                blocks,
            };
            q4(isa, rows, x, &offsets, &narrow, &mut got[1]);
            let want = want.get_or_insert(got);
            for (got, want) in got.iter().zip(&*want) {
                assert_eq!(got[..rows], want[..rows], "{isa:?} {rows}");
                assert!(got[rows..].iter().flatten().all(|value| value.is_nan()));
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
fn rows_of_bf16_do_not_depend_on_each_other() {
    let width = 34;
    let x: Vec<f32> = (0..MOST_ROWS * width)
        .map(|at| (at as f32 * 0.37).sin())
        .collect();
    let panel: Vec<u8> = (0..width * 2 * PANEL)
        .map(|at| if at % 2 == 1 { 0x3e } else { (at * 31) as u8 })
        .collect();
    for isa in every() {
        let mut whole = [[0.0; PANEL]; MOST_ROWS];
        bf16(isa, MOST_ROWS, &x, &panel, &mut whole);
        if cfg!(target_arch = "aarch64") {
            // There even the compiled loop multiplies and adds at once.
            let mut compiled = [[0.0; PANEL]; MOST_ROWS];
            bf16(Isa::Compiled, MOST_ROWS, &x, &panel, &mut compiled);
            assert_eq!(whole, compiled, "{isa:?}");
        }
        for rows in 1..MOST_ROWS {
            let mut some = [[0.0; PANEL]; MOST_ROWS];
            bf16(isa, rows, &x[width..], &panel, &mut some);
            assert_eq!(some[..rows], whole[1..=rows], "{isa:?} {rows}");
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
