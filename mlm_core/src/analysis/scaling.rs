//! Takes losses of models of many sizes (or on texts of many sizes, or after many steps), gives the power law that they follow.

use crate::error::{Error, Result};

/// `loss = floor + a x^-b`: how a loss falls as `x` grows, be it parameters, sentences or steps (Kaplan et al. 2020, "Scaling
/// laws for neural language models", which has no floor; Hoffmann et al. 2022, "Training compute-optimal large language
/// models", fits one). Where the grammar of a text is known, nothing about the floor is left to guess.
///
/// ```
/// # use mlm_core::*;
/// # fn main() -> Result<()> {
/// let law = PowerLaw::fit(&[(1.0, 4.25), (4.0, 2.25), (16.0, 1.25)], 0.25)?;
/// assert!((law.b - 0.5).abs() < 1e-9 && (law.loss(64.0) - 0.75).abs() < 1e-9);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PowerLaw {
    /// The excess over the floor where `x` is 1, in nats.
    pub a: f64,
    /// The exponent: where `x` is twice as large, the excess is `2^-b` times as large.
    pub b: f64,
    /// The smallest loss that any model can have, in nats.
    pub floor: f64,
}

impl PowerLaw {
    /// The law that is nearest to points of `x` and loss: the straight line of `ln (loss - floor)` over `ln x` with the least
    /// squared error.
    ///
    /// # Errors
    /// When there are not two different `x`, one is not positive, or a loss is not above the floor.
    pub fn fit(points: &[(f64, f64)], floor: f64) -> Result<Self> {
        if let Some((x, loss)) =
            points.iter().find(|(x, loss)| !(*x > 0.0 && x.is_finite() && *loss > floor && loss.is_finite()))
        {
            let expected = format!("positive numbers with losses above the floor, {floor}");
            return Err(Error::argument("points", expected, format!("loss {loss} at {x}")));
        }
        if points.iter().all(|(x, _)| *x == points[0].0) {
            return Err(Error::argument("points", "at least two different x", format!("{} points", points.len())));
        }
        let logarithms: Vec<(f64, f64)> = points.iter().map(|(x, loss)| (x.ln(), (loss - floor).ln())).collect();
        let count = logarithms.len() as f64;
        let mean_x = logarithms.iter().map(|(x, _)| x).sum::<f64>() / count;
        let mean_y = logarithms.iter().map(|(_, y)| y).sum::<f64>() / count;
        let spread = logarithms.iter().map(|(x, _)| (x - mean_x).powi(2)).sum::<f64>();
        let slope = logarithms.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum::<f64>() / spread;
        Ok(Self { a: (mean_y - slope * mean_x).exp(), b: -slope, floor })
    }

    /// The loss that the law gives, in nats.
    pub fn loss(&self, x: f64) -> f64 {
        self.floor + self.a * x.powf(-self.b)
    }
}
