//! A layer's attention behind caches, in one operation: norm, projections, rotation, cache, attention, output and residual.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use burn::backend::{Backend, Dispatch, Flex, backend_extension, tensor::FloatTensor};
use burn::tensor::Tensor;

use super::attend::{self, Attend, Queries, Sequence};
use super::half::Half;
use super::layer::{Layer, LayerPlan, SLOTS};
use super::memory::Shared;
use super::pages::Pages;
use super::rows::store_tile;
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
    let rows = x.len() / layers[0].input.max(1);
    let mut guards: Vec<MutexGuard<'_, Pages>> = plan
        .parts
        .iter()
        .map(|part| part.pages.lock().unwrap_or_else(PoisonError::into_inner))
        .collect();
    let Some(layout) = guards.first().map(|pages| pages.layout()) else {
        return;
    };
    let sequences = open(&plan.parts, &mut guards);
    let [norm, query_norm, key_norm]: [attend::Norm<'_>; 3] = std::array::from_fn(|index| {
        elements(inputs[1 + index].as_ref()).map(|weight| (weight, plan.epsilons[index]))
    });
    let mut memory = Memory::new(&layers, rows, norm.is_some());
    let attend = Attend {
        query: Shared::new(&mut memory.query),
        key: Shared::new(&mut memory.key),
        value: Shared::new(&mut memory.value),
        context: Shared::new(&mut memory.context),
        angles,
        half: angles.0.len() / rows.max(1),
        query_norm,
        key_norm,
        layout,
        settings: plan.settings.attention,
    };
    let half = Half {
        rows,
        x: Shared::new(x),
        normed: Shared::new(&mut memory.normed),
        inner: attend.context,
        norm,
        layers: &layers,
        low: memory.low.iter_mut().map(|low| Shared::new(low)).collect(),
        forms: Half::forms(&layers, rows),
    };
    let work = Work {
        half,
        sequences: &sequences,
        attend,
        residual: plan.settings.residual,
    };
    work.check();
    work.run();
}

/// The sequences' rows one behind the other, and their pages, as many as they will need.
fn open<'a>(parts: &[Part], guards: &'a mut [MutexGuard<'_, Pages>]) -> Vec<Sequence<'a>> {
    let mut row = 0;
    let sequence = |(part, pages): (&Part, &'a mut MutexGuard<'_, Pages>)| {
        row += part.tokens;
        Sequence {
            row: row - part.tokens,
            tokens: part.tokens,
            start: part.start,
            pages: pages.open(part.start, part.start + part.tokens),
        }
    };
    parts.iter().zip(guards).map(sequence).collect()
}

/// What lies between the phases, as rows.
struct Memory {
    normed: Buffer,
    query: Buffer,
    key: Buffer,
    value: Buffer,
    context: Buffer,
    /// `x A` of each layer.
    low: [Buffer; 4],
}

impl Memory {
    fn new(layers: &[Layer<'_>; 4], rows: usize, is_normed: bool) -> Self {
        let [query, key, value, output] = layers;
        let of = |width: usize| Buffer::take(rows * width);
        Self {
            normed: of(if is_normed { query.input } else { 0 }),
            query: of(query.output),
            key: of(key.output),
            value: of(value.output),
            context: of(output.input),
            low: layers.each_ref().map(|layer| of(layer.rank())),
        }
    }
}

/// The operation over slices.
struct Work<'a> {
    half: Half<'a>,
    sequences: &'a [Sequence<'a>],
    attend: Attend<'a>,
    residual: bool,
}

impl Work<'_> {
    /// The shapes that the pieces rely on.
    fn check(&self) {
        let heads = self.attend.settings.heads;
        let tokens: usize = self.sequences.iter().map(|sequence| sequence.tokens).sum();
        assert_eq!(self.half.rows, tokens, "rows of the sequences");
        let [query, key, value, output] = self.half.layers else {
            unreachable!("the operation has four layers")
        };
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
        assert_eq!(self.attend.angles.0.len(), half * self.half.rows, "cos");
        assert_eq!(self.attend.angles.1.len(), half * self.half.rows, "sin");
    }

    fn run(&self) {
        let rows = self.half.rows;
        let [before, behind] = self.half.low_pieces();
        let of_layer = |index: usize| {
            self.half.layers[index]
                .pieces(rows)
                .map(move |panels| (index, panels))
        };
        let projections: Vec<Piece> = (0..3).flat_map(of_layer).collect();
        let outputs: Vec<Piece> = of_layer(3).collect();
        let (written, queries) = (self.written(), self.queries());
        let pieces = [
            self.half.pieces(),
            before.len(),
            projections.len(),
            written.len(),
            queries.len(),
            behind.len() + self.half.forms[1].pieces(),
            outputs.len(),
        ];
        team::run(&pieces, |phase, piece| {
            // SAFETY: a phase reads what those before it wrote; within one, pieces write different rows, different columns of
            // a layer's output, different pages and different queries' parts of the context, and the output takes the place of
            // the input when nobody reads that any more.
            unsafe {
                match phase {
                    0 => self.half.begin(piece),
                    1 => self.half.low(before[piece].clone()),
                    2 => self.project(&projections[piece]),
                    3 => {
                        let (sequence, page) = written[piece];
                        self.attend.append(&self.sequences[sequence], page);
                    }
                    4 => self.attend.attend(self.sequences, queries[piece]),
                    5 => self.half.between(&behind, piece),
                    _ => self.project(&outputs[piece]),
                }
            }
        });
    }

    /// Sequences and those of their pages that are written.
    fn written(&self) -> Vec<(usize, usize)> {
        let of = |(index, sequence): (usize, &Sequence<'_>)| {
            sequence.written_pages().map(move |page| (index, page))
        };
        self.sequences.iter().enumerate().flat_map(of).collect()
    }

    fn queries(&self) -> Vec<Queries> {
        let kv_heads = self.attend.layout.kv_heads;
        let of = |(index, sequence): (usize, &Sequence<'_>)| Queries::of(index, sequence.tokens, kv_heads);
        self.sequences.iter().enumerate().flat_map(of).collect()
    }

    /// # Safety
    /// As [`Half::input`], nobody else touches these columns, and of the last layer nobody reads the input.
    unsafe fn project(&self, (index, panels): &Piece) {
        let outputs = [self.attend.query, self.attend.key, self.attend.value, self.half.x];
        let (out, layer, add) = (
            outputs[*index],
            &self.half.layers[*index],
            *index == 3 && self.residual,
        );
        // SAFETY: the caller's promise.
        unsafe {
            let input = self.half.input(*index);
            layer.compute(input, panels.clone(), |panel, first, tile| {
                store_tile(out, layer, (panel, first), tile, add);
            });
        }
    }
}
