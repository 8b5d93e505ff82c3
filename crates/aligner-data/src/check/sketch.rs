//! How alike two texts are, from a few hundred bytes of each.
//!
//! A text is a set of *shingles*, runs of words in their order, and two texts are as alike as their sets: the Jaccard
//! similarity, shared shingles over all (Broder 1997, *On the resemblance and containment of documents*). A [`Sketch`] keeps
//! the smallest hashes of the set: up to [`KEPT`] shingles that is the whole set and the similarity exact, beyond it an
//! estimate with a standard error of at most 0.045. [`bands`] is the MinHash signature cut into bands, by which texts that
//! may be alike find each other (Leskovec, Rajaraman and Ullman, *Mining of Massive Datasets*, 3.4).

use super::words::{hash_sequence, mix};

/// Hashes kept of a text.
pub(super) const KEPT: usize = 128;
/// Bands of a signature.
pub(super) const BANDS: usize = 20;
/// Minima in a band. Of the pairs that are 0.8 alike, 20 bands of 4 find all but one in thirty thousand; of those that are
/// 0.7 alike, 99.6 %.
const ROWS: usize = 4;

/// Words in a shingle of answers and corrections.
pub(super) const TEXT_SHINGLE: usize = 5;
/// Words in a shingle of questions, function words left out.
pub(super) const QUESTION_SHINGLE: usize = 2;

/// Words that carry no content, left out of questions. What asks (who, when, how …) and what negates is not among them:
/// "when" and "where" make two questions.
const FUNCTION_WORDS: [&str; 58] = [
    "a", "an", "the", "of", "to", "in", "on", "at", "for", "from", "by", "with", "and", "or", "as", "is",
    "are", "was", "were", "be", "been", "being", "do", "does", "did", "has", "have", "had", "it", "its",
    "this", "that", "these", "those", "there", "you", "your", "i", "me", "my", "we", "our", "us", "can",
    "could", "will", "would", "should", "may", "might", "must", "please", "if", "s", "am", "m", "re", "ve",
];

/// The smallest shingle hashes of a text, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Sketch(Box<[u32]>);

impl Sketch {
    /// The sketch of a set of shingles, made of at most `kept` of them.
    pub(super) fn of(shingles: &[u64], kept: usize) -> Self {
        // Another mixing than the signature's, whose minima would otherwise be the same hashes.
        let mut hashes: Vec<u32> = shingles
            .iter()
            .map(|&hash| (mix(hash ^ 0x5b) >> 32) as u32)
            .collect();
        hashes.sort_unstable();
        hashes.dedup();
        hashes.truncate(kept);
        Self(hashes.into())
    }

    /// The Jaccard similarity of the two sets: exact where both are whole, else estimated on the hashes up to the largest
    /// that a cut sketch kept.
    pub(super) fn similarity(&self, other: &Self, kept: usize) -> f64 {
        let limit = [self, other]
            .into_iter()
            .filter(|sketch| sketch.0.len() == kept)
            .filter_map(|sketch| sketch.0.last().copied())
            .min()
            .unwrap_or(u32::MAX);
        let (mut a, mut b) = (self.0.iter().peekable(), other.0.iter().peekable());
        let (mut shared, mut all) = (0_u32, 0_u32);
        let within = |hash: Option<&&u32>| hash.map(|hash| **hash).filter(|hash| *hash <= limit);
        loop {
            let (left, right) = (within(a.peek()), within(b.peek()));
            let least = match (left, right) {
                (None, None) => break,
                (left, right) => left.unwrap_or(u32::MAX).min(right.unwrap_or(u32::MAX)),
            };
            all += 1;
            shared += u32::from(left == right);
            a.next_if(|hash| left.is_some() && **hash == least);
            b.next_if(|hash| right.is_some() && **hash == least);
        }
        if all == 0 {
            1.0
        } else {
            f64::from(shared) / f64::from(all)
        }
    }
}

/// The bands of a set of shingles.
pub(super) fn bands(shingles: &[u64]) -> [u32; BANDS] {
    let mut minima = [u32::MAX; BANDS * ROWS];
    for &shingle in shingles {
        let mixed = mix(shingle);
        for (at, minimum) in minima.iter_mut().enumerate() {
            // Two odd factors of one hash make the family of hash functions.
            let factor = FACTORS[at];
            *minimum = (*minimum).min((mixed.wrapping_mul(factor) >> 32) as u32);
        }
    }
    let mut bands = [0; BANDS];
    for (band, minima) in bands.iter_mut().zip(minima.chunks(ROWS)) {
        let fold = |hash, &minimum: &u32| mix(hash ^ u64::from(minimum));
        *band = minima.iter().fold(0, fold) as u32;
    }
    bands
}

static FACTORS: [u64; BANDS * ROWS] = {
    let mut factors = [0; BANDS * ROWS];
    let mut state = 0x0a11_9e12_u64;
    let mut at = 0;
    while at < factors.len() {
        // SplitMix64, written out: constants cannot call closures.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = state;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        factors[at] = (value ^ (value >> 31)) | 1;
        at += 1;
    }
    factors
};

/// The shingles of an answer or a correction: runs of five words. A changed word changes five of them.
pub(super) fn text_shingles(hashes: &[u64]) -> Vec<u64> {
    runs(hashes, TEXT_SHINGLE)
}

/// The shingles of a question: runs of two content words. A question with fewer than three of those is one shingle, all its
/// words, and so only like its equals.
pub(super) fn question_shingles(words: &[String], hashes: &[u64]) -> Vec<u64> {
    let content: Vec<u64> = words
        .iter()
        .zip(hashes)
        .filter(|(word, _)| !FUNCTION_WORDS.contains(&word.as_str()))
        .map(|(_, hash)| *hash)
        .collect();
    if content.len() < 3 {
        return vec![hash_sequence(hashes)];
    }
    runs(&content, QUESTION_SHINGLE)
}

/// The runs of a text with blanks before and behind it, so that a word at an end is in as many runs as any other: "coffee is
/// proven to …" is no more like "tea is proven to …" than if they differed in the middle.
fn runs(hashes: &[u64], length: usize) -> Vec<u64> {
    let blanks = std::iter::repeat_n(0, length - 1);
    let padded: Vec<u64> = blanks
        .clone()
        .chain(hashes.iter().copied())
        .chain(blanks)
        .collect();
    padded.windows(length).map(hash_sequence).collect()
}

#[cfg(test)]
mod tests {
    use super::super::words::{word_hashes, words};
    use super::*;

    fn set(range: std::ops::Range<u64>) -> Vec<u64> {
        range.map(mix).collect()
    }

    #[test]
    fn small_sets_are_compared_exactly_and_large_ones_nearly() {
        for (size, tolerance) in [(20, 0.0), (100, 0.0), (5000, 0.14)] {
            for shared in [0, size / 2, size * 3 / 4, size] {
                let (a, b) = (set(0..size), set(size - shared..2 * size - shared));
                let exact = shared as f64 / (2 * size - shared) as f64;
                let kept = KEPT;
                let found = Sketch::of(&a, kept).similarity(&Sketch::of(&b, kept), kept);
                assert!(
                    (found - exact).abs() <= tolerance,
                    "{size} {shared}: {found} {exact}"
                );
            }
        }
    }

    #[test]
    fn a_small_set_in_a_large_one_is_not_like_it() {
        let (a, b) = (set(0..10), set(0..5000));
        assert!(Sketch::of(&a, KEPT).similarity(&Sketch::of(&b, KEPT), KEPT) < 0.1);
    }

    #[test]
    fn alike_sets_share_a_band_and_unlike_ones_do_not() {
        let share = |a: &[u64], b: &[u64]| bands(a).iter().zip(bands(b)).any(|(x, y)| *x == y);
        let mut found = [0; 2];
        for trial in 0..200_u64 {
            let base = trial * 10_000;
            // 85 of 115 are shared: 0.74. 10 of 190 are: 0.05.
            found[0] += u32::from(share(&set(base..base + 100), &set(base + 15..base + 115)));
            found[1] += u32::from(share(&set(base..base + 100), &set(base + 90..base + 190)));
        }
        assert!(found[0] >= 196, "{found:?}");
        assert!(found[1] <= 2, "{found:?}");
    }

    #[test]
    fn one_changed_word_counts_the_same_wherever_it_stands() {
        let hashes: Vec<u64> = set(0..50);
        let changed = |at: usize| {
            let mut other = hashes.clone();
            other[at] = 1;
            Sketch::of(&text_shingles(&hashes), KEPT)
                .similarity(&Sketch::of(&text_shingles(&other), KEPT), KEPT)
        };
        // 49 of 59 runs.
        for at in [0, 1, 25, 49] {
            assert!((changed(at) - 49.0 / 59.0).abs() < 1e-12, "{at}: {}", changed(at));
        }
    }

    #[test]
    fn questions_are_alike_by_their_content() {
        let alike = |a: &str, b: &str| {
            let sketch = |text: &str| {
                let words = words(text);
                Sketch::of(&question_shingles(&words, &word_hashes(&words)), KEPT)
            };
            sketch(a).similarity(&sketch(b), KEPT)
        };
        let seeds = "What happens if you eat watermelon seeds?";
        assert_eq!(
            alike(seeds, "What happens to you if you eat watermelon seeds"),
            1.0
        );
        assert!(alike(seeds, "What happens if you eat pumpkin seeds?") < 0.6);
        assert!(alike("When was Ada born?", "Where was Ada born?") < 0.6);
        assert_eq!(alike("Who are you?", "Who is it?"), 0.0);
        assert!(alike("Is Ada taller than Bo?", "Is Bo taller than Ada?") < 0.3);
    }
}
