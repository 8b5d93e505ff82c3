//! Several data sets, each with its share of the rows that are drawn.

use std::path::{Path, PathBuf};

use crate::error::{DataError, Result};
use crate::order::{Order, mix};

/// A file of rows, and its weight in a mixture.
///
/// ```
/// use std::path::Path;
/// use aligner_data::DataSource;
/// let source = DataSource::parse(Path::new("a.jsonl:0.7")).unwrap();
/// assert_eq!((source.path.as_path(), source.weight), (Path::new("a.jsonl"), Some(0.7)));
/// assert_eq!(DataSource::parse(Path::new("a.jsonl")).unwrap().weight, None);
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct DataSource {
    /// The file.
    pub path: PathBuf,
    /// Its share of the rows drawn, relative to the other weights; `None`: it is not weighted.
    pub weight: Option<f64>,
}

impl DataSource {
    /// Reads `PATH` or `PATH:WEIGHT`. A file whose very name is the whole text wins.
    ///
    /// # Errors
    /// When the weight is not a positive number.
    pub fn parse(typed: &Path) -> Result<Self> {
        let whole = || Self {
            path: typed.to_path_buf(),
            weight: None,
        };
        let split = typed.to_str().and_then(|text| text.rsplit_once(':'));
        let Some((path, number)) = split.filter(|(path, _)| !path.is_empty() && !typed.exists()) else {
            return Ok(whole());
        };
        // `inf` and `nan` are numbers to the parser; here they are as good as a name.
        let Some(weight) = number
            .parse::<f64>()
            .ok()
            .filter(|_| !number.contains(char::is_alphabetic))
        else {
            return Ok(whole());
        };
        if weight > 0.0 && weight.is_finite() {
            return Ok(Self {
                path: path.into(),
                weight: Some(weight),
            });
        }
        let reason = format!("the weight of {path} is {number}; it must be more than 0");
        Err(DataError::Mixture { reason })
    }

    /// Reads several; the weights are given for all of them or for none.
    ///
    /// # Errors
    /// When a weight is not a positive number, or some have one and others do not.
    pub fn parse_all(typed: &[PathBuf]) -> Result<(Vec<PathBuf>, Option<Vec<f64>>)> {
        let sources: Vec<Self> = typed
            .iter()
            .map(|typed| Self::parse(typed))
            .collect::<Result<_>>()?;
        let weights: Vec<f64> = sources.iter().filter_map(|source| source.weight).collect();
        let bare = sources.iter().find(|source| source.weight.is_none());
        if let Some(bare) = bare.filter(|_| !weights.is_empty()) {
            let reason = format!(
                "{} has no weight and others have; give every one a weight (PATH:WEIGHT), or none",
                bare.path.display()
            );
            return Err(DataError::Mixture { reason });
        }
        let paths = sources.into_iter().map(|source| source.path).collect();
        Ok((paths, (!weights.is_empty()).then_some(weights)))
    }
}

/// A data set in a mixture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Share {
    /// Its rows.
    pub rows: u64,
    /// Its weight, relative to the others'.
    pub weight: f64,
}

/// Which source the next row is drawn from, and which of its rows that is.
///
/// The sources are interleaved as evenly as whole rows allow, not at random: of the first `n` draws the first source has
/// `w·n` rounded, of those that are left the second has its share rounded, and so on. Each draw is thus a function of `n`,
/// and after any number of them each source is off its share by less than a row for every two sources. Within a source
/// the rows come in its own order, all of them before any comes again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Interleave {
    sources: Vec<Source>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Source {
    /// Share of the draws that the sources before this one leave, with 64 binary places.
    share: u128,
    first_row: u64,
    order: Order,
}

const ONE: u128 = 1 << 64;

impl Interleave {
    pub fn new(seed: u64, shares: &[Share], shuffle: bool) -> Result<Self> {
        let refuse = |reason: &str| {
            Err(DataError::Mixture {
                reason: reason.to_string(),
            })
        };
        if shares.is_empty() || shares.iter().any(|share| share.rows == 0) {
            return refuse("there must be a source, and each must have rows");
        }
        let usable = |weight: f64| weight > 0.0 && weight.is_finite();
        let total: f64 = shares.iter().map(|share| share.weight).sum();
        if !usable(total) || !shares.iter().all(|share| usable(share.weight)) {
            return refuse("weights must be more than 0 and finite");
        }
        let mut sources = Vec::with_capacity(shares.len());
        let mut first_row = 0;
        for (index, share) in shares.iter().enumerate() {
            let left: f64 = shares[index..].iter().map(|share| share.weight).sum();
            let is_last = index + 1 == shares.len();
            sources.push(Source {
                share: if is_last {
                    ONE
                } else {
                    (share.weight / left * ONE as f64) as u128
                },
                first_row,
                // Sources of one length must not walk in step.
                order: Order::new(seed ^ mix(index as u64 + 1), share.rows as usize, shuffle),
            });
            first_row += share.rows;
        }
        Ok(Self { sources })
    }

    /// Rows of all sources.
    pub fn rows(&self) -> u64 {
        self.sources.iter().map(|source| source.order.len() as u64).sum()
    }

    /// The row of draw `n`, counted over the rows of all sources one after the other.
    pub fn row(&self, n: u64) -> usize {
        let (source, ordinal) = self.draw(n);
        let Source { order, first_row, .. } = &self.sources[source];
        let len = order.len() as u64;
        *first_row as usize + order.at(ordinal / len, ordinal % len)
    }

    /// The source of draw `n`, and how many were drawn from it before.
    fn draw(&self, n: u64) -> (usize, u64) {
        // Draws before this one that the sources so far leave to the rest.
        let mut left = n;
        for (index, source) in self.sources.iter().enumerate() {
            let before = source.rounded(left);
            if source.rounded(left.saturating_add(1)) > before {
                return (index, before);
            }
            left -= before;
        }
        // The last source takes whatever comes to it.
        (self.sources.len() - 1, left)
    }
}

impl Source {
    /// This source's share of `draws`, rounded.
    fn rounded(&self, draws: u64) -> u64 {
        ((u128::from(draws) * self.share + ONE / 2) >> 64) as u64
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::order::Cursor;

    fn shares(of: &[(u64, f64)]) -> Vec<Share> {
        of.iter().map(|&(rows, weight)| Share { rows, weight }).collect()
    }

    proptest! {
        #[test]
        fn shares_are_exact_within_rounding_and_nothing_is_drawn_twice_or_left_out(
            parts in prop::collection::vec((1u64..50, 0.01f64..10.0), 1..7),
            far in 0u64..1 << 40,
        ) {
            let parts = shares(&parts);
            let total: f64 = parts.iter().map(|part| part.weight).sum();
            let mix = Interleave::new(1, &parts, true).unwrap();
            let mut drawn = vec![0u64; parts.len()];
            for n in 0..2000 {
                let (source, ordinal) = mix.draw(n);
                prop_assert_eq!(ordinal, drawn[source]);
                drawn[source] += 1;
                for (&drawn, part) in drawn.iter().zip(&parts) {
                    let want = part.weight / total * (n + 1) as f64;
                    prop_assert!((drawn as f64 - want).abs() <= parts.len() as f64 / 2.0 + 1e-6);
                }
            }
            // And far out, where a sum of errors would show.
            let mut seen = vec![0u64; parts.len()];
            for n in far..far + 1000 {
                seen[mix.draw(n).0] += 1;
            }
            for (&seen, part) in seen.iter().zip(&parts) {
                prop_assert!((seen as f64 - part.weight / total * 1000.0).abs() <= parts.len() as f64 + 1e-3);
            }
        }

        #[test]
        fn each_source_gives_all_its_rows_before_any_again(seed: u64, shuffle: bool) {
            let parts = shares(&[(5, 3.0), (40, 1.0), (11, 2.0)]);
            let order = Order::mixture(seed, &parts, shuffle).unwrap();
            let mut cursor = Cursor::default();
            let rows: Vec<usize> = (0..600).map(|_| cursor.next(&order)).collect();
            for (first, len) in [(0, 5), (5, 40), (45, 11)] {
                let own: Vec<usize> =
                    rows.iter().copied().filter(|row| (first..first + len).contains(row)).collect();
                prop_assert!(own.len() > 2 * len);
                for pass in own.chunks_exact(len) {
                    let mut pass = pass.to_vec();
                    pass.sort_unstable();
                    prop_assert_eq!(pass, (first..first + len).collect::<Vec<_>>());
                }
            }
        }
    }

    #[test]
    fn a_mixture_goes_on_from_every_position() {
        let order = Order::mixture(7, &shares(&[(4, 0.7), (9, 0.3)]), true).unwrap();
        assert_eq!(order.len(), 13);
        let mut cursor = Cursor::default();
        let all: Vec<usize> = (0..60).map(|_| cursor.next(&order)).collect();
        for stop in 0..60 {
            let mut cursor = Cursor::default();
            (0..stop).for_each(|_| {
                cursor.next(&order);
            });
            let saved = serde_json::to_string(&cursor).unwrap();
            let mut cursor: Cursor = serde_json::from_str(&saved).unwrap();
            let rest: Vec<usize> = (stop..60).map(|_| cursor.next(&order)).collect();
            assert_eq!(rest, all[stop..], "stopped after {stop}");
        }
    }

    #[test]
    fn a_mixture_is_the_same_everywhere() {
        let order = Order::mixture(42, &shares(&[(3, 1.0), (4, 2.0), (5, 1.0)]), true).unwrap();
        let rows: Vec<usize> = (0..12).map(|position| order.at(0, position)).collect();
        assert_eq!(rows, GOLDEN);
    }

    /// Printed by this code on the day it was written: a change would reorder every resumed run.
    const GOLDEN: [usize; 12] = [6, 1, 10, 5, 3, 0, 7, 4, 6, 2, 9, 5];

    #[test]
    fn a_weight_is_told_from_a_name() {
        let dir = tempfile::tempdir().unwrap();
        let odd = dir.path().join("rows:2");
        std::fs::write(&odd, "").unwrap();
        let parse = |text: &str| DataSource::parse(Path::new(text)).unwrap();
        assert_eq!(DataSource::parse(&odd).unwrap().weight, None);
        assert_eq!(
            parse(&format!("{}:3", odd.display())),
            DataSource {
                path: odd,
                weight: Some(3.0)
            }
        );
        for (text, path, weight) in [
            ("a.jsonl:.5", "a.jsonl", Some(0.5)),
            ("a:b:2e-1", "a:b:2e-1", None),
            ("a:b:2", "a:b", Some(2.0)),
            ("a:nan", "a:nan", None),
            ("c:rows.jsonl", "c:rows.jsonl", None),
            (":2", ":2", None),
        ] {
            let path = PathBuf::from(path);
            assert_eq!(parse(text), DataSource { path, weight }, "{text}");
        }
        for text in ["a:0", "a:-1"] {
            let error = DataSource::parse(Path::new(text)).unwrap_err().to_string();
            assert!(error.contains("more than 0"), "{error}");
        }
    }

    #[test]
    fn weights_are_for_all_or_none_and_the_bare_one_is_named() {
        let all =
            |typed: &[&str]| DataSource::parse_all(&typed.iter().map(PathBuf::from).collect::<Vec<_>>());
        assert_eq!(all(&["a", "b"]).unwrap().1, None);
        assert_eq!(all(&["a:1", "b:3"]).unwrap().1, Some(vec![1.0, 3.0]));
        let error = all(&["a:1", "b.jsonl", "c:2"]).unwrap_err().to_string();
        assert!(error.contains("b.jsonl has no weight"), "{error}");
    }

    #[test]
    fn what_cannot_be_mixed_is_refused() {
        for parts in [
            vec![],
            vec![(0, 1.0)],
            vec![(3, 0.0)],
            vec![(3, f64::NAN), (1, 1.0)],
        ] {
            assert!(Interleave::new(0, &shares(&parts), true).is_err(), "{parts:?}");
        }
    }
}
