//! distinct-n: how varied the words of a set of texts are.

use std::collections::{HashMap, HashSet};

use aligner_data::words;
use serde::{Deserialize, Serialize};

/// distinct-1, -2 and -3 of answers and of outputs. They fall with the number of words, so they compare sets of one size.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Distinct {
    /// Of the original answers.
    pub original: [f64; 3],
    /// Of the outputs.
    pub output: [f64; 3],
}

/// distinct-1, -2 and -3: different runs of one, two and three words in all texts together, by the number of all words.
///
/// Li et al. 2016 (*A Diversity-Promoting Objective Function for Neural Conversation Models*) scale by tokens, for bigrams
/// too; runs do not cross the end of a text. Words are those of [`aligner_data::words`]. 0 without words.
///
/// ```
/// use aligner_eval::metrics::distinct;
/// // 6 words; a, b, c; ab, bc, ca; abc, bca.
/// assert_eq!(distinct(["a b c a", "A, b!"]), [3.0 / 6.0, 3.0 / 6.0, 2.0 / 6.0]);
/// ```
pub fn distinct<'a>(texts: impl IntoIterator<Item = &'a str>) -> [f64; 3] {
    let mut numbers = HashMap::new();
    let mut runs: [HashSet<[u32; 3]>; 3] = Default::default();
    let mut count = 0_u64;
    for text in texts {
        let mut numbered = Vec::new();
        for word in words(text) {
            // 0 stands where a run has no word.
            let next = u32::try_from(numbers.len() + 1).unwrap_or(u32::MAX);
            numbered.push(*numbers.entry(word).or_insert(next));
        }
        count += numbered.len() as u64;
        for (length, runs) in (1..).zip(&mut runs) {
            for window in numbered.windows(length) {
                let mut run = [0; 3];
                run[..length].copy_from_slice(window);
                runs.insert(run);
            }
        }
    }
    runs.map(|runs| {
        if count == 0 {
            0.0
        } else {
            runs.len() as f64 / count as f64
        }
    })
}
