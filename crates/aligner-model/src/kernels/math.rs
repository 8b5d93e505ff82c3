//! Scalar functions written so that the compiler turns loops over them into vector code.

/// Runs a block with the widest vector instructions of the machine.
///
/// The block becomes the body of an always-inlined function: a closure would reach the vectorised caller through a shim that
/// is compiled without those instructions. The lifetime in the arguments' types is `'a`.
macro_rules! vectorized {
    (($($name:ident: $type:ty),+ $(,)?) -> $output:ty $body:block) => {{
        struct Job<'a> { $($name: $type),+, lifetime: std::marker::PhantomData<&'a ()> }
        impl<'a> pulp::NullaryFnOnce for Job<'a> {
            type Output = $output;
            #[inline(always)]
            fn call(self) -> $output {
                let Job { $($name),+, .. } = self;
                $body
            }
        }
        pulp::Arch::new().dispatch(Job { $($name),+, lifetime: std::marker::PhantomData })
    }};
}
pub(super) use vectorized;

/// `eˣ` to about one unit in the last place, without branches or calls.
///
/// Cody and Waite's reduction `x = n·ln 2 + r` and a polynomial of degree 6 on `|r| ≤ ln 2 / 2` (coefficients of Cephes'
/// `expf`). Saturates at the ends of f32's range instead of overflowing.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    /// 1.5 · 2²³: added to a small number, it leaves the nearest whole number in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.33, 88.37);
    let rounded = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = rounded - ROUND;
    let r = (-n).mul_add(-2.121_944_4e-4, (-n).mul_add(0.693_359_4, x));
    let p = 1.987_569_1e-4_f32;
    let p = p.mul_add(r, 1.398_199_9e-3);
    let p = p.mul_add(r, 8.333_452e-3);
    let p = p.mul_add(r, 4.166_579_5e-2);
    let p = p.mul_add(r, 1.666_666_5e-1);
    let p = p.mul_add(r, 0.5);
    let y = p.mul_add(r * r, r + 1.0);
    // 2ⁿ by its exponent bits: n is in -126..=127 after the clamp. A conversion to an integer would check for more.
    y * f32::from_bits(rounded.to_bits().wrapping_add(127) << 23)
}

/// `1 / (1 + e⁻ˣ)`
#[inline(always)]
pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// Sum of `f(a[i], b[i])` in sixteen lanes, always combined in the same order.
#[inline(always)]
pub(super) fn sum2(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; 16];
    let (a_lanes, a_rest) = a.as_chunks::<16>();
    let (b_lanes, b_rest) = b.as_chunks::<16>();
    for (a, b) in a_lanes.iter().zip(b_lanes) {
        for lane in 0..16 {
            lanes[lane] += f(a[lane], b[lane]);
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(&a, &b)| f(a, b)).sum();
    lanes.iter().sum::<f32>() + rest
}

/// The highest element; NaN when there is one, so that a damaged model does not pass for a sound one.
#[inline(always)]
pub(super) fn maximum(x: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; 16];
    let (chunks, rest) = x.as_chunks::<16>();
    for chunk in chunks {
        for lane in 0..16 {
            // Not `max`: it would drop a NaN.
            lanes[lane] = if chunk[lane] <= lanes[lane] {
                lanes[lane]
            } else {
                chunk[lane]
            };
        }
    }
    let pick = |highest: f32, &x: &f32| if x <= highest { highest } else { x };
    let highest = lanes.iter().fold(f32::NEG_INFINITY, pick);
    rest.iter().fold(highest, pick)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_exact_to_two_units_in_the_last_place() {
        let mut worst = 0.0f64;
        for i in -870_000..880_000 {
            let x = i as f32 * 1e-4;
            let exact = f64::from(x).exp();
            worst = worst.max((f64::from(exp(x)) - exact).abs() / exact);
        }
        assert!(worst < 2.0 * f64::from(f32::EPSILON), "{worst}");
        assert!(exp(1000.0).is_finite() && exp(-1000.0) > 0.0 && exp(f32::NAN).is_nan());
    }

    #[test]
    fn sums_cover_every_element() {
        for len in [0, 1, 15, 16, 17, 100] {
            let a: Vec<f32> = (0..len).map(|i| i as f32).collect();
            assert_eq!(sum2(&a, &a, |a, b| a + b), a.iter().sum::<f32>() * 2.0, "{len}");
        }
    }
}
