//! A layer's attention behind caches, in one operation: norm, projections, rotation, cache, attention, output and residual.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use burn::backend::{Backend, Dispatch, Flex, backend_extension, tensor::FloatTensor};
use burn::tensor::Tensor;

use super::attend::{self, Attend, Queries, Sequence};
use super::forms::{FORM_ROWS, Forms};
use super::layer::{Input, Layer, LayerPlan, SLOTS};
use super::memory::Shared;
use super::pages::Pages;
use super::rows::{low_pieces, low_rows, norm_rows, store_tile};
use super::sums::Rows;
use super::{CachedAttentionInputs, CachedAttentionSettings};
use crate::kernels::Norm;
use crate::kernels::attention::Angles;
use crate::kernels::buffers::Buffer;
use crate::kernels::flex::{contiguous, elements, unique};
use crate::kernels::slots::{Present, Row as Tensors, Slots};
use crate::kernels::team;

/// The rows of one sequence, and what is known of the tokens before them.
#[derive(Debug, Clone)]
pub(super) struct Part {
    pub tokens: usize,
    pub start: usize,
    pub pages: Arc<Mutex<Pages>>,
}

/// The operation on tensors of this backend.
pub(super) fn run(
    x: Tensor<2>,
    inputs: CachedAttentionInputs,
    parts: Vec<Part>,
    settings: CachedAttentionSettings,
) -> Tensor<2> {
    let mut slots = Slots::default();
    slots.push(Some(x));
    let norms = [inputs.norm, inputs.query_norm, inputs.key_norm];
    let epsilons = norms.map(|norm| {
        let (weight, epsilon) = Norm::into_parts(norm);
        slots.push(weight);
        epsilon
    });
    let layers = [inputs.query, inputs.key, inputs.value, inputs.output];
    let layers = layers.map(|layer| LayerPlan::new(layer, &mut slots));
    let (tensors, present) = slots.into_parts();
    let plan = CachedAttentionPlan {
        present,
        epsilons,
        layers,
        parts,
        settings,
    };
    let (cos, sin) = inputs.rotation;
    Tensor::from_dispatch(<Dispatch as CachedAttentionOps>::cached_attention(
        tensors,
        cos.into_dispatch(),
        sin.into_dispatch(),
        plan,
    ))
}

/// How the tensors of [`CachedAttentionOps::cached_attention`] are to be read.
#[derive(Debug, Clone)]
pub struct CachedAttentionPlan {
    present: Present,
    epsilons: [f32; 3],
    layers: [LayerPlan; 4],
    parts: Vec<Part>,
    settings: CachedAttentionSettings,
}

/// The operation as an extension of a backend.
#[backend_extension(Flex)]
pub trait CachedAttentionOps: Backend {
    /// See [`super::cached_attention`].
    fn cached_attention(
        #[extension_type] tensors: Tensors<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        plan: CachedAttentionPlan,
    ) -> FloatTensor<Self>;
}

/// Input, three norms, and four linear layers.
const INPUTS: usize = 4 + 4 * SLOTS;

type Inputs = [Option<FloatTensor<Flex>>; INPUTS];

impl CachedAttentionOps for Flex {
    fn cached_attention(
        tensors: Tensors<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        plan: CachedAttentionPlan,
    ) -> FloatTensor<Self> {
        let mut inputs: Inputs = plan.present.place(tensors.0);
        let Some(x) = inputs[0].take() else {
            unreachable!("slot 0 is the input, which is no option in the operation's signature")
        };
        let inputs = inputs.map(|input| input.map(contiguous));
        // The output takes the input's place.
        let mut x = unique(x);
        let angles = Angles::new(cos, sin);
        compute(x.storage_mut::<f32>(), &inputs, angles.elements(), &plan);
        x
    }
}

/// A piece of the projections: a layer and a range of its panels.
type Piece = (usize, Range<usize>);

fn compute(x: &mut [f32], inputs: &Inputs, angles: (&[f32], &[f32]), plan: &CachedAttentionPlan) {
    let layers: [Layer<'_>; 4] =
        std::array::from_fn(|index| Layer::of(&inputs[4 + index * SLOTS..], &plan.layers[index]));
    let norms: [attend::Norm<'_>; 3] = std::array::from_fn(|index| {
        elements(inputs[1 + index].as_ref()).map(|weight| (weight, plan.epsilons[index]))
    });
    let [query, key, value, output] = &layers;
    let rows = x.len() / query.input.max(1);
    assert_eq!(
        rows,
        plan.parts.iter().map(|part| part.tokens).sum::<usize>(),
        "rows of the sequences"
    );
    let mut guards: Vec<MutexGuard<'_, Pages>> = plan
        .parts
        .iter()
        .map(|part| part.pages.lock().unwrap_or_else(PoisonError::into_inner))
        .collect();
    let Some(layout) = guards.first().map(|pages| pages.layout()) else {
        return;
    };
    let mut row = 0;
    let sequences: Vec<Sequence<'_>> = (plan.parts.iter().zip(&mut guards))
        .map(|(part, pages)| {
            row += part.tokens;
            Sequence {
                row: row - part.tokens,
                tokens: part.tokens,
                start: part.start,
                pages: pages.open(part.start, part.start + part.tokens),
            }
        })
        .collect();

    let buffer = |layer: &Layer<'_>| Buffer::take(rows * layer.output);
    let (mut query_rows, mut key_rows, mut value_rows) = (buffer(query), buffer(key), buffer(value));
    let mut context = Buffer::take(rows * output.input);
    let mut normed = Buffer::take(if norms[0].is_some() { x.len() } else { 0 });
    let mut low = layers.each_ref().map(|layer| Buffer::take(rows * layer.rank()));
    let attend = Attend {
        query: Shared::new(&mut query_rows),
        key: Shared::new(&mut key_rows),
        value: Shared::new(&mut value_rows),
        context: Shared::new(&mut context),
        angles,
        half: angles.0.len() / rows.max(1),
        query_norm: norms[1],
        key_norm: norms[2],
        layout,
        settings: plan.settings.attention,
    };
    let work = Work {
        rows,
        x: Shared::new(x),
        normed: Shared::new(&mut normed),
        low: low.each_mut().map(|low| Shared::new(low)),
        norm: norms[0],
        layers: &layers,
        projections: (0..3)
            .flat_map(|index| layers[index].pieces(rows).map(move |panels| (index, panels)))
            .collect(),
        outputs: output.pieces(rows).collect(),
        written: (sequences.iter().enumerate())
            .flat_map(|(index, sequence)| sequence.written_pages().map(move |page| (index, page)))
            .collect(),
        queries: (sequences.iter().enumerate())
            .flat_map(|(index, sequence)| Queries::of(index, sequence.tokens, layout.kv_heads))
            .collect(),
        sequences: &sequences,
        attend,
        forms: [Forms::new(&layers[..3], rows), Forms::new(&layers[3..], rows)],
        residual: plan.settings.residual,
    };
    work.check();
    work.run();
}

/// The operation, and how each of its phases is cut.
struct Work<'a> {
    rows: usize,
    /// The input; in the last phase, the output.
    x: Shared<'a, f32>,
    /// The normed input, where there is a norm.
    normed: Shared<'a, f32>,
    /// `x A` of each layer.
    low: [Shared<'a, f32>; 4],
    norm: attend::Norm<'a>,
    layers: &'a [Layer<'a>; 4],
    projections: Vec<Piece>,
    outputs: Vec<Range<usize>>,
    /// Sequences and pages.
    written: Vec<(usize, usize)>,
    queries: Vec<Queries>,
    sequences: &'a [Sequence<'a>],
    attend: Attend<'a>,
    /// Those of the normed input and of the context.
    forms: [Forms<'a>; 2],
    residual: bool,
}

impl Work<'_> {
    /// The shapes that the pieces rely on.
    fn check(&self) {
        let heads = self.attend.settings.heads;
        let [query, key, value, output] = self.layers;
        let (queries, keys) = (heads.heads * heads.head_dim, heads.kv_heads * heads.head_dim);
        assert_eq!(
            [query.output, key.output, value.output],
            [queries, keys, keys],
            "projections"
        );
        assert_eq!(
            (output.input, output.output),
            (queries, query.input),
            "output projection"
        );
        assert_eq!(
            (self.attend.layout.kv_heads, self.attend.layout.head_dim),
            (heads.kv_heads, heads.head_dim),
            "cache"
        );
        let half = self.attend.half;
        assert!(2 * half <= heads.head_dim, "rotary_dim");
        assert_eq!(self.attend.angles.0.len(), half * self.rows, "cos");
        assert_eq!(self.attend.angles.1.len(), half * self.rows, "sin");
    }

    fn run(&self) {
        let [forms, forms_behind] = &self.forms;
        let normed = if self.norm.is_some() {
            self.rows.div_ceil(FORM_ROWS)
        } else {
            forms.pieces()
        };
        let before = low_pieces(&self.layers[..3], self.rows);
        let behind = low_pieces(&self.layers[3..], self.rows);
        let pieces = [
            normed,
            before.len(),
            self.projections.len(),
            self.written.len(),
            self.queries.len(),
            behind.len() + forms_behind.pieces(),
            self.outputs.len(),
        ];
        team::run(&pieces, |phase, piece| {
            // SAFETY: a phase reads what those before it wrote; within one, pieces write different rows, different columns of
            // a layer's output, different pages and different queries' parts of the context, and the output takes the place of
            // the input when nobody reads that any more.
            unsafe {
                match phase {
                    0 => {
                        norm_rows(self.x, self.norm, self.normed, self.layers[0].input, piece);
                        if piece < forms.pieces() {
                            forms.make(self.source(0), piece);
                        }
                    }
                    1 => self.low(before[piece].clone()),
                    2 => self.project(&self.projections[piece]),
                    3 => {
                        let (sequence, page) = self.written[piece];
                        self.attend.append(&self.sequences[sequence], page);
                    }
                    4 => self.attend.attend(self.sequences, self.queries[piece]),
                    5 if piece < behind.len() => self.low((3, behind[piece].1.clone())),
                    5 => forms_behind.make(self.source(3), piece - behind.len()),
                    _ => self.output(self.outputs[piece].clone()),
                }
            }
        });
    }

    /// Where the rows lie that a layer multiplies.
    fn source(&self, layer: usize) -> Shared<'_, f32> {
        match layer {
            3 => self.attend.context,
            _ if self.norm.is_some() => self.normed,
            _ => self.x,
        }
    }

    /// What a layer multiplies.
    ///
    /// # Safety
    /// The phase that writes it has ended.
    unsafe fn input(&self, layer: usize) -> Input<'_> {
        let (memory, low) = (self.source(layer), &self.low[layer]);
        // SAFETY: the caller's promise.
        let (x, low) = unsafe { (memory.read(0..memory.len()), low.read(0..low.len())) };
        Input {
            rows: Rows {
                x,
                stride: self.layers[layer].input,
            },
            count: self.rows,
            first: 0,
            low,
            forms: &self.forms[usize::from(layer == 3)],
        }
    }

    /// # Safety
    /// As [`input`](Self::input), and nobody else writes these rows.
    unsafe fn low(&self, (layer, rows): (usize, Range<usize>)) {
        // SAFETY: the caller's promise.
        unsafe { low_rows(&self.layers[layer], self.source(layer), self.low[layer], rows) };
    }

    /// # Safety
    /// As [`input`](Self::input), and nobody else writes these columns.
    unsafe fn project(&self, (layer, panels): &Piece) {
        let outputs = [self.attend.query, self.attend.key, self.attend.value];
        let (out, layer_of) = (outputs[*layer], &self.layers[*layer]);
        // SAFETY: the caller's promise.
        unsafe {
            let input = self.input(*layer);
            layer_of.compute(input, panels.clone(), |panel, first, tile| {
                store_tile(out, layer_of, (panel, first), tile, false);
            });
        }
    }

    /// # Safety
    /// As [`project`](Self::project), and nobody reads the input.
    unsafe fn output(&self, panels: Range<usize>) {
        let layer = &self.layers[3];
        // SAFETY: the caller's promise.
        unsafe {
            let input = self.input(3);
            layer.compute(input, panels, |panel, first, tile| {
                store_tile(self.x, layer, (panel, first), tile, self.residual);
            });
        }
    }
}
