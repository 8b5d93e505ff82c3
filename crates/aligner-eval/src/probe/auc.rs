//! The area under the ROC curve of scores that several probes gave, each to its own fold.

/// Rows of each fold in the order of their scores, those with the same score together.
#[derive(Debug)]
pub(crate) struct Ranking {
    folds: Vec<Vec<Vec<usize>>>,
}

impl Ranking {
    /// Scores of different folds are of different probes, and are not compared with each other: pooled, they would look worse
    /// than they are (Parker et al. 2007, doi:10.1186/1471-2105-8-326).
    pub fn new(scores: &[f64], fold_of: &[usize], folds: usize) -> Self {
        let of_fold = |fold: usize| {
            let mut rows: Vec<usize> = (0..scores.len()).filter(|&row| fold_of[row] == fold).collect();
            rows.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]));
            let same = |a: &usize, b: &usize| scores[*a] == scores[*b];
            rows.chunk_by(same).map(<[usize]>::to_vec).collect()
        };
        Self {
            folds: (0..folds).map(of_fold).collect(),
        }
    }

    /// How often a row with the label has the higher score of two in a fold, equal ones as half; each row counts `weights` times.
    /// 0.5 where no fold has both.
    pub fn auc(&self, labels: &[bool], weights: &[f64]) -> f64 {
        let (mut right, mut pairs) = (0.0, 0.0);
        for ranks in &self.folds {
            let (mut below, mut positive) = (0.0, 0.0);
            for rank in ranks {
                let (mut with, mut without) = (0.0, 0.0);
                for &row in rank {
                    *(if labels[row] { &mut with } else { &mut without }) += weights[row];
                }
                right += with * (below + without / 2.0);
                below += without;
                positive += with;
            }
            pairs += positive * below;
        }
        if pairs > 0.0 { right / pairs } else { 0.5 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn auc(scores: &[f64], labels: &[bool], folds: &[usize]) -> f64 {
        Ranking::new(scores, folds, 2).auc(labels, &vec![1.0; scores.len()])
    }

    #[test]
    fn it_is_the_share_of_pairs_in_order() {
        // sklearn.metrics.roc_auc_score([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])
        let labels = [false, false, true, true];
        assert_eq!(auc(&[0.1, 0.4, 0.35, 0.8], &labels, &[0; 4]), 0.75);
        assert_eq!(auc(&[1.0; 4], &labels, &[0; 4]), 0.5);
        assert_eq!(auc(&[4.0, 3.0, 2.0, 1.0], &labels, &[0; 4]), 0.0);
        assert_eq!(auc(&[1.0; 4], &[true; 4], &[0; 4]), 0.5);
        // Another fold's scores lie higher; inside each the order is right.
        let two = [1.0, 2.0, 11.0, 12.0];
        assert_eq!(auc(&two, &[false, true, false, true], &[0, 0, 1, 1]), 1.0);
    }

    #[test]
    fn a_weight_is_so_many_rows() {
        let ranking = Ranking::new(&[0.1, 0.4, 0.35, 0.8], &[0; 4], 1);
        let labels = [false, false, true, true];
        let weighted = ranking.auc(&labels, &[1.0, 2.0, 3.0, 0.0]);
        let repeated = auc(
            &[0.1, 0.4, 0.4, 0.35, 0.35, 0.35],
            &[false, false, false, true, true, true],
            &[0; 6],
        );
        assert_eq!(weighted, repeated);
    }
}
