//! What a model has learned, in numbers.

pub(crate) mod evaluate;
pub(crate) mod predict;
