//! Takes a seed and a place in the model, gives the factor of dropout there. The draw is a function of its place, not
//! of what was drawn before, so that any order of computation, and a backward pass that does not store the masks,
//! gets the same factors.
//!
//! Source of the method: Srivastava et al. 2014, "Dropout" (in the inverted form: kept units are scaled up in
//! training, so that evaluation needs no scaling). The places are those of BERT's released code.

/// One place of the model where units are dropped. Rows count the tokens of the unpadded batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Site {
    /// After the LayerNorm of the embeddings.
    Embeddings,
    /// The attention probabilities of a layer: a row is a query token and head, a column a key's position.
    Attention(usize),
    /// The attention block's output in a layer, before the residual sum.
    AttentionOutput(usize),
    /// The feed-forward block's output in a layer, before the residual sum.
    Output(usize),
}

impl Site {
    fn number(self) -> u64 {
        match self {
            Site::Embeddings => 0,
            Site::Attention(layer) => 3 * layer as u64 + 1,
            Site::AttentionOutput(layer) => 3 * layer as u64 + 2,
            Site::Output(layer) => 3 * layer as u64 + 3,
        }
    }
}

/// The dropout of one row of units: 0 with the given probability, else 1 / (1 - probability).
#[derive(Clone, Copy, Debug)]
pub(crate) struct RowDropout {
    key: u64,
    threshold: u32,
    scale: f32,
}

impl RowDropout {
    #[inline(always)]
    pub(crate) fn new(seed: u64, site: Site, row: u64, probability: f64) -> Self {
        let key = mix64(seed ^ mix64(site.number() ^ mix64(row)));
        let threshold = (probability * 2f64.powi(32)) as u32;
        Self { key, threshold, scale: (1.0 / (1.0 - probability)) as f32 }
    }

    #[inline(always)]
    pub(crate) fn factor(&self, column: u32) -> f32 {
        let draw = mix32(self.key as u32 ^ column.wrapping_mul(0x9e37_79b9)) ^ (self.key >> 32) as u32;
        if draw < self.threshold { 0.0 } else { self.scale }
    }

    /// Multiplies the units of the row by their factors.
    #[inline(always)]
    pub(crate) fn apply(&self, units: &mut [f32]) {
        for (column, unit) in units.iter_mut().enumerate() {
            *unit *= self.factor(column as u32);
        }
    }
}

/// The finaliser of SplitMix64 (Steele, Lea and Flood 2014).
#[inline(always)]
fn mix64(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// The 32-bit hash of least bias in Wellons' 2018 search ("Prospecting for hash functions").
#[inline(always)]
fn mix32(value: u32) -> u32 {
    let value = (value ^ (value >> 16)).wrapping_mul(0x7feb_352d);
    let value = (value ^ (value >> 15)).wrapping_mul(0x846c_a68b);
    value ^ (value >> 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_at_the_given_rate_everywhere() {
        let (rows, columns) = (1000u64, 256u32);
        for probability in [0.1, 0.5] {
            let factors: Vec<f32> = (0..rows)
                .flat_map(|row| {
                    let dropout = RowDropout::new(7, Site::Output(1), row, probability);
                    (0..columns).map(move |column| dropout.factor(column))
                })
                .collect();
            let count = factors.len() as f64;
            let sigma = (probability * (1.0 - probability) / count).sqrt();
            let dropped = factors.iter().filter(|&&factor| factor == 0.0).count() as f64 / count;
            assert!((dropped - probability).abs() < 5.0 * sigma, "{dropped} of {probability} dropped");
            // Neighbours in a row and in a column are dropped together no more often than by chance.
            for step in [1, columns as usize] {
                let pairs = factors.iter().zip(&factors[step..]);
                let both = pairs.filter(|&(&a, &b)| a == 0.0 && b == 0.0).count() as f64 / count;
                assert!((both - probability * probability).abs() < 5.0 * sigma, "{both} of pairs at {step}");
            }
            assert!(factors.iter().all(|&f| f == 0.0 || (f - 1.0 / (1.0 - probability as f32)).abs() < 1e-6));
        }
    }

    #[test]
    fn differs_between_seeds_sites_and_rows() {
        let row = |seed, site, row| -> Vec<bool> {
            let dropout = RowDropout::new(seed, site, row, 0.5);
            (0..64).map(|column| dropout.factor(column) == 0.0).collect()
        };
        let first = row(1, Site::Embeddings, 0);
        assert_eq!(first, row(1, Site::Embeddings, 0));
        for other in [row(2, Site::Embeddings, 0), row(1, Site::Attention(0), 0), row(1, Site::Embeddings, 1)] {
            assert_ne!(first, other);
        }
    }
}
