//! How good a ranking is: recall and nDCG.
//!
//! Vectors of a few bits give many documents the same score. Such documents count with the mean over all
//! orders in which they could stand, so that a number depends neither on the order of the collection nor
//! on chance (McSherry and Najork, "Computing Information Retrieval Performance Measures Efficiently in
//! the Presence of Tied Scores", ECIR 2008; scikit-learn's `ndcg_score` does the same).

use super::Relevant;

/// Where the relevant documents of one query stand.
#[derive(Debug, Clone, PartialEq)]
pub struct Ranking {
    relevant: Vec<(f64, Place)>,
}

/// A document's place: it shares the places `above..above + tied`, from 0, with those of its score.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    above: usize,
    tied: usize,
}

impl Ranking {
    /// Of documents with these scores, the highest first.
    ///
    /// # Panics
    /// If a relevant document has no score.
    pub fn new(scores: &[f64], relevant: &[Relevant]) -> Self {
        let place = |document: usize| {
            let own = scores[document];
            Place {
                above: scores.iter().filter(|score| **score > own).count(),
                tied: scores.iter().filter(|score| **score == own).count(),
            }
        };
        let relevant = relevant.iter();
        Self {
            relevant: relevant.map(|it| (it.grade, place(it.document))).collect(),
        }
    }

    /// The share of the relevant documents that stands on the first `places`.
    pub fn recall_at(&self, places: usize) -> f64 {
        let found = self.relevant.iter().map(|(_, place)| {
            let within = places.saturating_sub(place.above).min(place.tied);
            within as f64 / place.tied as f64
        });
        found.sum::<f64>() / self.relevant.len() as f64
    }

    /// Normalised discounted cumulative gain over the first `places`: a document of grade g on place r,
    /// from 1, gains g / log2(r + 1), and the sum is divided by that of the best order (Järvelin and
    /// Kekäläinen 2002, with the gain of trec_eval).
    pub fn ndcg_at(&self, places: usize) -> f64 {
        let discounts = |range: std::ops::Range<usize>| -> f64 {
            range.map(|place| 1.0 / (place as f64 + 2.0).log2()).sum()
        };
        let gained = self.relevant.iter().map(|(grade, place)| {
            let end = places.min(place.above + place.tied);
            grade * discounts(place.above..end) / place.tied as f64
        });
        let mut grades: Vec<f64> = self.relevant.iter().map(|(grade, _)| *grade).collect();
        grades.sort_by(|a, b| b.total_cmp(a));
        let best = grades.iter().take(places).enumerate();
        let best: f64 = best.map(|(at, grade)| grade * discounts(at..at + 1)).sum();
        gained.sum::<f64>() / best
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Grades by document, 0 for what is not relevant.
    fn ranking(scores: &[f64], grades: &[f64]) -> Ranking {
        let relevant: Vec<Relevant> = grades
            .iter()
            .enumerate()
            .filter(|(_, grade)| **grade > 0.0)
            .map(|(document, &grade)| Relevant { document, grade })
            .collect();
        Ranking::new(scores, &relevant)
    }

    fn assert_near(found: f64, expected: f64) {
        assert!(
            (found - expected).abs() < 1e-12,
            "{found}, expected {expected}"
        );
    }

    #[test]
    fn numbers_are_those_of_trec_eval_and_scikit_learn() {
        let scores = [
            0.1, 0.9, 0.3, 0.8, 0.2, 0.7, 0.6, 0.5, 0.05, 0.4, 0.35, 0.15,
        ];
        let grades = [3.0, 0.0, 1.0, 2.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 2.0];
        let ranking = ranking(&scores, &grades);
        // pytrec_eval's `ndcg_cut` and `recall`; scikit-learn 1.9's `ndcg_score` gives the same nDCG.
        for (places, ndcg, recall) in [
            (1, 0.0, 0.0),
            (3, 0.239_812_466_568_131_4, 0.2),
            (5, 0.278_405_626_079_645_3, 0.4),
            (10, 0.425_393_184_890_184_1, 0.8),
        ] {
            assert_near(ranking.ndcg_at(places), ndcg);
            assert_near(ranking.recall_at(places), recall);
        }
    }

    #[test]
    fn equal_scores_count_with_every_order() {
        let scores = [2.0, 1.0, 2.0, 3.0, 1.0, 1.0, 2.0, 0.0];
        let grades = [1.0, 0.0, 0.0, 2.0, 3.0, 0.0, 1.0, 0.0];
        let ranking = ranking(&scores, &grades);
        // scikit-learn's `ndcg_score`, and recall counted over all 36 orders.
        for (places, ndcg, recall) in [
            (1, 0.666_666_666_666_666_6, 1.0 / 4.0),
            (2, 0.567_972_696_344_711_1, 5.0 / 12.0),
            (3, 0.578_335_661_712_958_1, 7.0 / 12.0),
            (4, 0.585_661_964_834_753_1, 3.0 / 4.0),
            (6, 0.728_763_521_571_193_4, 11.0 / 12.0),
            (10, 0.792_958_228_964_034, 1.0),
        ] {
            assert_near(ranking.ndcg_at(places), ndcg);
            assert_near(ranking.recall_at(places), recall);
        }
    }
}
