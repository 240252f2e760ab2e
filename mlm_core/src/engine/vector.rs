//! Takes vectors and slices of numbers, gives what several operations need of them. Written once for all machines: `S` says
//! how many numbers the vector instructions of this one take at a time ([`pulp::Simd`]), `#[with_simd]` on an operation
//! finds out which there are. All of it must be inlined into such an operation, or it is compiled for the oldest machine.

use pulp::Simd;

/// A chunk of a slice, filled up with zeros.
#[inline(always)]
pub(crate) fn load<S: Simd>(simd: S, chunk: &[f32]) -> S::f32s {
    match S::as_simd_f32s(chunk).0 {
        [whole, ..] => *whole,
        [] => simd.partial_load_f32s(chunk),
    }
}

/// As many numbers as the chunk of a slice has.
#[inline(always)]
pub(crate) fn store<S: Simd>(simd: S, chunk: &mut [f32], vector: S::f32s) {
    match S::as_mut_simd_f32s(chunk).0 {
        [whole, ..] => *whole = vector,
        [] => simd.partial_store_f32s(chunk, vector),
    }
}

/// A vector whose numbers after the first `count` are replaced by `rest`.
#[inline(always)]
pub(crate) fn first<S: Simd>(simd: S, count: usize, vector: S::f32s, rest: f32) -> S::f32s {
    if count >= S::F32_LANES {
        return vector;
    }
    simd.select_f32s(simd.mask_between_m32s(0, count as u32).mask(), vector, simd.splat_f32s(rest))
}

#[inline(always)]
pub(crate) fn sum<S: Simd>(simd: S, x: &[f32]) -> f32 {
    let mut sums = simd.splat_f32s(0.0);
    for x in x.chunks(S::F32_LANES) {
        sums = simd.add_f32s(sums, load(simd, x));
    }
    simd.reduce_sum_f32s(sums)
}

/// Σ x y.
#[inline(always)]
pub(crate) fn dot<S: Simd>(simd: S, x: &[f32], y: &[f32]) -> f32 {
    let mut sums = simd.splat_f32s(0.0);
    for (x, y) in x.chunks(S::F32_LANES).zip(y.chunks(S::F32_LANES)) {
        sums = simd.mul_add_e_f32s(load(simd, x), load(simd, y), sums);
    }
    simd.reduce_sum_f32s(sums)
}

/// The largest number; of none, negative infinity.
#[inline(always)]
pub(crate) fn max<S: Simd>(simd: S, x: &[f32]) -> f32 {
    let mut largest = simd.splat_f32s(f32::NEG_INFINITY);
    for x in x.chunks(S::F32_LANES) {
        largest = simd.max_f32s(largest, first(simd, x.len(), load(simd, x), f32::NEG_INFINITY));
    }
    simd.reduce_max_f32s(largest)
}

/// y += x.
#[inline(always)]
pub(crate) fn add(y: &mut [f32], x: &[f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += x;
    }
}

/// x *= factor.
#[inline(always)]
pub(crate) fn scale(x: &mut [f32], factor: f32) {
    for x in x {
        *x *= factor;
    }
}

/// x becomes e^(slope (x - largest)); the sum of these.
#[inline(always)]
pub(crate) fn exponentials<S: Simd>(simd: S, x: &mut [f32], slope: f32, largest: f32) -> f32 {
    let (slope, largest) = (simd.splat_f32s(slope), simd.splat_f32s(largest));
    let mut sums = simd.splat_f32s(0.0);
    for x in x.chunks_mut(S::F32_LANES) {
        let power = exp(simd, simd.mul_f32s(slope, simd.sub_f32s(load(simd, x), largest)));
        sums = simd.add_f32s(sums, first(simd, x.len(), power, 0.0));
        store(simd, x, power);
    }
    simd.reduce_sum_f32s(sums)
}

/// The polynomial Σ c_i x^i.
#[inline(always)]
pub(crate) fn polynomial<S: Simd, const N: usize>(simd: S, x: S::f32s, coefficients: [f32; N]) -> S::f32s {
    let mut value = simd.splat_f32s(coefficients[N - 1]);
    for nth in (0..N - 1).rev() {
        value = simd.mul_add_e_f32s(x, value, simd.splat_f32s(coefficients[nth]));
    }
    value
}

/// e^x for x of at most 0 or a little more, within 3e-7 of it relatively; far below, about 1e-38 instead of less.
///
/// x = n ln 2 + r with a whole number n and |r| <= ln 2 / 2, so that e^x = 2^n e^r. e^r is a polynomial, and 2^n is n in
/// the exponent's bits. ln 2 is subtracted in two parts (Cody and Waite 1980), or r would lose digits.
#[inline(always)]
#[allow(clippy::excessive_precision)]
pub(crate) fn exp<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    const LN_2: [f32; 2] = [0.693_359_375, -2.121_944_4e-4];
    // A number so large that whole numbers are all that f32 has there: adding it rounds.
    const ROUND: f32 = 12_582_912.0;
    // Of least relative error on |r| <= ln 2 / 2.
    const POWERS: [f32; 5] = [0.499_999_93, 0.166_665_15, 4.166_845_7e-2, 8.369_419e-3, 1.381_314_3e-3];
    let number = |value: f32| simd.splat_f32s(value);
    // In this form NaN stays NaN.
    let x = simd.select_f32s(simd.less_than_f32s(x, number(-87.0)), number(-87.0), x);
    let x = simd.select_f32s(simd.greater_than_f32s(x, number(88.0)), number(88.0), x);
    let shifted = simd.mul_add_e_f32s(x, number(std::f32::consts::LOG2_E), number(ROUND));
    let n = simd.sub_f32s(shifted, number(ROUND));
    let r = simd.mul_add_e_f32s(n, number(-LN_2[0]), x);
    let r = simd.mul_add_e_f32s(n, number(-LN_2[1]), r);
    let tail = polynomial(simd, r, POWERS);
    let part = simd.add_f32s(number(1.0), simd.mul_add_e_f32s(simd.mul_f32s(r, r), tail, r));
    let exponent = simd.wrapping_dyn_shl_u32s(simd.transmute_u32s_f32s(shifted), simd.splat_u32s(23));
    let power = simd.add_u32s(exponent, simd.splat_u32s(1f32.to_bits()));
    simd.mul_f32s(part, simd.transmute_f32s_u32s(power))
}

#[cfg(test)]
mod tests {
    use pulp::{Arch, WithSimd};

    use super::*;

    /// The results of several functions on vectors of one width.
    struct Results<'a>(&'a [f32], &'a [f32]);

    impl WithSimd for Results<'_> {
        type Output = ([f32; 3], Vec<f32>);

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) -> Self::Output {
            let Self(x, y) = self;
            let mut powers = x.to_vec();
            for chunk in powers.chunks_mut(S::F32_LANES) {
                let power = exp(simd, load(simd, chunk));
                store(simd, chunk, power);
            }
            ([sum(simd, x), dot(simd, x, y), max(simd, x)], powers)
        }
    }

    /// On the widest vectors of the machine, narrower ones, and none.
    fn on_each_machine(x: &[f32], y: &[f32]) -> Vec<([f32; 3], Vec<f32>)> {
        let results = || Results(x, y);
        vec![
            Arch::new().dispatch(results()),
            Simd::vectorize(pulp::Scalar256b, results()),
            Simd::vectorize(pulp::Scalar128b, results()),
            Simd::vectorize(pulp::Scalar, results()),
        ]
    }

    #[test]
    fn sums_of_any_length() {
        for count in 0..70 {
            let x: Vec<f32> = (0..count).map(|i| (i as f32 * 0.7).sin() - 2.0).collect();
            let y: Vec<f32> = (0..count).map(|i| (i as f32 * 0.3).cos()).collect();
            for ([sum, dot, max], _) in on_each_machine(&x, &y) {
                let exact: f64 = x.iter().map(|&x| f64::from(x)).sum();
                assert!((f64::from(sum) - exact).abs() < 1e-4);
                let exact: f64 = x.iter().zip(&y).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum();
                assert!((f64::from(dot) - exact).abs() < 1e-4);
                assert_eq!(max, x.iter().copied().fold(f32::NEG_INFINITY, f32::max));
            }
        }
    }

    #[test]
    fn exp_is_right_to_six_digits() {
        let x: Vec<f32> = (-870_000..=200_000).map(|step| step as f32 * 1e-4).collect();
        for (_, powers) in on_each_machine(&x, &[]) {
            for (&x, power) in x.iter().zip(powers) {
                let exact = f64::from(x).exp();
                assert!((f64::from(power) / exact - 1.0).abs() < 3e-7, "e^{x}: {power}, not {exact}");
            }
        }
        for (_, powers) in on_each_machine(&[f32::NEG_INFINITY, -1e30, 0.0, f32::NAN], &[]) {
            assert!(powers[0] < 2e-38 && powers[1] >= 0.0 && powers[2] == 1.0 && powers[3].is_nan(), "{powers:?}");
        }
    }
}
