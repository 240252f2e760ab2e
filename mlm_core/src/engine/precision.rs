/// What an [`crate::Engine`] rounds the factors of its large products to. Weights, sums, LayerNorm, attention, loss and
/// optimizer are in f32 either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Precision {
    /// Not at all.
    #[default]
    F32,
    /// To bf16, which has as large numbers as f32 but only 8 binary digits: many times as fast as f32 with instructions
    /// made for it (AVX-512 BF16), and no faster without them.
    Bf16,
}
