//! Softmax and cross-entropy in one: takes logits `[masked, vocab]` and the right tokens, gives the loss and leaves the
//! gradient in the logits' place.
//!
//! ```text
//! p_j = e^(z_j) / Σ_k e^(z_k)                 loss = -log p_t = log Σ_k e^(z_k) - z_t
//! dz_j = ∂loss/∂z_j = p_j - δ_jt
//! ```
//!
//! The gradient is the prediction minus the truth. The largest logit is subtracted from all of a row, which changes
//! nothing but keeps the exponentials from overflowing.

use pulp::{Simd, with_simd};

use crate::engine::vector;
use crate::model::encoder::Score;
use crate::vectors::{arch, sum_of};

/// The sum of the rows' losses; each row of logits becomes its gradient, times `share`: 1 / masked, when the mean over
/// the masked rows of the whole batch is asked for.
#[with_simd(softmax_cross_entropy = arch())]
#[inline(always)]
pub(crate) fn softmax_cross_entropy_simd<'a, S: Simd>(
    simd: S,
    logits: &'a mut [f32],
    targets: &'a [u32],
    vocab: usize,
    share: f32,
) -> f64 {
    let mut loss = 0.0;
    for (z, &target) in logits.chunks_exact_mut(vocab).zip(targets) {
        let (target, largest) = (target as usize, vector::max(simd, z));
        let above = z[target] - largest;
        let sum = vector::exponentials(simd, z, 1.0, largest);
        loss += f64::from(sum).ln() - f64::from(above);
        vector::scale(z, share / sum);
        z[target] -= share;
    }
    loss
}

/// For each row of logits, what it predicts for its target; the row is overwritten. The exponentials are those of the loss,
/// their sum is one of f64 numbers.
#[with_simd(scores = arch())]
#[inline(always)]
pub(crate) fn scores_simd<'a, S: Simd>(simd: S, logits: &'a mut [f32], targets: &'a [u32], vocab: usize) -> Vec<Score> {
    let mut scores = Vec::with_capacity(targets.len());
    for (z, &target) in logits.chunks_exact_mut(vocab).zip(targets) {
        let largest = vector::max(simd, z);
        // Where there is none, all are NaN.
        let best = z.iter().position(|&logit| logit == largest).unwrap_or(0) as u32;
        let above = z[target as usize] - largest;
        vector::exponentials(simd, z, 1.0, largest);
        scores.push(Score { log_probability: f64::from(above) - sum_of(z, f64::from).ln(), best });
    }
    scores
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::slopes;

    #[test]
    fn of_two_equal_logits_each_has_half() {
        let mut logits = [7.0, 7.0];
        let loss = softmax_cross_entropy(&mut logits, &[1], 2, 1.0);
        assert!((loss - 2f64.ln()).abs() < 1e-7);
        assert_eq!(logits, [0.5, -0.5]);
    }

    #[test]
    fn scores_are_those_of_f64() {
        for vocab in [1, 7, 37, 1000] {
            let logits: Vec<f32> = slopes::numbers(3 * vocab, 5).iter().map(|z| 9.0 * z).collect();
            let targets = [0, vocab as u32 / 2, vocab as u32 - 1];
            let scores = scores(&mut logits.clone(), &targets, vocab);
            for ((z, target), score) in logits.chunks_exact(vocab).zip(targets).zip(scores) {
                let sum: f64 = z.iter().map(|&z| f64::from(z).exp()).sum();
                let expected = f64::from(z[target as usize]) - sum.ln();
                assert!((score.log_probability - expected).abs() < 1e-6, "{} {expected}", score.log_probability);
                assert!(z.iter().all(|&other| other <= z[score.best as usize]));
            }
        }
        assert_eq!(scores(&mut [1.0, 5.0, 5.0], &[0], 3)[0].best, 1);
        assert!(scores(&mut [1.0, f32::NAN], &[0], 2)[0].log_probability.is_nan());
    }

    #[test]
    fn the_gradient_is_the_slope_of_the_loss() {
        let targets = [3, 0, 36, 5];
        slopes::check("loss", &slopes::numbers(4 * 37, 5), |logits, weights| {
            let mut gradient = logits.to_vec();
            let loss = softmax_cross_entropy(&mut gradient, &targets, 37, 1.0);
            gradient.iter_mut().for_each(|z| *z *= weights[0]);
            (vec![loss as f32], gradient)
        });
    }

    #[test]
    fn large_logits_neither_overflow_nor_vanish() {
        let mut logits = [3e4, -3e4, 2.9e4];
        let loss = softmax_cross_entropy(&mut logits, &[1], 3, 1.0);
        assert!((loss - 6e4).abs() < 1.0 && logits[1] == -1.0 && (logits[0] - 1.0).abs() < 1e-6, "{loss} {logits:?}");
    }
}
