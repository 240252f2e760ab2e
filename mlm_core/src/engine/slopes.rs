//! Takes an operation, checks its way back against finite differences.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Half the distance between the two points that a slope is measured between: small enough for the operation to be
/// straight between them, large enough for their difference to be more than rounding.
const NUDGE: f32 = 1e-2;

/// With L = Σ weights · outputs for random weights, checks that the operation's gradient of L for each input is the
/// slope of L there. `operation` takes all inputs, one after the other, and the weights, which are as many as it likes;
/// it gives all outputs and, in the order of the inputs, the gradient.
#[track_caller]
pub(crate) fn check(name: &str, inputs: &[f32], operation: impl Fn(&[f32], &[f32]) -> (Vec<f32>, Vec<f32>)) {
    let mut rng = StdRng::seed_from_u64(1);
    let weights: Vec<f32> = (0..10_000).map(|_| rng.random_range(-1.0..1.0)).collect();
    let loss = |inputs: &[f32]| -> f64 {
        let outputs = operation(inputs, &weights).0;
        assert!(outputs.len() <= weights.len(), "{name}: too many outputs");
        outputs.iter().zip(&weights).map(|(&y, &weight)| f64::from(y) * f64::from(weight)).sum()
    };
    let gradient = operation(inputs, &weights).1;
    assert_eq!(gradient.len(), inputs.len(), "{name}: an entry of the gradient for each input");
    let scale = gradient.iter().fold(0f32, |largest, value| largest.max(value.abs()));
    assert!(scale > 0.0, "{name}: no gradient");
    for at in 0..inputs.len() {
        let [above, below] = [NUDGE, -NUDGE].map(|nudge| {
            let mut inputs = inputs.to_vec();
            inputs[at] += nudge;
            (loss(&inputs), f64::from(inputs[at]))
        });
        let slope = (above.0 - below.0) / (above.1 - below.1);
        let error = (slope - f64::from(gradient[at])).abs() / f64::from(scale);
        assert!(error < 1e-3, "{name}, input {at}: slope {slope}, gradient {}, largest {scale}", gradient[at]);
    }
}

/// Random numbers between -1 and 1.
pub(crate) fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut rng = StdRng::seed_from_u64(seed);
    (0..count).map(|_| rng.random_range(-1.0..1.0)).collect()
}
