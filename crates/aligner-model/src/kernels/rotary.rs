//! Rotary positions of a row (Su et al. 2021, arXiv 2104.09864), in the order of halves that Llama's weights have.

use super::math::vectorized;

/// Turns each pair `(x[i], x[i + half])` by its angle and multiplies everything by `scale`; what lies behind the pairs is not turned.
///
/// # Shapes
/// - `x`: `[head_dim]`, `cos`, `sin`: `[rotary_dim / 2]`
pub(super) fn rotate(x: &mut [f32], (cos, sin): (&[f32], &[f32]), scale: f32) {
    turn(x, cos, sin, scale, 1.0);
}

/// [`rotate`] by the opposite angles: the gradient of a row before it was turned.
pub(super) fn rotate_back(x: &mut [f32], (cos, sin): (&[f32], &[f32]), scale: f32) {
    turn(x, cos, sin, scale, -1.0);
}

fn turn(x: &mut [f32], cos: &[f32], sin: &[f32], scale: f32, direction: f32) {
    vectorized!((x: &'a mut [f32], cos: &'a [f32], sin: &'a [f32], scale: f32, direction: f32) -> () {
        let half = cos.len();
        let (x, stays) = x.split_at_mut(2 * half);
        for x in stays {
            *x *= scale;
        }
        let (x1, x2) = x.split_at_mut(half);
        for i in 0..half {
            let (a, b, sin) = (x1[i], x2[i], direction * sin[i]);
            x1[i] = (a * cos[i] - b * sin) * scale;
            x2[i] = (b * cos[i] + a * sin) * scale;
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_turn_and_back() {
        let row = [1.0, 2.0, 3.0, 4.0, 5.0];
        let (cos, sin) = ([0.0, 1.0], [1.0, 0.0]);
        let mut x = row;
        rotate(&mut x, (&cos, &sin), 2.0);
        assert_eq!(x, [-6.0, 4.0, 2.0, 8.0, 10.0]);
        rotate_back(&mut x, (&cos, &sin), 0.5);
        assert_eq!(x, row);
    }
}
