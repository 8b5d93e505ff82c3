use proptest::prelude::*;

use super::layout::{BLOCK, in_fours, padded};
use super::*;

const FORMATS: [QuantFormat; 3] = [QuantFormat::Bf16, QuantFormat::Q8, QuantFormat::Q4];

fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next() * next()).collect()
}

fn matrix(output: usize, input: usize, seed: u64) -> HostTensor {
    HostTensor {
        shape: vec![output, input],
        values: numbers(output * input, seed),
    }
}

/// What prepared activations stand for, `[rows, input]`.
fn activations(x: &Prepared) -> Vec<f64> {
    let (input, width) = (x.input(), padded(x.format(), x.input()).unwrap());
    let at = |row: usize, index: usize| match &x.values {
        Values::Floats(values) => f64::from(values[row * width + index]),
        Values::Bf16(values) => f64::from(f32::from_bits(u32::from(values[row * width + index]) << 16)),
        Values::Wide(x) => {
            let row = x.rows(row..row + 1);
            f64::from(row.values[index]) * f64::from(row.scales[index / BLOCK])
        }
        Values::Narrow(x) => {
            let row = x.rows(row..row + 1);
            f64::from(row.values[in_fours(index)]) * f64::from(row.scales[index / BLOCK])
        }
    };
    (0..x.rows())
        .flat_map(|row| (0..input).map(move |index| (row, index)))
        .map(|(row, index)| at(row, index))
        .collect()
}

/// Every output as an exact sum, the sum of the magnitudes of its terms, and how many these are.
fn exact(x: &[f64], weight: &HostTensor) -> Vec<(f64, f64, usize)> {
    let [_, input] = weight.shape[..] else { panic!() };
    let rows = x.chunks(input);
    rows.flat_map(|x| {
        weight.values.chunks(input).map(move |weight| {
            let terms = x.iter().zip(weight).map(|(x, w)| x * f64::from(*w));
            terms.fold((0.0, 0.0, input), |(sum, size, terms), term| {
                (sum + term, size + term.abs(), terms)
            })
        })
    })
    .collect()
}

/// Holds outputs against their exact sums.
fn near(got: &[f32], want: &[(f64, f64, usize)], format: QuantFormat) -> Result<(), TestCaseError> {
    for (got, (sum, size, terms)) in got.iter().zip(want) {
        // A rounding for each term, and two of a block's scales.
        let bound = (*terms as f64 + 4.0) * size * f64::from(f32::EPSILON) + 1e-30;
        prop_assert!(
            (f64::from(*got) - sum).abs() <= bound,
            "{} {} {}",
            format,
            got,
            sum
        );
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn products_are_the_exact_sums_of_what_is_stored(
        input in 1usize..150, output in 1usize..70, rows in 1usize..14, seed in any::<u64>(), cut in 0.0f64..1.0,
    ) {
        let source = matrix(output, input, seed);
        let x = numbers(rows * input, !seed);
        for format in FORMATS {
            let weight = QuantizedWeight::quantize(&source, format).unwrap();
            prop_assert_eq!(weight.bytes().len(), format.bytes(input, output));
            let stored = weight.dequantize();
            let prepared = weight.prepare(&x, rows);
            let want = exact(&activations(&prepared), &stored);
            let mut whole = vec![f32::NAN; rows * output];
            weight.columns(&prepared, 0..output, &mut whole);
            near(&whole, &want, format)?;
            // So do all instructions, to the last bit where sums are of integers.
            for isa in Isa::EVERY.iter().copied().filter(|isa| isa.is_here()) {
                let prepared = Prepared::new(isa, format, &x, rows, input);
                let mut got = vec![f32::NAN; rows * output];
                weight.columns(&prepared, 0..output, &mut got);
                if format == QuantFormat::Bf16 {
                    near(&got, &exact(&activations(&prepared), &stored), format)?;
                } else {
                    prop_assert_eq!(&got, &whole);
                }
            }
            // Any range of columns and rows gives the same bits.
            let middle = ((output as f64) * cut) as usize;
            for columns in [0..middle, middle..output] {
                let (first, stride) = (rows / 2, columns.len() + 3);
                let mut part = vec![f32::NAN; (rows - first) * stride];
                weight.product(&prepared, first..rows, columns.clone(), (&mut part, stride));
                for row in first..rows {
                    let got = &part[(row - first) * stride..][..columns.len()];
                    prop_assert_eq!(got, &whole[row * output..][columns.clone()]);
                }
            }
            // And so does a row alone.
            for row in 0..rows {
                let alone = weight.prepare(&x[row * input..][..input], 1);
                let mut got = vec![f32::NAN; output];
                weight.columns(&alone, 0..output, &mut got);
                prop_assert_eq!(&got[..], &whole[row * output..][..output]);
            }
        }
    }

    #[test]
    fn stored_weights_are_near_what_they_were(input in 1usize..100, output in 1usize..40, seed in any::<u64>()) {
        let source = matrix(output, input, seed);
        for format in FORMATS {
            let weight = QuantizedWeight::quantize(&source, format).unwrap();
            let stored = weight.dequantize();
            prop_assert_eq!(&stored.shape, &source.shape);
            let mut row = vec![0.0; input];
            weight.row(output - 1, &mut row);
            prop_assert_eq!(&row[..], &stored.values[(output - 1) * input..]);
            for (stored, source) in stored.values.chunks(input).zip(source.values.chunks(input)) {
                for (stored, source) in stored.chunks(BLOCK).zip(source.chunks(BLOCK)) {
                    let largest = source.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
                    for (stored, source) in stored.iter().zip(source) {
                        let bound = match format {
                            QuantFormat::Bf16 => source.abs() / 256.0,
                            QuantFormat::Q8 => largest / 127.0 * 0.502,
                            // A step is an eighth of the largest element or so; what is beyond the last one is cut there.
                            QuantFormat::Q4 => largest / 4.0,
                        };
                        prop_assert!((stored - source).abs() <= bound, "{} {} {}", format, stored, source);
                    }
                }
            }
        }
    }
}

/// Enough rows and columns for every way in which the operation shares them out.
#[test]
fn the_operation_is_the_product_for_all_numbers_of_rows() {
    let (input, output) = (200, 800);
    for format in FORMATS {
        let weight = QuantizedWeight::quantize(&matrix(output, input, 7), format).unwrap();
        for rows in [0, 1, 2, 9, 100, 200] {
            let x = numbers(rows * input, 5);
            let mut want = vec![0.0; rows * output];
            weight.columns(&weight.prepare(&x, rows), 0..output, &mut want);
            let x = Tensor::<2>::from_data(TensorData::new(x, [rows, input]), &Device::flex());
            let got: Vec<f32> = quantized_linear(x, &weight, None).try_into_vec_as().unwrap();
            assert!(got == want, "{format} {rows}");
        }
    }
}

#[test]
fn the_operation_is_near_its_reference_and_adds_a_bias() {
    let (rows, input, output) = (3, 100, 50);
    let device = Device::flex();
    let bias = Tensor::<1>::from_data(TensorData::new(numbers(output, 2), [output]), &device);
    let x = Tensor::<2>::from_data(TensorData::new(numbers(rows * input, 1), [rows, input]), &device);
    for format in FORMATS {
        let weight = QuantizedWeight::quantize(&matrix(output, input, 3), format).unwrap();
        let want = crate::kernels::reference::quantized_linear(x.clone(), &weight) + bias.clone().unsqueeze();
        let got = quantized_linear(x.clone(), &weight, Some(bias.clone()));
        let off: f32 = (got - want.clone()).abs().max().into_scalar();
        let size: f32 = want.abs().max().into_scalar();
        // Activations are rounded to a 254th of the largest of a block; hundred such errors add up to some ten of them. In bf16,
        // where they are, to a 512th of themselves.
        let tolerance = match format {
            QuantFormat::Bf16 if Isa::here().multiplies_bf16() => 4e-3,
            QuantFormat::Bf16 => 1e-6,
            _ => 0.02,
        };
        assert!(off <= tolerance * size, "{format}: {off} of {size}");
        // With gradients it is the reference, and gives one.
        let leaf = x.clone().autodiff().require_grad();
        let grads = quantized_linear(leaf.clone(), &weight, None).sum().backward();
        let sums = weight.tensor(&device).sum_dim(1).transpose();
        let off: f32 = (leaf.grad(&grads).unwrap() - sums).abs().max().into_scalar();
        assert!(off < 1e-4, "{format}: {off}");
    }
}

#[test]
fn what_is_not_finite_comes_out_as_such() {
    for format in FORMATS {
        let weight = QuantizedWeight::quantize(&matrix(20, 70, 1), format).unwrap();
        for bad in [f32::NAN, f32::INFINITY] {
            let mut x = numbers(2 * 70, 9);
            x[50] = bad;
            let mut out = vec![0.0; 40];
            weight.columns(&weight.prepare(&x, 2), 0..20, &mut out);
            assert!(out[..20].iter().all(|value| !value.is_finite()), "{format}");
            assert!(out[20..].iter().all(|value| value.is_finite()), "{format}");
        }
    }
}

#[test]
fn what_is_no_matrix_of_numbers_is_refused() {
    let refused = |shape: &[usize], values: Vec<f32>| {
        let shape = shape.to_vec();
        QuantizedWeight::quantize(&HostTensor { shape, values }, QuantFormat::Q8)
            .unwrap_err()
            .to_string()
    };
    assert!(refused(&[3], vec![1.0; 3]).contains("no matrix"));
    assert!(refused(&[2, 3], vec![1.0; 5]).contains("5 elements"));
    assert!(refused(&[0, 3], Vec::new()).contains("0 elements"));
    assert!(refused(&[usize::MAX, 2], vec![1.0; 4]).contains("4 elements"));
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        assert!(refused(&[1, 2], vec![1.0, bad]).contains(&format!("an element is {bad}")));
    }
}

#[test]
#[should_panic(expected = "of another kind")]
fn activations_of_another_format_are_caught() {
    let q8 = QuantizedWeight::quantize(&matrix(4, 4, 1), QuantFormat::Q8).unwrap();
    let q4 = QuantizedWeight::quantize(&matrix(4, 4, 1), QuantFormat::Q4).unwrap();
    q4.columns(&q8.prepare(&[1.0; 4], 1), 0..4, &mut [0.0; 4]);
}

#[test]
#[should_panic(expected = "too short")]
fn an_output_that_is_too_short_is_caught() {
    let weight = QuantizedWeight::quantize(&matrix(4, 4, 1), QuantFormat::Q8).unwrap();
    weight.product(&weight.prepare(&[1.0; 8], 2), 0..2, 0..4, (&mut [0.0; 7], 4));
}

#[test]
fn bits_of_a_weight() {
    let per_weight = |format: QuantFormat| format.bytes(4096, 11008) as f64 * 8.0 / (4096.0 * 11008.0);
    assert_eq!(FORMATS.map(per_weight), [16.0, 8.5, 4.5]);
    assert_eq!(QuantFormat::Q4.bytes(usize::MAX, usize::MAX), usize::MAX);
}
