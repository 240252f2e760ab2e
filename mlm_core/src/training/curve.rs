//! Takes the loss of each step, keeps as many means as a figure can show: however long a training is, its curve takes no
//! more memory than that.

use serde::{Deserialize, Serialize};

/// The most means that are kept; then neighbours are put together.
const MOST: usize = 400;

/// Means of the losses of equally many steps each, in nats.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct LossCurve {
    /// How many steps each mean is taken over.
    width: usize,
    means: Vec<f64>,
    /// Over the steps after those.
    sum: f64,
    count: usize,
}

impl Default for LossCurve {
    fn default() -> Self {
        Self { width: 1, means: Vec::new(), sum: 0.0, count: 0 }
    }
}

impl LossCurve {
    pub(crate) fn push(&mut self, loss: f64) {
        self.sum += loss;
        self.count += 1;
        if self.count < self.width {
            return;
        }
        self.means.push(self.sum / self.count as f64);
        (self.sum, self.count) = (0.0, 0);
        if self.means.len() == MOST {
            self.means = self.means.as_chunks().0.iter().map(|[first, second]| (first + second) / 2.0).collect();
            self.width *= 2;
        }
    }

    /// The means, each in the middle of the steps that it was taken over, where the last one of all has this number.
    pub(crate) fn points(&self, last_step: usize) -> Vec<(f64, f64)> {
        let last = |nth: usize| last_step.saturating_sub(self.count + (self.means.len() - 1 - nth) * self.width);
        let middle = |nth: usize| last(nth) as f64 - (self.width - 1) as f64 / 2.0;
        self.means.iter().enumerate().map(|(nth, &mean)| (middle(nth), mean)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_stays_short_and_keeps_its_mean() {
        let mut curve = LossCurve::default();
        for step in 1..=100_000 {
            curve.push(step as f64);
            let points = curve.points(step);
            assert!(points.len() < MOST);
            // Of the losses 1, 2, 3, … the mean over some steps is the number of the middle one.
            for (middle, mean) in points {
                assert_eq!(mean, middle);
            }
        }
        assert!(curve.means.len() >= MOST / 2 - 1);
    }
}
