//! Dropout whose masks are a function of a seed, whatever else the process computes.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

use burn::module::Module;
use burn::tensor::{Tensor, TensorData};

thread_local! {
    /// Seed of the masks that are drawn on this thread, and how many were.
    static DRAWN: Cell<Option<(u64, u64)>> = const { Cell::new(None) };
}

/// Seeds of masks that are drawn without one.
static UNSEEDED: AtomicU64 = AtomicU64::new(0);

/// Zeroes elements with a probability while training, and scales the others up by what is missing.
///
/// Burn's own draws from a generator of the whole process: runs side by side would have to take turns to be repeatable, and a
/// thread that waits for its turn may be one that the other run needs.
#[derive(Module, Debug)]
pub struct Dropout {
    /// Probability of an element to be zeroed.
    pub prob: f64,
}

impl Dropout {
    /// Dropout with this probability, in `0..1`.
    pub fn new(prob: f64) -> Self {
        Self { prob }
    }

    /// # Shapes
    /// - `x`: any
    /// - output: as `x`
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        if self.prob == 0.0 || !x.device().is_autodiff() {
            return x;
        }
        let key = next_key();
        let kept = (1.0 / (1.0 - self.prob)) as f32;
        let threshold = (self.prob * (1u64 << 53) as f64) as u64;
        let drawn = |index: u64| mixed(key.wrapping_add(index.wrapping_mul(GOLDEN))) >> 11;
        let mask: Vec<f32> = (0..x.shape().num_elements() as u64)
            .map(|index| if drawn(index) < threshold { 0.0 } else { kept })
            .collect();
        let mask = Tensor::<D>::from_data(TensorData::new(mask, x.shape()), &x.device());
        x * mask
    }
}

/// Runs `forward`, in which masks are a function of `seed` and their order alone.
pub fn with_dropout_seed<R>(seed: u64, forward: impl FnOnce() -> R) -> R {
    /// Puts back what was there: a thread that waits for a piece of work may be given a whole other pass meanwhile.
    struct Before(Option<(u64, u64)>);
    impl Drop for Before {
        fn drop(&mut self) {
            DRAWN.set(self.0);
        }
    }
    let _before = Before(DRAWN.replace(Some((seed, 0))));
    forward()
}

fn next_key() -> u64 {
    match DRAWN.get() {
        Some((seed, count)) => {
            DRAWN.set(Some((seed, count + 1)));
            mixed(mixed(seed) ^ count)
        }
        None => mixed(UNSEEDED.fetch_add(1, Ordering::Relaxed)),
    }
}

const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// SplitMix64 (Steele, Lea and Flood 2014): one step of it from any state.
fn mixed(state: u64) -> u64 {
    let z = state.wrapping_add(GOLDEN);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    fn dropped(prob: f64) -> Vec<f32> {
        let x = Tensor::<2>::ones([100, 100], &Device::flex().autodiff());
        Dropout::new(prob)
            .forward(x)
            .inner()
            .into_data()
            .iter::<f32>()
            .collect()
    }

    #[test]
    fn the_share_is_dropped_and_the_mean_stays() {
        let values = with_dropout_seed(1, || dropped(0.2));
        let zeros = values.iter().filter(|&&value| value == 0.0).count();
        // Five standard deviations of 10 000 draws.
        assert!((1800..2200).contains(&zeros), "{zeros}");
        assert!(values.iter().all(|&value| value == 0.0 || value == 1.25));
        assert!(dropped(0.0).iter().all(|&value| value == 1.0));
    }

    #[test]
    fn masks_follow_the_seed_and_their_order_whatever_runs_inside() {
        let two = |inside: bool| {
            with_dropout_seed(7, || {
                let first = dropped(0.5);
                if inside {
                    with_dropout_seed(8, || dropped(0.5));
                }
                [first, dropped(0.5)]
            })
        };
        let [first, second] = two(false);
        assert_ne!(first, second);
        assert_eq!(two(true), [first, second]);
        assert_ne!(with_dropout_seed(8, || dropped(0.5)), two(false)[0]);
        assert_ne!(dropped(0.5), dropped(0.5));
    }
}
