//! A weight in single precision as products read it.

use std::fmt;
use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData};
use rayon::prelude::*;

use super::memory::Row;
use crate::kernels::panels::WIDTH;
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

/// Inputs of a panel that are packed at once: a cache line of each of its columns.
const AT_ONCE: usize = 16;

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
        Self::fill([input, output], |first, panel| {
            let columns = WIDTH.min(output - first);
            for (index, rows) in panel.chunks_mut(AT_ONCE).enumerate() {
                for column in 0..columns {
                    let values = &values[(first + column) * input + index * AT_ONCE..];
                    for (row, value) in rows.iter_mut().zip(values) {
                        row.0[column] = *value;
                    }
                }
            }
        })
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
        Self::fill([input, output], |first, panel| pack(values, output, first, panel))
    }

    /// Lets `write` fill each panel, which holds zeros, on all threads; it is given the first column.
    fn fill([input, output]: [usize; 2], write: impl Fn(usize, &mut [Row]) + Sync) -> Self {
        let mut rows = vec![Row([0.0; WIDTH]); input * output.div_ceil(WIDTH)];
        rows.par_chunks_mut(input.max(1))
            .enumerate()
            .for_each(|(panel, rows)| write(panel * WIDTH, rows));
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

/// Up to 32 columns of a row-major matrix, from `first` on, as a panel; columns that are not there stay as they are.
pub(super) fn pack(values: &[f32], columns: usize, first: usize, panel: &mut [Row]) {
    let width = WIDTH.min(columns - first);
    for (row, values) in panel.iter_mut().zip(values.chunks_exact(columns)) {
        match <&[f32; WIDTH]>::try_from(&values[first..first + width]) {
            Ok(values) => row.0 = *values,
            Err(_) => row.0[..width].copy_from_slice(&values[first..first + width]),
        }
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
