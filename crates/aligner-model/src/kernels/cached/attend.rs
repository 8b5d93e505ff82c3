//! New keys and values onto the pages, and the attention of new tokens over all of them.

use super::memory::Shared;
use super::pages::{Layout, Open, PAGE, PageRow};
use super::sums::Rows;
use crate::kernels::attention::AttentionSettings;
use crate::kernels::buffers::Buffer;
use crate::kernels::math::{exp, sigmoid, vectorized};
use crate::kernels::panels::WIDTH;
use crate::kernels::rms_norm::inverse_root;
use crate::kernels::rotary::rotate;

/// Rows of scores, a query of a head each, that are computed together.
const ROWS: usize = 48;

/// One sequence's part of the rows.
pub(super) struct Sequence<'a> {
    /// Its first row.
    pub row: usize,
    /// Its new tokens.
    pub tokens: usize,
    /// Tokens before them.
    pub start: usize,
    pub pages: Open<'a>,
}

impl Sequence<'_> {
    /// The pages that new tokens lie on.
    pub fn written_pages(&self) -> std::ops::Range<usize> {
        self.start / PAGE..(self.start + self.tokens).div_ceil(PAGE)
    }
}

/// A norm of queries or keys: its weight, of one head or of all, and epsilon.
pub(super) type Norm<'a> = Option<(&'a [f32], f32)>;

/// What the attention reads and writes.
pub(super) struct Attend<'a> {
    /// `[rows, heads · head_dim]`
    pub query: Shared<'a, f32>,
    /// `[rows, kv_heads · head_dim]`
    pub key: Shared<'a, f32>,
    /// `[rows, kv_heads · head_dim]`
    pub value: Shared<'a, f32>,
    /// The output, `[rows, heads · head_dim]`.
    pub context: Shared<'a, f32>,
    /// Cosines and sines, `[rows, half]`.
    pub angles: (&'a [f32], &'a [f32]),
    pub half: usize,
    pub query_norm: Norm<'a>,
    pub key_norm: Norm<'a>,
    pub layout: Layout,
    pub settings: AttentionSettings,
}

/// Some queries of one key and value head: the sequence's tokens `first .. end`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Queries {
    pub sequence: usize,
    pub kv_head: usize,
    pub first: usize,
    pub end: usize,
}

impl Queries {
    /// All queries of a sequence; those that see most come first.
    pub fn of(sequence: usize, tokens: usize, kv_heads: usize) -> impl Iterator<Item = Self> {
        let blocks = tokens.div_ceil(ROWS);
        (0..blocks).rev().flat_map(move |block| {
            (0..kv_heads).map(move |kv_head| Self {
                sequence,
                kv_head,
                first: tokens * block / blocks,
                end: tokens * (block + 1) / blocks,
            })
        })
    }
}

/// The pages that some queries see, and where their positions begin.
struct Span {
    first_page: usize,
    pages: usize,
    /// Position of the first query.
    position: usize,
    window: usize,
}

impl Attend<'_> {
    /// Writes the new keys, normed and rotated, and values that lie on a page.
    ///
    /// # Safety
    /// Nobody writes keys and values meanwhile, and nobody else touches the page.
    pub unsafe fn append(&self, sequence: &Sequence<'_>, page: usize) {
        // SAFETY: the caller's promises.
        unsafe {
            match &sequence.pages {
                Open::F32(pages) => self.append_to(sequence, page, pages[page]),
                Open::F16(pages) => self.append_to(sequence, page, pages[page]),
            }
        }
    }

    /// # Safety
    /// As [`append`](Self::append), whose page `memory` is.
    unsafe fn append_to<R: PageRow>(&self, sequence: &Sequence<'_>, page: usize, memory: Shared<'_, R>) {
        let Layout { kv_heads, head_dim } = self.layout;
        let width = kv_heads * head_dim;
        // SAFETY: the caller vouches that the page is this piece's own.
        let rows = unsafe { memory.write(0..memory.len()) };
        let positions =
            sequence.start.max(page * PAGE)..(sequence.start + sequence.tokens).min((page + 1) * PAGE);
        let mut turned = vec![0.0; head_dim];
        for position in positions {
            let row = sequence.row + position - sequence.start;
            let range = row * width..(row + 1) * width;
            // SAFETY: the caller vouches that nobody writes them.
            let (key, value) = unsafe { (self.key.read(range.clone()), self.value.read(range)) };
            let column = position % PAGE;
            for kv_head in 0..kv_heads {
                self.turn(key, kv_head, self.key_norm, (row, 1.0), &mut turned);
                let keys = &mut rows[self.layout.keys(kv_head)..][..head_dim];
                R::write_column(keys, column, &turned);
                let value = &value[kv_head * head_dim..][..head_dim];
                for (panel, value) in value.chunks(WIDTH).enumerate() {
                    rows[self.layout.values(kv_head, panel) + column].write_row(value);
                }
            }
        }
    }

    /// A head's part of a row, through its norm, rotated, and times `scale`.
    fn turn(&self, all: &[f32], head: usize, norm: Norm<'_>, (row, scale): (usize, f32), out: &mut [f32]) {
        let at = head * self.layout.head_dim;
        let x = &all[at..at + self.layout.head_dim];
        match norm {
            None => out.copy_from_slice(x),
            Some((weight, epsilon)) => {
                let whole = weight.len() > x.len();
                let (root, weight) = match whole {
                    true => (inverse_root(all, epsilon), &weight[at..at + x.len()]),
                    false => (inverse_root(x, epsilon), weight),
                };
                for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
                    *out = x * root * weight;
                }
            }
        }
        let angles = row * self.half..(row + 1) * self.half;
        rotate(
            out,
            (&self.angles.0[angles.clone()], &self.angles.1[angles]),
            scale,
        );
    }

    /// The attention of some queries, for all heads of their group.
    ///
    /// # Safety
    /// Nobody writes queries and pages meanwhile, and nobody else touches these queries' part of the output.
    pub unsafe fn attend(&self, sequences: &[Sequence<'_>], queries: Queries) {
        let sequence = &sequences[queries.sequence];
        // SAFETY: the caller's promises.
        unsafe {
            match &sequence.pages {
                Open::F32(pages) => self.attend_to(sequence, pages, queries),
                Open::F16(pages) => self.attend_to(sequence, pages, queries),
            }
        }
    }

    /// # Safety
    /// As [`attend`](Self::attend), whose sequence's pages these are.
    unsafe fn attend_to<R: PageRow>(
        &self,
        sequence: &Sequence<'_>,
        pages: &[Shared<'_, R>],
        queries: Queries,
    ) {
        let tokens = queries.end - queries.first;
        let group = self.settings.heads.heads / self.settings.heads.kv_heads;
        let at_once = (ROWS / tokens).clamp(1, group);
        let span = self.span(sequence, queries);
        let mut rotated = Buffer::take(at_once * tokens * self.layout.head_dim);
        let mut scores = Buffer::take(span.pages * at_once * tokens * WIDTH);
        let (scores, _) = scores.as_chunks_mut::<WIDTH>();
        let mut inverse_sums = [0.0; ROWS];
        for first in (0..group).step_by(at_once) {
            let heads =
                queries.kv_head * group + first..queries.kv_head * group + (first + at_once).min(group);
            let rows = heads.len() * tokens;
            let scores = &mut scores[..span.pages * rows];
            // SAFETY: the caller's promises.
            unsafe {
                self.queries(sequence, queries, heads.clone(), &mut rotated);
                self.scores(pages, queries.kv_head, &span, (&rotated, rows), scores);
                softmax(
                    scores,
                    tokens,
                    &span,
                    self.settings.softcap,
                    &mut inverse_sums[..rows],
                );
                self.values(
                    (sequence, pages),
                    queries,
                    heads,
                    (&span, scores),
                    &inverse_sums[..rows],
                );
            }
        }
    }

    fn span(&self, sequence: &Sequence<'_>, queries: Queries) -> Span {
        let window = self.settings.window.unwrap_or(usize::MAX);
        let position = sequence.start + queries.first;
        let first_page = (position + 1).saturating_sub(window) / PAGE;
        Span {
            first_page,
            pages: (sequence.start + queries.end).div_ceil(PAGE) - first_page,
            position,
            window,
        }
    }

    /// The queries of some heads, through their norm, rotated and scaled: `[heads, tokens, head_dim]`.
    ///
    /// # Safety
    /// Nobody writes queries meanwhile.
    unsafe fn queries(
        &self,
        sequence: &Sequence<'_>,
        queries: Queries,
        heads: std::ops::Range<usize>,
        out: &mut [f32],
    ) {
        let head_dim = self.layout.head_dim;
        let width = self.settings.heads.heads * head_dim;
        let scale = self.settings.scale as f32;
        let mut out = out.chunks_exact_mut(head_dim);
        for head in heads {
            for (token, out) in (queries.first..queries.end).zip(&mut out) {
                let row = sequence.row + token;
                // SAFETY: the caller's promise.
                let query = unsafe { self.query.read(row * width..(row + 1) * width) };
                self.turn(query, head, self.query_norm, (row, scale), out);
            }
        }
    }

    /// `[pages, rows, PAGE]`
    ///
    /// # Safety
    /// Nobody writes the pages meanwhile.
    unsafe fn scores<R: PageRow>(
        &self,
        pages: &[Shared<'_, R>],
        kv_head: usize,
        span: &Span,
        (queries, rows): (&[f32], usize),
        out: &mut [[f32; WIDTH]],
    ) {
        let head_dim = self.layout.head_dim;
        let at = self.layout.keys(kv_head);
        let queries = Rows {
            x: queries,
            stride: head_dim,
        };
        out.fill([0.0; WIDTH]);
        for (page, out) in (span.first_page..).zip(out.chunks_exact_mut(rows)) {
            // SAFETY: the caller's promise.
            let keys = unsafe { pages[page].read(at..at + head_dim) };
            R::add(queries, keys, next(pages, page, at), out);
        }
    }

    /// Sums of values by their weights, into the output.
    ///
    /// # Safety
    /// Nobody writes the pages meanwhile, and nobody else touches these queries' part of the output.
    unsafe fn values<R: PageRow>(
        &self,
        (sequence, pages): (&Sequence<'_>, &[Shared<'_, R>]),
        queries: Queries,
        heads: std::ops::Range<usize>,
        (span, weights): (&Span, &[[f32; WIDTH]]),
        inverse_sums: &[f32],
    ) {
        let (rows, tokens, head_dim) = (
            inverse_sums.len(),
            queries.end - queries.first,
            self.layout.head_dim,
        );
        let end = sequence.start + queries.end;
        let mut sums = [[0.0; WIDTH]; ROWS];
        let sums = &mut sums[..rows];
        for panel in 0..self.layout.value_panels() {
            let at = self.layout.values(queries.kv_head, panel);
            sums.fill([0.0; WIDTH]);
            for (page, weights) in (span.first_page..).zip(weights.chunks_exact(rows)) {
                // No further than the last token: what is behind it may be of a sequence that was given up.
                let steps = PAGE.min(end - page * PAGE);
                // SAFETY: the caller's promise.
                let values = unsafe { pages[page].read(at..at + steps) };
                let weights = Rows {
                    x: weights.as_flattened(),
                    stride: WIDTH,
                };
                R::add(weights, values, next(pages, page, at), sums);
            }
            let width = WIDTH.min(head_dim - panel * WIDTH);
            for (index, (sums, inverse)) in sums.iter().zip(inverse_sums).enumerate() {
                let (head, token) = (heads.start + index / tokens, queries.first + index % tokens);
                let row = (sequence.row + token) * self.settings.heads.heads + head;
                let first = row * head_dim + panel * WIDTH;
                // SAFETY: the caller's promise: this row and head are of these queries.
                let out = unsafe { self.context.write(first..first + width) };
                out.iter_mut()
                    .zip(sums)
                    .for_each(|(out, sum)| *out = sum * inverse);
            }
        }
    }
}

/// What is to be fetched while a page is multiplied: the same rows of the next one.
fn next<R>(pages: &[Shared<'_, R>], page: usize, at: usize) -> *const R {
    pages.get(page + 1).unwrap_or(&pages[page]).place(at)
}

/// Turns scores into `e^(score − highest)` where a query sees, and 0 elsewhere; notes one over the sum of each row.
///
/// Position `p` belongs to sum `p mod 32`, whichever page a row begins with: the order depends on positions alone.
fn softmax(
    scores: &mut [[f32; WIDTH]],
    tokens: usize,
    span: &Span,
    softcap: Option<f64>,
    inverse_sums: &mut [f32],
) {
    let rows = inverse_sums.len();
    let cap = softcap.map_or(0.0, |cap| cap as f32);
    for (row, inverse) in inverse_sums.iter_mut().enumerate() {
        let end = span.position + row % tokens + 1;
        let begin = end.saturating_sub(span.window);
        // From the first page that it sees to the last.
        let first = span.first_page * PAGE;
        let (begin, end) = (begin - first, end - first);
        vectorized!((
            scores: &'a mut [[f32; WIDTH]], rows: usize, row: usize, begin: usize, end: usize, cap: f32, inverse: &'a mut f32
        ) -> () {
            let pages = || (begin / PAGE..end.div_ceil(PAGE)).map(move |page| (page, page * rows + row));
            let seen = |page: usize| begin.saturating_sub(page * PAGE)..(end - page * PAGE).min(PAGE);
            let mut highest = [f32::NEG_INFINITY; WIDTH];
            for (page, at) in pages() {
                let scores = &mut scores[at];
                if cap != 0.0 {
                    scores.iter_mut().for_each(|x| *x = capped(*x, cap));
                }
                let seen = seen(page);
                scores[..seen.start].fill(f32::NEG_INFINITY);
                scores[seen.end..].fill(f32::NEG_INFINITY);
                for (highest, &x) in highest.iter_mut().zip(&*scores) {
                    // Not `max`: it would drop a NaN.
                    *highest = if x <= *highest { *highest } else { x };
                }
            }
            let pick = |highest: f32, &x: &f32| if x <= highest { highest } else { x };
            let highest = highest.iter().fold(f32::NEG_INFINITY, pick);
            let mut sums = [0.0f32; WIDTH];
            for (page, at) in pages() {
                let scores = &mut scores[at];
                for x in scores.iter_mut() {
                    *x = exp(*x - highest);
                }
                let seen = seen(page);
                scores[..seen.start].fill(0.0);
                scores[seen.end..].fill(0.0);
                sums.iter_mut().zip(&*scores).for_each(|(sum, x)| *sum += x);
            }
            *inverse = 1.0 / sums.iter().sum::<f32>();
        });
        // Pages that other rows see.
        for page in (0..begin / PAGE).chain(end.div_ceil(PAGE)..span.pages) {
            scores[page * rows + row] = [0.0; WIDTH];
        }
    }
}

/// `cap · tanh(x / cap)`, by `tanh(z) = 2 sigmoid(2z) − 1`.
#[inline(always)]
fn capped(x: f32, cap: f32) -> f32 {
    cap * (2.0 * sigmoid(2.0 * x / cap) - 1.0)
}
