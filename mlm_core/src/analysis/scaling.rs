//! Takes losses of models of many sizes (or on texts of many sizes, or after many steps), gives the power law that they follow.

use crate::error::{Error, Result};

/// `loss(x) = irreducible + (scale / x)^exponent`: how a loss falls as `x` grows, be it parameters, sentences or epochs (Kaplan et
/// al. 2020, "Scaling laws for neural language models", equations 1.1 to 1.3, for parameters, data and compute, where nothing is
/// irreducible; Hoffmann et al. 2022, "Training compute-optimal large language models", section 3.3, where something is).
///
/// ```
/// # use mlm_core::*;
/// # fn main() -> Result<()> {
/// let law = PowerLaw::fit(&[(1.0, 4.25), (4.0, 2.25), (16.0, 1.25)])?;
/// assert!((law.exponent - 0.5).abs() < 1e-9 && (law.irreducible - 0.25).abs() < 1e-9);
/// assert!((law.scale - 16.0).abs() < 1e-6 && (law.loss(64.0) - 0.75).abs() < 1e-9);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PowerLaw {
    /// What stays of the loss, however large `x` is, in nats.
    pub irreducible: f64,
    /// The `x` at which the loss is 1 nat above that.
    pub scale: f64,
    /// Where `x` is twice as large, the rest of the loss is `2^-exponent` times as large.
    pub exponent: f64,
}

impl PowerLaw {
    /// The law that is nearest to points of `x` and loss, in the sum of the squared relative errors. The exponent is the best of
    /// 0.001, 0.002, ..., 4; given an exponent, the other two are a linear problem of least squares.
    ///
    /// # Errors
    /// When there are not three different `x`, an `x` or a loss is not positive, or the losses do not fall.
    pub fn fit(points: &[(f64, f64)]) -> Result<Self> {
        let positive = |number: f64| number > 0.0 && number.is_finite();
        if let Some((x, loss)) = points.iter().find(|(x, loss)| !positive(*x) || !positive(*loss)) {
            return Err(Error::argument(
                "points",
                "positive numbers with positive losses",
                format!("loss {loss} at {x}"),
            ));
        }
        let mut xs: Vec<f64> = points.iter().map(|(x, _)| *x).collect();
        xs.sort_by(f64::total_cmp);
        xs.dedup();
        if xs.len() < 3 {
            return Err(Error::argument("points", "at least three different x", format!("{}", xs.len())));
        }
        (1..=4000)
            .filter_map(|thousandths| Self::of_exponent(f64::from(thousandths) / 1000.0, points, xs[0]))
            .map(|law| (law, points.iter().map(|(x, loss)| (law.loss(*x) / loss - 1.0).powi(2)).sum::<f64>()))
            .min_by(|one, other| one.1.total_cmp(&other.1))
            .map(|(law, _)| law)
            .ok_or_else(|| Error::argument("points", "losses that fall as x grows", "losses that rise"))
    }

    /// The nearest of all laws with this exponent; none where the losses do not fall. Nothing irreducible is below 0.
    fn of_exponent(exponent: f64, points: &[(f64, f64)], smallest: f64) -> Option<Self> {
        // loss = irreducible + excess * power, each point weighted with loss^-2.
        let (mut one, mut power_1, mut power_2, mut loss_1, mut loss_power) = (0.0, 0.0, 0.0, 0.0, 0.0);
        for (x, loss) in points {
            let (weight, power) = (loss.powi(-2), (smallest / x).powf(exponent));
            one += weight;
            power_1 += weight * power;
            power_2 += weight * power * power;
            loss_1 += weight * loss;
            loss_power += weight * loss * power;
        }
        let excess = (one * loss_power - power_1 * loss_1) / (one * power_2 - power_1 * power_1);
        let irreducible = (loss_1 - excess * power_1) / one;
        let (irreducible, excess) = if irreducible < 0.0 { (0.0, loss_power / power_2) } else { (irreducible, excess) };
        (excess > 0.0).then(|| Self { irreducible, scale: smallest * excess.powf(1.0 / exponent), exponent })
    }

    /// The loss that the law gives, in nats.
    pub fn loss(&self, x: f64) -> f64 {
        self.irreducible + (self.scale / x).powf(self.exponent)
    }
}
