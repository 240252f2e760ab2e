//! GELU: takes the feed-forward block's pre-activations, gives activations, and the slopes for the way back.
//!
//! y = x Φ(x), where Φ(x) is the share of a standard normal distribution below x (Hendrycks and Gimpel 2016, "Gaussian
//! Error Linear Units"). By the product rule, with Φ' = φ, the bell curve e^(-x²/2) / √(2π):
//!
//! ```text
//! dy/dx = Φ(x) + x φ(x)
//! ```
//!
//! Φ and φ share one exponential, so forward computes the slope as well and leaves it in x's place.

use std::f32::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI};

use pulp::{Simd, with_simd};

use crate::engine::vector;
use crate::vectors::arch;

/// y = x Φ(x); x becomes dy/dx.
#[with_simd(forward = arch())]
#[inline(always)]
pub(crate) fn forward_simd<'a, S: Simd>(simd: S, x: &'a mut [f32], y: &'a mut [f32]) {
    for (x, y) in x.chunks_mut(S::F32_LANES).zip(y.chunks_mut(S::F32_LANES)) {
        let input = vector::load(simd, x);
        let (share, density) = normal(simd, input);
        vector::store(simd, y, simd.mul_f32s(input, share));
        vector::store(simd, x, simd.mul_add_e_f32s(input, density, share));
    }
}

/// dx = dy (dy/dx), in dy's place.
#[with_simd(backward = arch())]
#[inline(always)]
pub(crate) fn backward_simd<'a, S: Simd>(_simd: S, slope: &'a [f32], gradient: &'a mut [f32]) {
    for (gradient, slope) in gradient.iter_mut().zip(slope) {
        *gradient *= slope;
    }
}

/// Φ(x) and φ(x), within 2e-7.
///
/// The share beyond |x| is the bell curve times a smooth function of |x|: here a polynomial of degree 8 in
/// t = 1 / (1 + 0.3 |x|), the form of Abramowitz and Stegun 1964, 7.1.26, fitted anew for least absolute error.
#[inline(always)]
#[allow(clippy::excessive_precision)]
fn normal<S: Simd>(simd: S, x: S::f32s) -> (S::f32s, S::f32s) {
    const POWERS: [f32; 8] = [
        0.119_624_54,
        0.120_826_34,
        9.946_491e-2,
        0.130_033_17,
        -5.645_122_3e-2,
        0.209_347_72,
        -0.158_934_57,
        3.608_905_5e-2,
    ];
    let number = |value: f32| simd.splat_f32s(value);
    let bell = vector::exp(simd, simd.mul_f32s(simd.mul_f32s(number(-0.5), x), x));
    let t = simd.div_f32s(number(1.0), simd.mul_add_e_f32s(number(0.3), simd.abs_f32s(x), number(1.0)));
    let beyond = simd.mul_f32s(simd.mul_f32s(bell, t), vector::polynomial(simd, t, POWERS));
    let below = simd.greater_than_f32s(x, number(0.0));
    let share = simd.select_f32s(below, simd.sub_f32s(number(1.0), beyond), beyond);
    (share, simd.mul_f32s(bell, number(0.5 * FRAC_2_SQRT_PI * FRAC_1_SQRT_2)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::slopes;

    /// Against erf in f64: Φ(x) = (1 + erf(x / √2)) / 2.
    #[test]
    fn is_x_times_the_share_of_a_normal_distribution_below_x() {
        for step in -2000..=2000 {
            let x = step as f32 * 5e-3;
            let share = 0.5 * (1.0 + candle_core::cpu::erf::erf_f64(f64::from(x) / 2f64.sqrt()));
            let density = (-0.5 * f64::from(x).powi(2)).exp() / (2.0 * std::f64::consts::PI).sqrt();
            let (mut slope, mut y) = ([x], [0.0]);
            forward(&mut slope, &mut y);
            let error = (f64::from(y[0]) - f64::from(x) * share).abs();
            assert!(error < 3e-7 * f64::from(x.abs().max(1.0)), "gelu({x}): {error}");
            let error = (f64::from(slope[0]) - share - f64::from(x) * density).abs();
            assert!(error < 5e-7, "slope at {x}: {error}");
        }
        let (mut x, mut y) = ([-100.0, 100.0], [0.0; 2]);
        forward(&mut x, &mut y);
        assert!(x[0].abs() < 1e-30 && y[0].abs() < 1e-30 && (x[1], y[1]) == (1.0, 100.0), "{x:?} {y:?}");
    }

    #[test]
    fn backward_is_the_slope_of_forward() {
        let x: Vec<f32> = (-40..40).map(|step| step as f32 * 0.1 + 0.05).collect();
        slopes::check("gelu", &x, |x, weights| {
            let (mut slope, mut y) = (x.to_vec(), vec![0.0; x.len()]);
            forward(&mut slope, &mut y);
            let mut gradient = weights[..x.len()].to_vec();
            backward(&slope, &mut gradient);
            (y, gradient)
        });
    }
}
