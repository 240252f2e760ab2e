//! Initial weights that know of places: takes weights drawn as BERT's, and lets the heads of the first layer start by looking
//! at the neighbours of each token; what becomes of it is left to training.

use std::f64::consts::SQRT_2;

use serde::Serialize;

use crate::model::names::{self, LayerNames};
use crate::model::params::Params;

/// How many places to the right the heads look, in turns.
const OFFSETS: [f64; 4] = [-1.0, 1.0, -2.0, 2.0];

/// The slowest wave of the position embeddings is about this many times as long as the fastest. Vaswani et al. (2017) take
/// 10,000, for longer texts than sentences.
const BASE: f64 = 100.0;

/// How much larger position embeddings are than all others, so that after LayerNorm a place can be told whatever the word.
const POSITION_SCALE: f64 = 2.0;

/// What query and key multiply a wave with is this, divided by the fourth root of the width of a head: the score of the
/// place that a head looks at is then about 6, whatever the width.
const SHARPNESS: f64 = 3.0;

/// What the weights are at the start of a training.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum Initialization {
    /// Those of BERT: nothing but noise
    ///
    /// See [`Params::init`].
    Noise,
    /// The same, but the heads of the first layer look at the neighbours of a token
    ///
    /// See [`Params::look_nearby`].
    #[default]
    Nearby,
}

impl Params {
    /// Lets each head of the first layer look nearby: the first head at what is just left of a token, the second just right,
    /// the next two two places to the left and to the right, and so on in turns. (The view is not sharp. A head looks at the
    /// places around that one, at the token itself, which is like itself, and hardly at the other side.)
    ///
    /// Weights that are noise let every token look at all others alike, so a model must find out in one go that order
    /// matters, which places matter, and what stands there: until then it cannot do better than guessing by how frequent the
    /// words are, and the loss stands still. With this start it only has to learn what to make of its neighbours.
    ///
    /// Position embeddings become waves (Vaswani et al. 2017, section 3.5): with `w_i = 100^(-2i / d_model)` and `s` twice the
    /// `initializer_range`, place `t` has `√2 s sin(w_i t)` and `√2 s cos(w_i t)` at `2i` and `2i + 1`. To each head's
    /// random query and key of the first layer are added matrices that take some of these pairs as they are (key), and
    /// rotated by `w_i δ` (query). To the score of the places `t` and `u` they add a sum of `cos(w_i (u - t - δ))`, which is
    /// largest where `u = t + δ`. Su et al. (2021) rotate by the place instead, in every pass.
    ///
    /// These are initial values and nothing else: the model stays a `BertForMaskedLM`, and learns all of them.
    ///
    /// ```
    /// # use mlm_core::{rand::{SeedableRng, rngs::StdRng}, *};
    /// # fn main() -> Result<()> {
    /// let config = ModelConfig { initializer_range: 0.05, ..ModelConfig::new(1000) };
    /// let mut params = Params::init(&config, &mut StdRng::seed_from_u64(0))?;
    /// params.look_nearby();
    /// # Ok(())
    /// # }
    /// ```
    pub fn look_nearby(&mut self) {
        let (d_model, heads, head_dim) = (self.config().d_model, self.config().heads, self.config().head_dim());
        let size = SQRT_2 * POSITION_SCALE * self.config().initializer_range;
        let pairs = d_model / 2;
        let frequency = |pair: usize| BASE.powf(-((2 * pair) as f64) / d_model as f64);

        let positions = self.tensor_mut(names::POSITIONS);
        for (place, row) in positions.chunks_exact_mut(d_model).enumerate() {
            for (pair, values) in row.chunks_exact_mut(2).enumerate() {
                let (sin, cos) = (frequency(pair) * place as f64).sin_cos();
                values.copy_from_slice(&[(size * sin) as f32, (size * cos) as f32]);
            }
        }
        let strength = SHARPNESS / (head_dim as f64).powf(0.25);
        let first = LayerNames::new(0);
        for (name, looks) in [(first.query, true), (first.key, false)] {
            let weights = self.tensor_mut(&names::weight(&name));
            for head in 0..heads {
                for nth in 0..head_dim / 2 {
                    let pair = nth * pairs / (head_dim / 2);
                    let offset = if looks { OFFSETS[head % OFFSETS.len()] } else { 0.0 };
                    let (sin, cos) = (frequency(pair) * offset).sin_cos();
                    let (row, column) = (head * head_dim + 2 * nth, 2 * pair);
                    for (row, rotation) in [(row, [cos, sin]), (row + 1, [-sin, cos])] {
                        for (weight, turned) in weights[row * d_model + column..].iter_mut().zip(rotation) {
                            *weight += (strength * turned) as f32;
                        }
                    }
                }
            }
        }
    }

    fn tensor_mut(&mut self, name: &str) -> &mut [f32] {
        let range = self.table().get(name).expect("every model has it").range.clone();
        &mut self.as_mut_slice()[range]
    }
}
