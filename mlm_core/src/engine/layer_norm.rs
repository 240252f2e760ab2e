//! LayerNorm: takes rows x `[tokens, d_model]`, gives rows of mean 0 and variance 1, scaled and shifted (Ba et al. 2016,
//! "Layer Normalization").
//!
//! ```text
//! n = (x - μ) r,  r = 1 / √(σ² + ε)           μ, σ²: mean and variance of the row
//! y = w n + b
//! ```
//!
//! Backward keeps n and r. The weights are used by every row: dw = Σ dy n, db = Σ dy. For a row of x let dn = w dy. Each
//! x_j moves its own n_j, and by μ and σ² all the others:
//!
//! ```text
//! ∂n_i/∂x_j = r (δ_ij - 1/d - n_i n_j / d)    since ∂μ/∂x_j = 1/d and ∂r/∂x_j = -r² n_j / d
//! dx_j = Σ_i dn_i ∂n_i/∂x_j = r (dn_j - mean(dn) - n_j mean(dn n))
//! ```

use pulp::{Simd, with_simd};

use crate::engine::vector;
use crate::vectors::arch;

/// y = w n + b; x becomes n. `scale` receives r for each row `[tokens]`.
#[with_simd(forward = arch())]
#[inline(always)]
pub(crate) fn forward_simd<'a, S: Simd>(
    simd: S,
    x: &'a mut [f32],
    weight: &'a [f32],
    bias: &'a [f32],
    eps: f32,
    scale: &'a mut [f32],
    y: &'a mut [f32],
) {
    let columns = weight.len();
    let rows = x.chunks_exact_mut(columns).zip(y.chunks_exact_mut(columns)).zip(scale);
    for ((x, y), scale) in rows {
        let mean = vector::sum(simd, x) / columns as f32;
        for x in x.iter_mut() {
            *x -= mean;
        }
        *scale = 1.0 / (vector::dot(simd, x, x) / columns as f32 + eps).sqrt();
        for (((x, y), w), b) in x.iter_mut().zip(y).zip(weight).zip(bias) {
            *x *= *scale;
            *y = w * *x + b;
        }
    }
}

/// dx in the place of dy; dw and db are written anew. `normal` is n and `scale` r, as forward left them.
#[with_simd(backward = arch())]
#[inline(always)]
pub(crate) fn backward_simd<'a, S: Simd>(
    simd: S,
    normal: &'a [f32],
    scale: &'a [f32],
    weight: &'a [f32],
    gradient: &'a mut [f32],
    dw: &'a mut [f32],
    db: &'a mut [f32],
) {
    let columns = weight.len();
    dw.fill(0.0);
    db.fill(0.0);
    let rows = gradient.chunks_exact_mut(columns).zip(normal.chunks_exact(columns)).zip(scale);
    for ((gradient, n), scale) in rows {
        let of_weights = dw.iter_mut().zip(db.iter_mut());
        for (((dy, n), (dw, db)), w) in gradient.iter_mut().zip(n).zip(of_weights).zip(weight) {
            *dw += *dy * n;
            *db += *dy;
            *dy *= w;
        }
        let mean = vector::sum(simd, gradient) / columns as f32;
        let mean_with_n = vector::dot(simd, gradient, n) / columns as f32;
        for (dn, n) in gradient.iter_mut().zip(n) {
            *dn = scale * (*dn - mean - n * mean_with_n);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::slopes;

    #[test]
    fn gives_mean_0_and_variance_1_then_scales_and_shifts() {
        // Mean 4, variance 9: the row is [-1, 1] before scale and shift.
        let (mut x, mut y, mut scale) = ([1.0, 7.0], [0.0; 2], [0.0]);
        forward(&mut x, &[2.0, 3.0], &[10.0, 20.0], 1e-12, &mut scale, &mut y);
        assert_eq!((x, y), ([-1.0, 1.0], [8.0, 23.0]));
    }

    #[test]
    fn backward_is_the_slope_of_forward() {
        for (tokens, columns) in [(1, 3), (4, 20), (3, 37)] {
            // Rows of deviation 6, so that a nudge is small against it.
            let mut inputs = slopes::numbers((tokens + 2) * columns, 3);
            inputs[..tokens * columns].iter_mut().for_each(|x| *x *= 10.0);
            slopes::check("layer_norm", &inputs, |inputs, dy| {
                let (x, rest) = inputs.split_at(tokens * columns);
                let (weight, bias) = rest.split_at(columns);
                let (mut n, mut y, mut scale) = (x.to_vec(), vec![0.0; x.len()], vec![0.0; tokens]);
                forward(&mut n, weight, bias, 1e-12, &mut scale, &mut y);
                let mut dx = dy[..x.len()].to_vec();
                let (mut dw, mut db) = (vec![0.0; columns], vec![0.0; columns]);
                backward(&n, &scale, weight, &mut dx, &mut dw, &mut db);
                (y, [dx, dw, db].concat())
            });
        }
    }
}
