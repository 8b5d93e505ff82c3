//! Which rows a probe is fitted to, and which it is tried on.

use aligner_data::Random;

/// A fold for each row, from 0 up to `folds`. Rows of one group are in one fold, and groups with much the same share of labels
/// are spread over all of them.
pub(crate) fn assign(labels: &[bool], groups: &[usize], folds: usize, seed: u64) -> Vec<usize> {
    let count = groups.iter().max().map_or(0, |last| last + 1);
    let mut tallies = vec![(0usize, 0usize); count];
    for (&group, &label) in groups.iter().zip(labels) {
        tallies[group].0 += usize::from(label);
        tallies[group].1 += 1;
    }
    // Groups without rows here take no place of those that have some.
    let mut order: Vec<usize> = (0..count).filter(|&group| tallies[group].1 > 0).collect();
    shuffle(&mut order, seed);
    let share = |group: &usize| tallies[*group].0 as f64 / tallies[*group].1 as f64;
    order.sort_by(|a, b| share(a).total_cmp(&share(b)));
    let mut fold_of = vec![0; count];
    for (place, &group) in order.iter().enumerate() {
        fold_of[group] = place % folds;
    }
    groups.iter().map(|&group| fold_of[group]).collect()
}

/// The same order for the same seed.
pub(crate) fn shuffle<T>(values: &mut [T], seed: u64) {
    let mut random = Random(seed);
    for end in (1..values.len()).rev() {
        values.swap(end, random.index(end + 1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_stay_whole_and_labels_are_spread() {
        let mut random = Random(4);
        let groups: Vec<usize> = (0..300).map(|_| random.index(60)).collect();
        let labels: Vec<bool> = groups.iter().map(|group| group % 3 == 0).collect();
        let folds = assign(&labels, &groups, 5, 9);
        for (&group, &fold) in groups.iter().zip(&folds) {
            let first = groups.iter().position(|&other| other == group).expect("itself");
            assert_eq!(fold, folds[first], "group {group}");
        }
        for fold in 0..5 {
            let inside = || {
                folds
                    .iter()
                    .zip(&labels)
                    .filter(move |(found, _)| **found == fold)
            };
            let (all, positive) = (inside().count(), inside().filter(|(_, label)| **label).count());
            assert!((30..=90).contains(&all), "{all} rows in fold {fold}");
            assert!((8..=40).contains(&positive), "{positive} labels in fold {fold}");
        }
        assert_eq!(assign(&labels, &groups, 5, 9), folds);
        assert_ne!(assign(&labels, &groups, 5, 10), folds);
    }
}
