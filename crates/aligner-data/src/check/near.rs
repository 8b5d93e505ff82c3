//! Near-duplicates: texts that are alike by their sketches.
//!
//! - Two **questions** (with their earlier turns) are near-duplicates when their sets of content-word pairs are at least as
//!   alike as the threshold; equal ones are repeated questions and not counted here.
//! - Two **rows** are near-duplicates when question, answer *and* correction each are, the latter two by runs of five words.
//!   So one question with two different answers makes no near-duplicates, however long the correction they share.
//!
//! The ends of a text count as neighbours of its first and last words, so that every word counts the same: at a threshold of
//! 0.8 two texts may differ in one word of 41 or more, two questions in one content word of 17 or more.
//!
//! Near-duplicates form clusters: what is joined by a chain of pairs. Memory: 80 bytes of bands and at most 512 of sketches
//! for a distinct question, as much for a distinct row.

use serde::Serialize;

use super::look::Look;
use super::place::{PairExample, Place};
use super::sketch::{BANDS, KEPT, Sketch};

/// Hashes kept of an answer and of a correction.
pub(super) const KEPT_OF_TEXT: usize = KEPT / 2;

/// Texts of one bucket that a text is compared with: boilerplate does not make the search quadratic.
const COMPARED: usize = 64;

/// Near-duplicates among questions or rows.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct NearReport {
    /// Different texts that were compared.
    pub distinct: u64,
    /// Groups of near-duplicates.
    pub clusters: u64,
    /// Texts in those groups.
    pub in_clusters: u64,
    /// Texts that would go if one of each group stayed.
    pub extra: u64,
    /// Texts in the largest group.
    pub largest_cluster: u64,
    /// Some of the pairs, in the order of the file.
    pub examples: Vec<PairExample>,
}

/// Sketches of distinct questions.
#[derive(Debug, Default)]
pub(super) struct Questions {
    pub(super) places: Vec<Place>,
    /// Rows that ask each.
    pub(super) rows: Vec<u32>,
    bands: Vec<[u32; BANDS]>,
    sketches: Vec<Sketch>,
}

impl Questions {
    /// Adds a question; gives its number.
    pub(super) fn add(&mut self, place: Place, look: &mut Look) -> u32 {
        self.places.push(place);
        self.rows.push(1);
        self.bands.push(look.question_bands);
        self.sketches.push(std::mem::take(&mut look.question_sketch));
        u32::try_from(self.places.len() - 1).unwrap_or(u32::MAX)
    }

    fn similarity(&self, a: usize, b: usize) -> f64 {
        match (self.sketches.get(a), self.sketches.get(b)) {
            (Some(a), Some(b)) => a.similarity(b, KEPT),
            _ => 0.0,
        }
    }

    /// The pairs that join near-duplicates into clusters.
    pub(super) fn joins(&self, threshold: f64) -> Joins {
        Joins::find(&self.bands, threshold, |a, b| self.similarity(a, b))
    }

    /// For each question of `others` the most similar one of these, where it is alike enough.
    pub(super) fn closest_to(&self, others: &Self, threshold: f64) -> Vec<Option<(usize, f64)>> {
        let mut closest: Vec<Option<(usize, f64)>> = vec![None; others.places.len()];
        for band in 0..BANDS {
            let mut ours: Vec<(u32, u32)> = numbered(&self.bands, band);
            ours.sort_unstable();
            for (other, best) in closest.iter_mut().enumerate() {
                let hash = others.bands[other][band];
                let start = ours.partition_point(|(found, _)| *found < hash);
                let bucket = ours[start..].iter().take_while(|(found, _)| *found == hash);
                for &(_, our) in bucket.take(COMPARED) {
                    let our = our as usize;
                    let similarity = self.sketches[our].similarity(&others.sketches[other], KEPT);
                    // The more similar one, then the earlier.
                    let better = best.is_none_or(|(known, highest)| {
                        similarity > highest || (similarity == highest && our < known)
                    });
                    if similarity >= threshold && better {
                        *best = Some((our, similarity));
                    }
                }
            }
        }
        closest
    }
}

/// Sketches of distinct rows.
#[derive(Debug, Default)]
pub(super) struct Rows {
    pub(super) places: Vec<Place>,
    questions: Vec<u32>,
    bands: Vec<[u32; BANDS]>,
    answers: Vec<Sketch>,
    corrections: Vec<Sketch>,
}

impl Rows {
    pub(super) fn add(&mut self, place: Place, question: u32, look: Look) {
        self.places.push(place);
        self.questions.push(question);
        self.bands.push(look.row_bands);
        self.answers.push(look.answer_sketch);
        self.corrections.push(look.correction_sketch);
    }

    fn similarity(&self, questions: &Questions, a: usize, b: usize) -> f64 {
        let (one, two) = (self.questions[a], self.questions[b]);
        let question = if one == two {
            1.0
        } else {
            questions.similarity(one as usize, two as usize)
        };
        let answer = self.answers[a].similarity(&self.answers[b], KEPT_OF_TEXT);
        let correction = self.corrections[a].similarity(&self.corrections[b], KEPT_OF_TEXT);
        question.min(answer).min(correction)
    }

    pub(super) fn joins(&self, questions: &Questions, threshold: f64) -> Joins {
        Joins::find(&self.bands, threshold, |a, b| self.similarity(questions, a, b))
    }
}

/// Pairs of near-duplicates that join texts into clusters.
#[derive(Debug)]
pub(super) struct Joins {
    /// Earlier, later, similarity; sorted.
    pub(super) pairs: Vec<(usize, usize, f64)>,
    parents: Vec<u32>,
}

impl Joins {
    pub(super) fn find(
        bands: &[[u32; BANDS]],
        threshold: f64,
        similarity: impl Fn(usize, usize) -> f64,
    ) -> Self {
        let count = u32::try_from(bands.len()).unwrap_or(u32::MAX);
        let mut joins = Self {
            pairs: Vec::new(),
            parents: (0..count).collect(),
        };
        for band in 0..BANDS {
            let mut buckets = numbered(bands, band);
            buckets.sort_unstable();
            for bucket in buckets.chunk_by(|a, b| a.0 == b.0) {
                for (at, &(_, later)) in bucket.iter().enumerate() {
                    for &(_, earlier) in &bucket[at.saturating_sub(COMPARED)..at] {
                        joins.compare(earlier, later, threshold, &similarity);
                    }
                }
            }
        }
        joins.pairs.sort_by_key(|(earlier, later, _)| (*earlier, *later));
        joins
    }

    fn compare(&mut self, a: u32, b: u32, threshold: f64, similarity: &impl Fn(usize, usize) -> f64) {
        let (root_a, root_b) = (self.root(a), self.root(b));
        if root_a == root_b {
            return;
        }
        let alike = similarity(a as usize, b as usize);
        if alike >= threshold {
            self.parents[root_a.max(root_b) as usize] = root_a.min(root_b);
            self.pairs.push((a as usize, b as usize, alike));
        }
    }

    fn root(&mut self, mut text: u32) -> u32 {
        while self.parents[text as usize] != text {
            let above = self.parents[self.parents[text as usize] as usize];
            self.parents[text as usize] = above;
            text = above;
        }
        text
    }

    /// For each text the first one of its cluster: itself where it is that or stands alone.
    pub(super) fn firsts(mut self) -> Vec<usize> {
        // The smaller number is made the root when two are joined.
        (0..self.parents.len())
            .map(|text| self.root(u32::try_from(text).unwrap_or(u32::MAX)) as usize)
            .collect()
    }

    /// The counts, without examples.
    pub(super) fn report(mut self) -> NearReport {
        let mut sizes = vec![0_u64; self.parents.len()];
        for text in 0..self.parents.len() {
            let root = self.root(u32::try_from(text).unwrap_or(u32::MAX));
            sizes[root as usize] += 1;
        }
        let clusters = sizes.iter().filter(|size| **size > 1).count() as u64;
        let in_clusters: u64 = sizes.iter().filter(|size| **size > 1).sum();
        NearReport {
            distinct: sizes.len() as u64,
            clusters,
            in_clusters,
            extra: in_clusters - clusters,
            largest_cluster: sizes.into_iter().max().unwrap_or(0),
            examples: Vec::new(),
        }
    }
}

/// One band of each text, with the text's number.
fn numbered(bands: &[[u32; BANDS]], band: usize) -> Vec<(u32, u32)> {
    bands.iter().map(|bands| bands[band]).zip(0..).collect()
}
