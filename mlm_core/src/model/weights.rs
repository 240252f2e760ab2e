//! What an optimizer needs of an encoder, whichever back end it is: its weights as one flat buffer in f32 or f64. Their
//! gradients and moments are buffers of the same form.

use std::sync::Arc;

use candle_core::DType;
use pulp::{Simd, with_simd};

use crate::error::{Error, Result};
use crate::model::params::Table;
use crate::vectors::{arch, sum_of};

/// Weights that can be trained: what [`crate::AdamW`] and [`crate::Gradients`] need to know of an [`crate::Encoder`]. Sealed:
/// [`crate::Engine`] and [`crate::Reference`] are all that have it, and the types that it speaks of are the library's own.
///
/// ```
/// # use mlm_core::*;
/// fn optimizer(weights: &dyn Weights) -> Result<AdamW> {
///     AdamW::new(weights, AdamWConfig::default())
/// }
/// ```
pub trait Weights {
    /// Name, shape and place of each weight.
    fn table(&self) -> &Arc<Table>;

    /// Their precision, F32 or F64.
    fn dtype(&self) -> DType;

    /// Lets `rule` change them, all at once or part by part on several threads. The numbers of `gradients` and `moments`
    /// are those of the weights, in the order of [`crate::Params::names`].
    ///
    /// # Errors
    /// When the device that they are on fails.
    fn update(&mut self, gradients: &Values, moments: &mut [Values; 2], rule: Rule<'_>) -> Result<()>;
}

/// One number for each parameter.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    F32(Vec<f32>),
    F64(Vec<f64>),
}

/// What an optimizer does with some weights.
pub type Rule<'a> = &'a (dyn Fn(Part<'_>) + Sync);

/// All weights or some that lie side by side, with what the optimizer keeps for each of them.
#[derive(Debug)]
pub enum Part<'a> {
    F32(Numbers<'a, f32>),
    F64(Numbers<'a, f64>),
}

/// The numbers of a [`Part`], in its precision.
#[derive(Debug)]
pub struct Numbers<'a, T> {
    /// The index of the first weight.
    pub start: usize,
    pub weights: &'a mut [T],
    pub gradients: &'a [T],
    pub moments: [&'a mut [T]; 2],
}

impl Values {
    /// # Errors
    /// When `dtype` is neither F32 nor F64.
    pub(crate) fn zeros(dtype: DType, count: usize) -> Result<Self> {
        match dtype {
            DType::F32 => Ok(Self::F32(vec![0.0; count])),
            DType::F64 => Ok(Self::F64(vec![0.0; count])),
            other => Err(Error::argument("dtype", "F32 or F64", other.as_str())),
        }
    }

    pub(crate) fn dtype(&self) -> DType {
        match self {
            Self::F32(_) => DType::F32,
            Self::F64(_) => DType::F64,
        }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::F64(values) => values.len(),
        }
    }

    /// The root of the sum of squares.
    pub(crate) fn norm(&self) -> f64 {
        match self {
            Self::F32(values) => squared_norm(values).sqrt(),
            Self::F64(values) => squared_norm(values).sqrt(),
        }
    }
}

/// The sum of squares.
#[with_simd(squared_norm = arch())]
#[inline(always)]
pub(crate) fn squared_norm_simd<S: Simd, T: Copy + Into<f64>>(_simd: S, values: &[T]) -> f64 {
    sum_of(values, |value| value.into() * value.into())
}
