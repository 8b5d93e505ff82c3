//! A weight in single precision as products read it.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::{Device, Tensor, TensorData};
use rayon::prelude::*;

use super::memory::Row;
use super::panel_memory::PanelMemory;
use crate::kernels::matrix::Matrix;
use crate::kernels::panels::{WIDTH, pack_panel};
use crate::kernels::runs_fused;
use crate::weights::MappedFile;

/// The weight of a linear layer in single precision, in panels of 32 columns one behind the other; copies share their memory.
///
/// A product reads a panel as one run from memory, which a row-major matrix does not have for less than all of its columns, and
/// nothing is rearranged for products of many rows. It is no parameter: it is not trained, and not written.
#[derive(Clone)]
pub struct PanelWeight {
    input: usize,
    output: usize,
    memory: Arc<PanelMemory>,
    /// Where its rows begin: `[output / WIDTH, input]`, rounded up and filled up with zeros.
    start: usize,
}

impl fmt::Debug for PanelWeight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PanelWeight[{}, {}]", self.input, self.output)
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
    pub fn from_outputs(values: &[f32], dims: [usize; 2]) -> Self {
        Self::pack(of_outputs(values, dims))
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

    fn pack(matrix: Matrix<'_>) -> Self {
        let (input, output) = (matrix.rows, matrix.columns);
        let mut memory = PanelMemory::allocate(rows_of([input, output]));
        write(matrix, memory.rows_mut());
        Self {
            input,
            output,
            memory: Arc::new(memory),
            start: 0,
        }
    }

    /// A weight whose rows, as [`stored`](Self::stored) gave them, lie in a mapped file; `None` when there are not as many, or they do not
    /// lie as this machine reads them.
    pub(crate) fn mapped(dims: [usize; 2], file: &Arc<MappedFile>, range: Range<usize>) -> Option<Self> {
        let [input, output] = dims;
        let rows = Row::of_bytes(file.bytes().get(range.clone())?)?;
        let fits = Self::stored_bytes(dims) == Some(range.len()) && !rows.is_empty();
        (fits && cfg!(target_endian = "little")).then(|| Self {
            input,
            output,
            memory: Arc::new(PanelMemory::File {
                file: Arc::clone(file),
                range,
            }),
            start: 0,
        })
    }

    /// What a file holds of a weight.
    pub(crate) fn stored(&self) -> &[u8] {
        Row::bytes(self.rows())
    }

    /// How many bytes a file holds of a weight; `None` when they are more than can be counted.
    pub(crate) fn stored_bytes([input, output]: [usize; 2]) -> Option<usize> {
        input
            .checked_mul(output.div_ceil(WIDTH))?
            .checked_mul(size_of::<Row>())
    }

    /// Input and output width.
    pub fn dims(&self) -> [usize; 2] {
        [self.input, self.output]
    }

    /// Memory of a weight, in bytes.
    pub fn bytes(&self) -> usize {
        size_of_val(self.rows())
    }

    /// The weights of one output: a token's row, where this is an embedding.
    ///
    /// # Shapes
    /// - `out`: `[input]`
    ///
    /// # Panics
    /// When there is no such output, or `out` has another length.
    pub fn row(&self, output: usize, out: &mut [f32]) {
        assert!(output < self.output, "output {output} of {}", self.output);
        assert_eq!(out.len(), self.input, "elements of a row");
        let panel = self.panel(output / WIDTH);
        for (out, step) in out.iter_mut().zip(panel) {
            *out = step.0[output % WIDTH];
        }
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
        &self.rows()[index * self.input..][..self.input]
    }

    fn rows(&self) -> &[Row] {
        &self.memory.rows()[self.start..][..rows_of(self.dims())]
    }
}

/// Rows of all panels of a weight.
fn rows_of([input, output]: [usize; 2]) -> usize {
    input * output.div_ceil(WIDTH)
}

/// A weight as model files have it, as `[input, output]`.
fn of_outputs(values: &[f32], [input, output]: [usize; 2]) -> Matrix<'_> {
    assert_eq!(values.len(), input * output, "elements of a weight");
    Matrix::new(values, output, input, input).transposed()
}

/// Packs all panels of a matrix of `[input, output]`, on all threads.
fn write(matrix: Matrix<'_>, rows: &mut [Row]) {
    rows.par_chunks_mut(matrix.rows.max(1))
        .enumerate()
        .for_each(|(panel, rows)| pack_panel(matrix, panel * WIDTH, Row::flattened(rows)));
}

/// The weights of a model, put into panels one behind the other in memory that they share.
#[derive(Debug)]
pub(crate) struct PanelWeights {
    memory: PanelMemory,
    written: Vec<[usize; 2]>,
    /// Rows of what is written.
    used: usize,
}

impl PanelWeights {
    /// Memory for weights of `[input, output]`; `None` where there is not so much.
    pub fn new(mut weights: impl Iterator<Item = [usize; 2]>) -> Option<Self> {
        let bytes = weights.try_fold(0usize, |bytes, dims| {
            bytes.checked_add(PanelWeight::stored_bytes(dims)?)
        })?;
        Some(Self {
            memory: PanelMemory::map(bytes / size_of::<Row>())?,
            written: Vec::new(),
            used: 0,
        })
    }

    /// Writes the next weight, which `read` hands over as a model file has it, `[output, input]`: so many rows at a time, with
    /// the number of each such band, on any threads.
    ///
    /// # Panics
    /// When a band is no part of such a weight, or the weight was not counted in the memory.
    pub fn push<T>(
        &mut self,
        dims @ [input, output]: [usize; 2],
        read: impl FnOnce(usize, &(dyn Fn(usize, &[f32]) + Sync)) -> T,
    ) -> T {
        let rows = &mut self.memory.rows_mut()[self.used..][..rows_of(dims)];
        self.used += rows.len();
        self.written.push(dims);
        // A panel for each band, which nobody else asks for.
        let panels: Vec<Mutex<&mut [Row]>> = rows.chunks_mut(input.max(1)).map(Mutex::new).collect();
        read(WIDTH, &|band, values| {
            let columns = WIDTH.min(output - band * WIDTH);
            let mut panel = panels[band].lock().unwrap_or_else(PoisonError::into_inner);
            pack_panel(
                of_outputs(values, [input, columns]),
                0,
                Row::flattened(&mut panel),
            );
        })
    }

    /// The weights, in the order in which they were written.
    pub fn finish(self) -> impl Iterator<Item = PanelWeight> {
        let memory = Arc::new(self.memory);
        let mut next = 0;
        self.written.into_iter().map(move |dims @ [input, output]| {
            let start = next;
            next += rows_of(dims);
            PanelWeight {
                input,
                output,
                memory: Arc::clone(&memory),
                start,
            }
        })
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
            assert_eq!(by_input.rows(), by_output.rows());
            let mut row = vec![0.0; input];
            for output in 0..output {
                by_input.row(output, &mut row);
                assert_eq!(row, turned[output * input..][..input]);
            }
            let back: Vec<f32> = by_input.tensor(&Device::flex()).try_into_vec_as().unwrap();
            assert_eq!(back, values);
            assert_eq!(by_input.bytes(), input * output.div_ceil(WIDTH) * WIDTH * 4);
        }
    }
    #[test]
    fn weights_that_share_their_memory_are_those_that_have_their_own() {
        let dims = [[5, 32], [40, 33], [1, 1], [17, 100]];
        let mut weights = PanelWeights::new(dims.into_iter()).unwrap();
        let values: Vec<f32> = (0..17 * 100).map(|value| value as f32).collect();
        for dims @ [input, output] in dims {
            weights.push(dims, |rows, each| {
                for (band, values) in values[..input * output].chunks(rows * input).enumerate().rev() {
                    each(band, values);
                }
            });
        }
        let weights: Vec<PanelWeight> = weights.finish().collect();
        assert_eq!(weights.len(), dims.len());
        for (shared, dims @ [input, output]) in weights.iter().zip(dims) {
            let own = PanelWeight::from_outputs(&values[..input * output], dims);
            assert_eq!((shared.dims(), shared.bytes()), (dims, own.bytes()));
            assert_eq!(shared.rows(), own.rows());
        }
        let none = PanelWeights::new(std::iter::empty()).unwrap();
        assert!(none.finish().next().is_none());
    }

    #[test]
    fn memory_that_is_not_there_is_none() {
        for dims in [[1 << 30, 1 << 25], [usize::MAX, 1], [1 << 62, 1 << 62]] {
            assert!(PanelWeights::new([dims].into_iter()).is_none(), "{dims:?}");
        }
        let each = std::iter::repeat_n([1 << 31, 1 << 30], 8);
        assert!(
            PanelWeights::new(each).is_none(),
            "together they cannot be counted"
        );
    }
}
