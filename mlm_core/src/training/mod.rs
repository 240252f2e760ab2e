//! What a training loop is made of; the loop itself stands in the notebook.

pub(crate) mod history;
pub(crate) mod optimizer;
