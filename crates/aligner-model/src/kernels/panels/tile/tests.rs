use super::*;

fn every() -> Vec<Isa> {
    let mut all = vec![Isa::Compiled];
    #[cfg(target_arch = "x86_64")]
    {
        if Isa::here() != Isa::Compiled {
            all.push(Isa::Avx2);
        }
        if Isa::here() == Isa::Avx512 {
            all.push(Isa::Avx512);
        }
    }
    #[cfg(target_arch = "aarch64")]
    all.push(Isa::Neon);
    all
}

/// Small whole numbers, whose sums are exact in any order.
fn numbers(len: usize, seed: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 7 + seed) % 11) as f32 - 5.0).collect()
}

#[test]
fn tiles_of_every_instruction_set_are_exact() {
    for isa in every() {
        for last in [0, 1, 2, 31, 32] {
            let (a, b) = (numbers(3 * TILE * WIDTH, 1), numbers(3 * WIDTH * WIDTH, 2));
            let run = Run {
                a: &a,
                stride: TILE * WIDTH,
                b: &b,
                chunks: 3,
                last,
            };
            for columns in [1, 16, 17, WIDTH] {
                let mut out = [[f32::NAN; WIDTH]; TILE];
                row_tile(isa, &[run, run], &mut out, columns);
                for (i, row) in out.iter().enumerate() {
                    for (j, &got) in row[..columns].iter().enumerate() {
                        let term =
                            |k: usize| a[k / WIDTH * TILE * WIDTH + i * WIDTH + k % WIDTH] * b[k * WIDTH + j];
                        let sum: f32 = (0..2 * WIDTH + last).map(term).sum();
                        assert_eq!(got, 2.0 * sum, "{isa:?} {last} {columns} {i} {j}");
                    }
                }
            }
        }
        for steps in [0, 1, 14, 100] {
            let (a, b) = (numbers(steps * WIDTH, 3), numbers(steps * WIDTH, 4));
            let run = Run::single(&a, &b, steps);
            for columns in [1, 8, 9, 16, 23, 24, 25, WIDTH] {
                let mut out = [[f32::NAN; WIDTH]; WIDTH];
                column_tile(isa, &[run], Start::Zero, &mut out, columns);
                column_tile(isa, &[run], Start::Held, &mut out, columns);
                for (i, row) in out[..columns].iter().enumerate() {
                    for (j, &got) in row.iter().enumerate() {
                        let sum: f32 = (0..steps).map(|k| a[k * WIDTH + i] * b[k * WIDTH + j]).sum();
                        assert_eq!(got, 2.0 * sum, "{isa:?} {steps} {columns} {i} {j}");
                    }
                }
            }
        }
    }
}

#[test]
#[should_panic(expected = "beyond its matrix")]
fn a_run_outside_its_slice_is_caught() {
    let a = [0.0; TILE * WIDTH - 1];
    let b = [0.0; WIDTH * WIDTH];
    let run = Run::single(&a, &b, WIDTH);
    row_tile(Isa::here(), &[run], &mut [[0.0; WIDTH]; TILE], WIDTH);
}
