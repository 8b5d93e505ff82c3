//! A weight in single precision as products read it.

use std::fmt;
use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData};
use rayon::prelude::*;

use super::memory::Row;
use crate::kernels::matmul::Matrix;
use crate::kernels::panels::{WIDTH, pack_panel};
use crate::kernels::runs_fused;

/// The weight of a linear layer in single precision, in panels of 32 columns one behind the other; copies share their memory.
///
/// A product reads a panel as one run from memory, which a row-major matrix does not have for less than all of its columns, and
/// nothing is rearranged for products of many rows. It is no parameter: it is not trained, and not written.
#[derive(Clone)]
pub struct PanelWeight(Arc<Stored>);

struct Stored {
    input: usize,
    output: usize,
    /// `[output / WIDTH, input]`, rounded up and filled up with zeros.
    rows: Vec<Row>,
}

impl fmt::Debug for PanelWeight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PanelWeight[{}, {}]", self.0.input, self.0.output)
    }
}

impl PanelWeight {
    /// Puts a weight into panels; `None` where they are of no use, which is anywhere but in memory of the CPU without gradients.
    ///
    /// # Shapes
    /// - `weight`: `[input, output]`
    pub fn of(weight: &Tensor<2>) -> Option<Self> {
        let dims = weight.dims();
        if !runs_fused(weight) || weight.device().is_autodiff() {
            return None;
        }
        let weight = weight.clone().try_into_data().ok()?;
        Some(Self::from_inputs(weight.as_slice::<f32>().ok()?, dims))
    }

    /// Puts a weight into panels.
    ///
    /// # Shapes
    /// - `values`: `[output, input]`, as model files have it
    ///
    /// # Panics
    /// When there are not `input · output` values.
    pub fn from_outputs(values: &[f32], [input, output]: [usize; 2]) -> Self {
        assert_eq!(values.len(), input * output, "elements of a weight");
        Self::pack(Matrix::new(values, output, input, input).transposed())
    }

    /// Puts a weight into panels.
    ///
    /// # Shapes
    /// - `values`: `[input, output]`, as layers have it
    ///
    /// # Panics
    /// When there are not `input · output` values.
    pub fn from_inputs(values: &[f32], [input, output]: [usize; 2]) -> Self {
        assert_eq!(values.len(), input * output, "elements of a weight");
        Self::pack(Matrix::new(values, input, output, output))
    }

    /// Packs all panels of a matrix of `[input, output]`, on all threads.
    fn pack(matrix: Matrix<'_>) -> Self {
        let (input, output) = (matrix.rows, matrix.columns);
        let mut rows = vec![Row([0.0; WIDTH]); input * output.div_ceil(WIDTH)];
        rows.par_chunks_mut(input.max(1))
            .enumerate()
            .for_each(|(panel, rows)| pack_panel(matrix, panel * WIDTH, Row::flattened(rows)));
        Self(Arc::new(Stored { input, output, rows }))
    }

    /// Input and output width.
    pub fn dims(&self) -> [usize; 2] {
        [self.0.input, self.0.output]
    }

    /// Memory of a weight, in bytes.
    pub fn bytes(&self) -> usize {
        size_of_val(self.0.rows.as_slice())
    }

    /// The weight as a tensor of its own.
    ///
    /// # Shapes
    /// - output: `[input, output]`
    pub fn tensor(&self, device: &Device) -> Tensor<2> {
        let [input, output] = self.dims();
        let mut values = vec![0.0; input * output];
        values
            .par_chunks_mut(output.max(1))
            .enumerate()
            .for_each(|(step, values)| {
                for (panel, values) in values.chunks_mut(WIDTH).enumerate() {
                    values.copy_from_slice(&self.panel(panel)[step].0[..values.len()]);
                }
            });
        Tensor::from_data(TensorData::new(values, [input, output]), device)
    }

    /// One panel, a row for each input.
    pub(super) fn panel(&self, index: usize) -> &[Row] {
        &self.0.rows[index * self.0.input..][..self.0.input]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_orders_give_the_same_panels_and_the_weight_comes_back() {
        for [input, output] in [[1, 1], [5, 32], [40, 33], [17, 100]] {
            let values: Vec<f32> = (0..input * output).map(|value| value as f32).collect();
            let by_input = PanelWeight::from_inputs(&values, [input, output]);
            let turned: Vec<f32> = (0..output)
                .flat_map(|column| (0..input).map(move |row| (row * output + column) as f32))
                .collect();
            let by_output = PanelWeight::from_outputs(&turned, [input, output]);
            assert_eq!(by_input.0.rows, by_output.0.rows);
            let back: Vec<f32> = by_input.tensor(&Device::flex()).try_into_vec_as().unwrap();
            assert_eq!(back, values);
            assert_eq!(by_input.bytes(), input * output.div_ceil(WIDTH) * WIDTH * 4);
        }
    }
}
