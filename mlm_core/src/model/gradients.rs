//! The gradient of the loss for each weight: filled by an encoder's backward pass, shortened by clipping, used by
//! [`crate::training::optimizer`].

use std::fmt;
use std::sync::Arc;

use candle_core::{Device, Tensor};

use crate::error::{Error, Result};
use crate::model::params::Table;
use crate::model::weights::{Values, Weights};

/// The gradient of the loss for each weight, one after the other in the order of [`crate::Params::names`], in the
/// precision of the encoder. Made once, and written anew by each [`crate::Encoder::backward`].
#[derive(Clone)]
pub struct Gradients {
    table: Arc<Table>,
    values: Values,
    /// What all values are to be multiplied by: clipping only notes it, the optimizer multiplies as it reads.
    factor: f64,
    /// The root of the sum of the values' squares, where the encoder knows it.
    norm: Option<f64>,
}

impl fmt::Debug for Gradients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gradients {{ tensors: {}, norm: {} }}", self.table.entries().len(), self.norm())
    }
}

impl Gradients {
    /// Room for the gradients of an encoder, all 0.
    ///
    /// # Errors
    /// When the encoder's precision is neither f32 nor f64.
    pub fn zeros(encoder: &dyn Weights) -> Result<Self> {
        let table = Arc::clone(encoder.table());
        let values = Values::zeros(encoder.dtype(), table.parameters())?;
        Ok(Self { table, values, factor: 1.0, norm: None })
    }

    /// The names of the weights.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.table.names()
    }

    /// The gradient of one weight, by its name, as a tensor of the weight's shape.
    ///
    /// # Errors
    /// When the model has no weight of that name.
    pub fn get(&self, name: &str) -> Result<Tensor> {
        let entry = self.table.get(name)?;
        let (range, shape) = (entry.range.clone(), entry.shape.as_slice());
        let gradient = match &self.values {
            Values::F32(values) => Tensor::from_slice(&values[range], shape, &Device::Cpu)?,
            Values::F64(values) => Tensor::from_slice(&values[range], shape, &Device::Cpu)?,
        };
        Ok((gradient * self.factor)?)
    }

    /// The length of the vector of all gradients together.
    pub fn norm(&self) -> f64 {
        self.norm.unwrap_or_else(|| self.values.norm()) * self.factor
    }

    /// Shortens the vector of all gradients together to `max_norm` if it is longer, and returns its length before
    /// (Pascanu et al. 2013, "On the difficulty of training recurrent neural networks", section 3.2).
    ///
    /// # Errors
    /// When `max_norm` is not positive, or the norm is not finite: the step before was too large.
    pub fn clip(&mut self, max_norm: f64) -> Result<f64> {
        if max_norm.is_nan() || max_norm <= 0.0 {
            return Err(Error::argument("max_norm", "a positive number", max_norm));
        }
        let norm = self.norm();
        if !norm.is_finite() {
            return Err(Error::argument("gradients", "a finite norm (try a smaller learning rate)", norm));
        }
        // PyTorch's clip_grad_norm_ adds the same 1e-6.
        self.factor *= (max_norm / (norm + 1e-6)).min(1.0);
        Ok(norm)
    }

    /// The values, and what they are to be multiplied by.
    pub(crate) fn values(&self) -> (&Values, f64) {
        (&self.values, self.factor)
    }

    /// The values, to be written anew for the encoder that they belong to.
    ///
    /// # Errors
    /// When they are another model's.
    pub(crate) fn values_mut(&mut self, encoder: &dyn Weights) -> Result<&mut Values> {
        if self.values.dtype() != encoder.dtype() || !encoder.table().eq(&self.table) {
            let expected = format!("room for the gradients of this encoder ({:?})", encoder.dtype());
            let actual = format!("{} numbers for another ({:?})", self.table.parameters(), self.values.dtype());
            return Err(Error::argument("gradients", expected, actual));
        }
        (self.factor, self.norm) = (1.0, None);
        Ok(&mut self.values)
    }

    /// Notes the norm of the values that have just been written, so that it need not be computed.
    pub(crate) fn note_norm(&mut self, norm: f64) {
        self.norm = Some(norm);
    }

    pub(crate) fn table(&self) -> &Arc<Table> {
        &self.table
    }
}
