//! What an optimizer needs of an encoder, whichever back end it is: its weights as one flat buffer in f32 or f64. Their
//! gradients and moments are buffers of the same form.

use std::sync::Arc;

use candle_core::DType;

use crate::error::{Error, Result};
use crate::model::params::Table;

/// Weights that can be trained.
pub trait Weights {
    /// Name, shape and place of each weight.
    fn table(&self) -> &Arc<Table>;

    /// Their precision, F32 or F64.
    fn dtype(&self) -> DType;

    /// Lets `rule` change them; they lie one after the other in the order of [`crate::Params::names`].
    ///
    /// # Errors
    /// When the device that they are on fails.
    fn update(&mut self, rule: &mut dyn FnMut(WeightsMut<'_>)) -> Result<()>;
}

/// One number for each parameter.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Values {
    F32(Vec<f32>),
    F64(Vec<f64>),
}

/// All weights, to be changed.
#[derive(Debug)]
pub enum WeightsMut<'a> {
    F32(&'a mut [f32]),
    F64(&'a mut [f64]),
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

    /// The root of the sum of squares.
    pub(crate) fn norm(&self) -> f64 {
        match self {
            Self::F32(values) => norm(values),
            Self::F64(values) => norm(values),
        }
    }
}

/// Sums in f64, in lanes that the compiler turns into vectors.
fn norm<T: Copy + Into<f64>>(values: &[T]) -> f64 {
    const LANES: usize = 16;
    let mut lanes = [0f64; LANES];
    pulp::Arch::new().dispatch(|| {
        for chunk in values.chunks(LANES) {
            for (lane, &value) in lanes.iter_mut().zip(chunk) {
                let value: f64 = value.into();
                *lane += value * value;
            }
        }
    });
    lanes.iter().sum::<f64>().sqrt()
}
