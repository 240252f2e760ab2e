//! Takes slices, gives what several operations need of them: sums and the exponential, as plain loops that the compiler
//! turns into vector instructions. All of it is inlined into the operations, which call [`pulp::Arch::dispatch`] so that
//! these are the widest instructions of the machine that it runs on.

/// Sums are kept in so many lanes, which are added up in the end: the compiler may not reorder a sum by itself, because
/// every order rounds differently.
const LANES: usize = 16;

#[inline(always)]
fn fold(count: usize, start: f32, at: impl Fn(usize) -> f32, join: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [start; LANES];
    let whole = count - count % LANES;
    for first in (0..whole).step_by(LANES) {
        for (lane, joined) in lanes.iter_mut().enumerate() {
            *joined = join(*joined, at(first + lane));
        }
    }
    for (lane, index) in (whole..count).enumerate() {
        lanes[lane] = join(lanes[lane], at(index));
    }
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] = join(lanes[lane], lanes[lane + width]);
        }
        width /= 2;
    }
    lanes[0]
}

#[inline(always)]
pub(crate) fn sum(x: &[f32]) -> f32 {
    fold(x.len(), 0.0, |i| x[i], |a, b| a + b)
}

/// Σ x y.
#[inline(always)]
pub(crate) fn dot(x: &[f32], y: &[f32]) -> f32 {
    let y = &y[..x.len()];
    fold(x.len(), 0.0, |i| x[i] * y[i], |a, b| a + b)
}

/// The largest number; of none, negative infinity.
#[inline(always)]
pub(crate) fn max(x: &[f32]) -> f32 {
    fold(x.len(), f32::NEG_INFINITY, |i| x[i], |a, b| if a > b { a } else { b })
}

/// y += x.
#[inline(always)]
pub(crate) fn add(y: &mut [f32], x: &[f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += x;
    }
}

/// e^x for x of at most 0 or a little more, within 3e-7 of it relatively; far below, about 1e-38 instead of less.
///
/// x = n ln 2 + r with a whole number n and |r| <= ln 2 / 2, so that e^x = 2^n e^r. e^r is a polynomial, and 2^n is n in
/// the exponent's bits. ln 2 is subtracted in two parts (Cody and Waite 1980), or r would lose digits.
#[inline(always)]
#[allow(clippy::excessive_precision)]
pub(crate) fn exp(x: f32) -> f32 {
    const LN_2: [f32; 2] = [0.693_359_375, -2.121_944_4e-4];
    // A number so large that whole numbers are all that f32 has there: adding it rounds.
    const ROUND: f32 = 12_582_912.0;
    // In this form NaN stays NaN.
    let x = if x < -87.0 { -87.0 } else { x };
    let x = if x > 88.0 { 88.0 } else { x };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (x - n * LN_2[0]) - n * LN_2[1];
    // Least relative error on |r| <= ln 2 / 2.
    let tail = 8.369_419e-3 + r * 1.381_314_3e-3;
    let tail = 4.166_845_7e-2 + r * tail;
    let tail = 0.166_665_15 + r * tail;
    let tail = 0.499_999_93 + r * tail;
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1f32.to_bits()));
    (1.0 + (r + r * r * tail)) * power
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_of_any_length() {
        for count in 0..70 {
            let x: Vec<f32> = (0..count).map(|i| (i as f32 * 0.7).sin()).collect();
            let y: Vec<f32> = (0..count).map(|i| (i as f32 * 0.3).cos()).collect();
            let exact: f64 = x.iter().map(|&x| f64::from(x)).sum();
            assert!((f64::from(sum(&x)) - exact).abs() < 1e-5);
            let exact: f64 = x.iter().zip(&y).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum();
            assert!((f64::from(dot(&x, &y)) - exact).abs() < 1e-5);
            assert_eq!(max(&x), x.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        }
    }

    #[test]
    fn exp_is_right_to_six_digits() {
        for step in -870_000..=200_000 {
            let x = step as f32 * 1e-4;
            let exact = f64::from(x).exp();
            assert!((f64::from(exp(x)) / exact - 1.0).abs() < 3e-7, "e^{x}: {}, not {exact}", exp(x));
        }
        assert!(exp(f32::NEG_INFINITY) < 2e-38 && exp(-1e30) >= 0.0);
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f32::NAN).is_nan());
    }
}
