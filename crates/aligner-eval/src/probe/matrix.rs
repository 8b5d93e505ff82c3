//! Rows of numbers and weighted sums of them.

/// Rows of numbers, one behind the other.
#[derive(Debug, Clone)]
pub(crate) struct Matrix {
    pub width: usize,
    pub values: Vec<f64>,
}

impl Matrix {
    pub fn rows(&self) -> impl Iterator<Item = &[f64]> {
        self.values.chunks_exact(self.width)
    }

    /// `X v + c`: a number for each row.
    pub fn times(&self, v: &Sum) -> Vec<f64> {
        self.rows().map(|row| v.of(row)).collect()
    }

    /// `(Xᵀ a, Σ a)`.
    pub fn transposed_times(&self, a: &[f64]) -> Sum {
        let mut sum = Sum::zeros(self.width);
        for (row, &a) in self.rows().zip(a) {
            sum.intercept += a;
            for (sum, value) in sum.weights.iter_mut().zip(row) {
                *sum += a * value;
            }
        }
        sum
    }
}

/// A weighted sum of a row and a number beside it: what a probe reads.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sum {
    pub weights: Vec<f64>,
    pub intercept: f64,
}

impl Sum {
    pub fn zeros(width: usize) -> Self {
        Self {
            weights: vec![0.0; width],
            intercept: 0.0,
        }
    }

    /// The logit of a row.
    pub fn of(&self, row: &[f64]) -> f64 {
        dot(&self.weights, row) + self.intercept
    }

    pub fn dot(&self, other: &Self) -> f64 {
        dot(&self.weights, &other.weights) + self.intercept * other.intercept
    }

    pub fn add(&mut self, factor: f64, other: &Self) {
        for (own, other) in self.weights.iter_mut().zip(&other.weights) {
            *own += factor * other;
        }
        self.intercept += factor * other.intercept;
    }

    pub fn add_penalty(&mut self, l2: f64, of: &Self) {
        for (own, weight) in self.weights.iter_mut().zip(&of.weights) {
            *own += l2 * weight;
        }
    }

    /// `self ← other + factor · self`.
    pub fn scale_and_add(&mut self, factor: f64, other: &Self) {
        for (own, other) in self.weights.iter_mut().zip(&other.weights) {
            *own = other + factor * *own;
        }
        self.intercept = other.intercept + factor * self.intercept;
    }
}

/// In eight sums, so that the compiler may compute several at once; their order is fixed.
pub(crate) fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0; 8];
    let (blocks_a, blocks_b) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f64 = blocks_a
        .remainder()
        .iter()
        .zip(blocks_b.remainder())
        .map(|(a, b)| a * b)
        .sum();
    for (a, b) in blocks_a.zip(blocks_b) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    sums.iter().sum::<f64>() + rest
}
