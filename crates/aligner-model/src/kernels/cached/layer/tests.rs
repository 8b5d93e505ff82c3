//! Every kind of weight gives the same for a row, whatever is beside it.

use super::*;
use crate::kernels::cached::memory::Shared;
use crate::kernels::quant::QuantFormat;
use crate::weights::HostTensor;

fn numbers(len: usize, seed: usize) -> Vec<f32> {
    (0..len)
        .map(|i| ((i * 7919 + seed) % 1009) as f32 / 573.0 - 0.9)
        .collect()
}

fn transposed(values: &[f32], columns: usize) -> Vec<f32> {
    (0..columns)
        .flat_map(|column| values[column..].iter().step_by(columns).copied())
        .collect()
}

/// All of a layer's output in pieces of that many panels.
fn output(layer: &Layer<'_>, x: &[f32], count: usize, step: usize) -> Vec<f32> {
    let mut low = vec![f32::NAN; count * layer.rank()];
    let rows = Rows {
        x,
        stride: layer.input,
    };
    layer.low(rows, &mut low);
    let forms = Forms::new(std::slice::from_ref(layer), count);
    for block in 0..forms.pieces() {
        // SAFETY: nobody writes `x`.
        unsafe { forms.make(Shared::reading(x), block) };
    }
    let input = Input {
        rows,
        count,
        first: 0,
        low: &low,
        forms: &forms,
    };
    let mut out = vec![f32::NAN; count * layer.output];
    let panels = layer.output.div_ceil(WIDTH);
    for first in (0..panels).step_by(step) {
        layer.compute(input, first..(first + step).min(panels), |panel, first, tile| {
            for (row, tile) in tile.iter().enumerate() {
                let at = (first + row) * layer.output + panel * WIDTH;
                let width = layer.width(panel);
                out[at..at + width].copy_from_slice(&tile[..width]);
            }
        });
    }
    out
}

#[test]
fn an_element_depends_on_its_row_and_column_alone() {
    const MOST: usize = 200;
    for (input, output_width, rank) in [(40, 70, 0), (33, 32, 5), (100, 130, 3)] {
        let (x, weight) = (numbers(MOST * input, 1), numbers(input * output_width, 2));
        let turned = transposed(&weight, output_width);
        let host = HostTensor {
            shape: vec![output_width, input],
            values: turned.clone(),
        };
        let int8 = Int8Weight::quantize(&host).unwrap();
        let panels = PanelWeight::from_inputs(&weight, [input, output_width]);
        let (a, b, bias) = (
            numbers(input * rank, 3),
            numbers(rank * output_width, 4),
            numbers(output_width, 5),
        );
        let exact = |row: usize, column: usize, weight: &dyn Fn(usize) -> f32| -> f64 {
            let x = &x[row * input..][..input];
            let dot = |b: &dyn Fn(usize) -> f32| -> f64 {
                x.iter()
                    .enumerate()
                    .map(|(k, x)| f64::from(*x) * f64::from(b(k)))
                    .sum()
            };
            let update =
                (0..rank).map(|r| dot(&|k| a[k * rank + r]) * f64::from(b[r * output_width + column]));
            dot(weight) + f64::from(bias[column]) + 0.5 * update.sum::<f64>()
        };
        let [bf16, q8, q4] = [QuantFormat::Bf16, QuantFormat::Q8, QuantFormat::Q4]
            .map(|format| QuantizedWeight::quantize(&host, format).unwrap());
        let dims = [input, output_width];
        for (index, alone) in [
            Layer::by_input(&weight, dims),
            Layer::panels_of(&panels),
            Layer::by_output(&turned, dims),
            Layer {
                weight: Weight::Int8(&int8),
                ..Layer::by_input(&[], dims)
            },
            Layer {
                weight: Weight::Quantized(&bf16),
                ..Layer::by_input(&[], dims)
            },
            Layer {
                weight: Weight::Quantized(&q8),
                ..Layer::by_input(&[], dims)
            },
            Layer {
                weight: Weight::Quantized(&q4),
                ..Layer::by_input(&[], dims)
            },
        ]
        .into_iter()
        .enumerate()
        {
            let adapter = (rank > 0).then_some(Adapter {
                a: &a,
                b: &b,
                rank,
                scale: 0.5,
            });
            let layer = Layer {
                bias: Some(&bias),
                adapter,
                ..alone
            };
            let whole = output(&layer, &x, MOST, 99);
            let back = match index {
                3 => int8.dequantize().values,
                4 => bf16.dequantize().values,
                5 => q8.dequantize().values,
                6 => q4.dequantize().values,
                _ => turned.clone(),
            };
            for (at, sum) in whole.iter().enumerate() {
                let (row, column) = (at / output_width, at % output_width);
                let expected = exact(row, column, &|k| back[column * input + k]);
                // q8 and q4 round the rows as well, and so does bf16 on some machines.
                let tolerance = match index {
                    0..4 => 1e-3,
                    4 => 0.02,
                    _ => 0.1,
                };
                assert!(
                    (f64::from(*sum) - expected).abs() < tolerance,
                    "{index} {row} {column}"
                );
            }
            for (first, count, step) in [(0, 1, 1), (3, 2, 2), (190, 8, 1), (5, 9, 3), (7, 97, 2)] {
                let part = output(&layer, &x[first * input..], count, step);
                let expected = &whole[first * output_width..][..part.len()];
                assert!(
                    part.iter().zip(expected).all(|(a, b)| a.to_bits() == b.to_bits()),
                    "{index} {count}"
                );
            }
        }
    }
}

#[test]
fn pieces_are_all_panels_once() {
    let weight = vec![0.0; 64 * 1000];
    let panels = PanelWeight::from_inputs(&weight, [64, 1000]);
    for layer in [Layer::by_input(&weight, [64, 1000]), Layer::panels_of(&panels)] {
        for count in [1, 8, 9, 96, 97, 1000] {
            assert!(layer.pieces(count).all(|piece| !piece.is_empty()));
            let all: Vec<usize> = layer.pieces(count).flatten().collect();
            assert_eq!(all, (0..32).collect::<Vec<_>>());
        }
    }
}
