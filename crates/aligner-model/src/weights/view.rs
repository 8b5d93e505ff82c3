//! Elements of a file → f32 in host memory: type, order and the check for NaN in one pass over the bytes.

use half::f16;
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;

use super::HostTensor;

/// The type of a stored element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Element {
    F32,
    F16,
    Bf16,
    F64,
}

impl Element {
    /// Size in bytes.
    pub fn size(self) -> usize {
        match self {
            Self::F64 => 8,
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// Converts `out.len()` elements that lie one behind the other; gives whether all of them are numbers.
    fn convert(self, bytes: &[u8], out: &mut [f32]) -> bool {
        match self {
            Self::F32 => words(bytes, out, f32::from_le_bytes),
            Self::Bf16 => words(bytes, out, |word| {
                f32::from_bits(u32::from(u16::from_le_bytes(word)) << 16)
            }),
            Self::F64 => words(bytes, out, |word| f64::from_le_bytes(word) as f32),
            Self::F16 => {
                // Through a buffer, because `half` converts slices with the processor's own instruction.
                const AT_ONCE: usize = 256;
                let mut buffer = [f16::ZERO; AT_ONCE];
                let mut finite = true;
                for (bytes, out) in bytes.chunks(2 * AT_ONCE).zip(out.chunks_mut(AT_ONCE)) {
                    let (words, _) = bytes.as_chunks::<2>();
                    for (half, word) in buffer.iter_mut().zip(words) {
                        *half = f16::from_le_bytes(*word);
                    }
                    buffer[..out.len()].convert_to_f32_slice(out);
                    finite &= all_finite(out);
                }
                finite
            }
        }
    }
}

fn words<const N: usize>(bytes: &[u8], out: &mut [f32], convert: impl Fn([u8; N]) -> f32) -> bool {
    let (words, _) = bytes.as_chunks::<N>();
    let mut finite = true;
    for (value, word) in out.iter_mut().zip(words) {
        *value = convert(*word);
        finite &= is_finite(*value);
    }
    finite
}

/// By the exponent's bits, which the compiler turns into vector instructions.
fn is_finite(value: f32) -> bool {
    const EXPONENT: u32 = 0x7f80_0000;
    value.to_bits() & EXPONENT != EXPONENT
}

fn all_finite(values: &[f32]) -> bool {
    values
        .iter()
        .fold(true, |finite, &value| finite & is_finite(value))
}

/// A tensor where it lies: bytes, their type, and the steps between elements.
#[derive(Debug, Clone)]
pub(crate) struct View<'a> {
    element: Element,
    bytes: &'a [u8],
    shape: Vec<usize>,
    /// In elements, one for each dimension.
    strides: Vec<usize>,
}

/// Elements that one thread converts before it takes the next piece.
const PIECE: usize = 1 << 16;
/// Rows and columns of a matrix that are transposed at once, in a buffer that stays in the cache.
const TILE: usize = 32;

impl<'a> View<'a> {
    /// Elements in row-major order, or `None` when `bytes` are not as many as the shape asks for.
    pub fn row_major(element: Element, bytes: &'a [u8], shape: &[usize]) -> Option<Self> {
        let strides = row_major_strides(shape)?;
        Self::strided(element, bytes, shape, &strides)
            .filter(|view| view.len() * element.size() == bytes.len())
    }

    /// Elements at given steps from each other, or `None` when one of them lies outside of `bytes`, or elements share
    /// places: a few bytes could then claim to be a tensor of any size.
    pub fn strided(element: Element, bytes: &'a [u8], shape: &[usize], strides: &[usize]) -> Option<Self> {
        let held = bytes.len() / element.size();
        let count = shape
            .iter()
            .try_fold(1usize, |product, &size| product.checked_mul(size))?;
        if shape.len() != strides.len() || count > held {
            return None;
        }
        if count > 0 {
            let steps = shape.iter().zip(strides);
            let mut steps = steps.map(|(&size, &stride)| (size - 1).checked_mul(stride));
            let last = steps.try_fold(0usize, |sum, step| sum.checked_add(step?))?;
            if last >= held {
                return None;
            }
        }
        Some(Self {
            element,
            bytes,
            shape: shape.to_vec(),
            strides: strides.to_vec(),
        })
    }

    /// Dimensions, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// The same elements with the two dimensions of a matrix exchanged; anything else stays as it is.
    #[must_use]
    pub fn transposed(mut self) -> Self {
        if self.shape.len() == 2 {
            self.shape.reverse();
            self.strides.reverse();
        }
        self
    }

    /// The elements as f32, row-major.
    ///
    /// # Errors
    /// The index and value of the first that is not finite.
    pub fn to_host(&self) -> Result<HostTensor, (usize, f32)> {
        let mut values = vec![0.0; self.len()];
        let finite = if Some(&self.strides) == row_major_strides(&self.shape).as_ref() {
            self.copy(&mut values)
        } else {
            self.gather(&mut values)
        };
        if !finite && let Some(at) = values.iter().position(|value| !value.is_finite()) {
            return Err((at, values[at]));
        }
        Ok(HostTensor {
            shape: self.shape.clone(),
            values,
        })
    }

    /// The elements of a matrix as f32, in bands of up to `rows` rows: `each` is given a band's number and its elements, in any
    /// order and on any thread. Of a matrix in row-major order no more than a band for each thread is there at once.
    ///
    /// # Errors
    /// The index and value of the first element that is not finite, in a band of which `each` knows nothing.
    pub fn bands(&self, rows: usize, each: &(dyn Fn(usize, &[f32]) + Sync)) -> Result<(), (usize, f32)> {
        let band = rows * self.shape.last().copied().unwrap_or(1);
        if band == 0 {
            return Ok(());
        }
        if Some(&self.strides) != row_major_strides(&self.shape).as_ref() {
            let values = self.to_host()?.values;
            let bands = values.par_chunks(band).enumerate();
            bands.for_each(|(index, values)| each(index, values));
            return Ok(());
        }
        let size = self.element.size();
        let bands = self.bytes[..self.len() * size].par_chunks(band * size);
        let first_bad = bands
            .enumerate()
            .map_init(
                || vec![0.0; band],
                |out, (index, bytes)| {
                    let values = &mut out[..bytes.len() / size];
                    if self.element.convert(bytes, values) {
                        each(index, values);
                        return None;
                    }
                    let at = values.iter().position(|value| !value.is_finite())?;
                    Some((index * band + at, values[at]))
                },
            )
            .flatten()
            .min_by_key(|(at, _)| *at);
        first_bad.map_or(Ok(()), Err)
    }

    fn copy(&self, values: &mut [f32]) -> bool {
        let pieces = values.par_chunks_mut(PIECE);
        let bytes = self.bytes.par_chunks(PIECE * self.element.size());
        pieces
            .zip(bytes)
            .map(|(out, bytes)| self.element.convert(bytes, out))
            .reduce(|| true, |a, b| a & b)
    }

    /// Goes over the last two dimensions as a matrix, once for each index of the dimensions before them.
    fn gather(&self, values: &mut [f32]) -> bool {
        if values.is_empty() {
            return true;
        }
        let split = self.shape.len().saturating_sub(2);
        let (outer, inner) = self.shape.split_at(split);
        let (outer_strides, inner_strides) = self.strides.split_at(split);
        let (rows, columns, row_stride, column_stride) = match (inner, inner_strides) {
            ([rows, columns], [row, column]) => (*rows, *columns, *row, *column),
            // A run of elements at a step: a matrix of one row would be one piece of work for one thread.
            ([count], [step]) => (*count, 1, *step, 1),
            _ => (1, 1, 1, 1),
        };
        let mut finite = true;
        for (index, out) in values.chunks_mut(rows * columns).enumerate() {
            let mut rest = index;
            let mut start = 0;
            for (size, stride) in outer.iter().zip(outer_strides).rev() {
                start += rest % size * stride;
                rest /= size;
            }
            let matrix = Matrix {
                element: self.element,
                bytes: &self.bytes[start * self.element.size()..],
                columns,
                row_stride,
                column_stride,
            };
            finite &= out
                .par_chunks_mut(TILE * columns)
                .enumerate()
                .map(|(band, out)| matrix.band(band * TILE, out))
                .reduce(|| true, |a, b| a & b);
        }
        finite
    }
}

/// One matrix of a strided tensor.
struct Matrix<'a> {
    element: Element,
    bytes: &'a [u8],
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl Matrix<'_> {
    /// `count` elements that lie one behind the other, from the element at `start` on.
    fn run(&self, start: usize, out: &mut [f32]) -> bool {
        let size = self.element.size();
        self.element
            .convert(&self.bytes[start * size..][..out.len() * size], out)
    }

    /// Up to [`TILE`] whole rows of the output, from `first` on.
    fn band(&self, first: usize, out: &mut [f32]) -> bool {
        if self.column_stride == 1 {
            let rows = out.chunks_mut(self.columns).enumerate();
            return rows.fold(true, |finite, (row, out)| {
                finite & self.run((first + row) * self.row_stride, out)
            });
        }
        let rows = out.len() / self.columns;
        let mut finite = true;
        let mut tile = [[0.0; TILE]; TILE];
        for start in (0..self.columns).step_by(TILE) {
            let width = TILE.min(self.columns - start);
            for (column, line) in tile[..width].iter_mut().enumerate() {
                let at = first * self.row_stride + (start + column) * self.column_stride;
                finite &= self.column(at, &mut line[..rows]);
            }
            for (row, out) in out.chunks_mut(self.columns).enumerate() {
                for (value, line) in out[start..start + width].iter_mut().zip(&tile) {
                    *value = line[row];
                }
            }
        }
        finite
    }

    /// A part of a column.
    fn column(&self, start: usize, out: &mut [f32]) -> bool {
        if self.row_stride == 1 {
            return self.run(start, out);
        }
        let rows = out.chunks_mut(1).enumerate();
        rows.fold(true, |finite, (row, out)| {
            finite & self.run(start + row * self.row_stride, out)
        })
    }
}

/// The steps of a tensor whose elements lie in order, or `None` when they are not numbers.
pub(crate) fn row_major_strides(shape: &[usize]) -> Option<Vec<usize>> {
    let mut strides = vec![1usize; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis].checked_mul(shape[axis].max(1))?;
    }
    Some(strides)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    fn numbers(count: usize) -> Vec<f32> {
        (0..count).map(|index| index as f32 - 7.5).collect()
    }

    /// The definition: every element at the sum of its index times the strides.
    fn slow(values: &[f32], shape: &[usize], strides: &[usize]) -> Vec<f32> {
        let count: usize = shape.iter().product();
        let place = |index: usize| {
            let mut rest = index;
            let mut at = 0;
            for (size, stride) in shape.iter().zip(strides).rev() {
                at += rest % size * stride;
                rest /= size;
            }
            at
        };
        (0..count).map(|index| values[place(index)]).collect()
    }

    /// What bands of a view are put together.
    fn by_bands(view: &View<'_>, rows: usize) -> Result<Vec<f32>, (usize, f32)> {
        let found = std::sync::Mutex::new(std::collections::BTreeMap::new());
        view.bands(rows, &|band, values| {
            found.lock().unwrap().insert(band, values.to_vec());
        })?;
        let found = found.into_inner().unwrap();
        assert!(found.keys().copied().eq(0..found.len()));
        Ok(found.into_values().flatten().collect())
    }

    #[test]
    fn every_order_of_elements_is_read_as_defined() {
        let values = numbers(70 * 41 * 3 + 20);
        let raw = bytes(&values);
        for (shape, strides) in [
            (vec![], vec![]),
            (vec![5], vec![1]),
            (vec![5], vec![3]),
            (vec![70, 41], vec![41, 1]),
            (vec![41, 70], vec![1, 41]),
            (vec![33, 31], vec![82, 2]),
            (vec![33, 30], vec![41, 1]),
            (vec![3, 41, 70], vec![2870, 1, 41]),
            (vec![70, 3, 41], vec![41, 2870, 1]),
            (vec![2, 3, 4, 5], vec![1, 2, 6, 24]),
            (vec![0, 4], vec![4, 1]),
            (vec![1, 1], vec![999, 999]),
        ] {
            let view = View::strided(Element::F32, &raw, &shape, &strides).unwrap();
            let host = view.to_host().unwrap();
            assert_eq!(
                host.values,
                slow(&values, &shape, &strides),
                "{shape:?} {strides:?}"
            );
            assert_eq!(by_bands(&view, 7).unwrap(), host.values);
            if let [rows, columns] = shape[..] {
                let view = view.transposed();
                let turned = view.to_host().unwrap();
                assert_eq!(turned.shape, [columns, rows]);
                assert_eq!(by_bands(&view, 7).unwrap(), turned.values);
                assert_eq!(
                    turned.values,
                    slow(&values, &[columns, rows], &[strides[1], strides[0]])
                );
            }
        }
    }

    #[test]
    fn places_outside_and_shared_ones_are_refused() {
        let raw = bytes(&numbers(12));
        for (shape, strides) in [
            (vec![3, 4], vec![5, 1]),
            (vec![13], vec![1]),
            (vec![2, 2], vec![usize::MAX, 1]),
            (vec![1 << 40, 1 << 40], vec![0, 0]),
            (vec![100], vec![0]),
            (vec![3, 4], vec![4]),
        ] {
            assert!(
                View::strided(Element::F32, &raw, &shape, &strides).is_none(),
                "{shape:?}"
            );
        }
        assert!(View::row_major(Element::F32, &raw, &[3, 3]).is_none());
        assert!(View::row_major(Element::F32, &raw, &[usize::MAX, usize::MAX]).is_none());
    }

    #[test]
    fn all_types_give_the_same_numbers() {
        // 3 × 300 leaves a rest behind the buffer of 256 and behind the vectors.
        let values: Vec<f32> = (0..900).map(|index| (index % 200) as f32 / 8.0 - 12.5).collect();
        let stored =
            |write: &dyn Fn(f32) -> Vec<u8>| -> Vec<u8> { values.iter().flat_map(|&v| write(v)).collect() };
        for (element, raw) in [
            (Element::F32, stored(&|v| v.to_le_bytes().to_vec())),
            (Element::F16, stored(&|v| f16::from_f32(v).to_le_bytes().to_vec())),
            (
                Element::Bf16,
                stored(&|v| half::bf16::from_f32(v).to_le_bytes().to_vec()),
            ),
            (Element::F64, stored(&|v| f64::from(v).to_le_bytes().to_vec())),
        ] {
            let view = View::row_major(element, &raw, &[3, 300]).unwrap();
            assert_eq!(view.to_host().unwrap().values, values, "{element:?}");
            assert_eq!(by_bands(&view, 2).unwrap(), values, "{element:?}");
            let turned = view.transposed().to_host().unwrap();
            assert_eq!(turned.values, slow(&values, &[300, 3], &[1, 300]), "{element:?}");
        }
    }

    #[test]
    fn the_first_value_that_is_no_number_is_named() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut values = numbers(200_000);
            values[150_001] = bad;
            let raw = bytes(&values);
            let view = View::row_major(Element::F32, &raw, &[200_000]).unwrap();
            assert_eq!(view.to_host().unwrap_err().0, 150_001);
            let view = View::row_major(Element::F32, &raw, &[400, 500]).unwrap();
            assert_eq!(by_bands(&view, 3).unwrap_err().0, 150_001);
            let view = view.transposed();
            // Row 300, column 1 of the file.
            assert_eq!(view.to_host().unwrap_err().0, 400 + 300);
        }
    }
}
