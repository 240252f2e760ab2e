//! What a training loop is made of, the loop itself standing in the notebook; and one that runs without a notebook and can
//! be stopped at any moment:
//!
//! ```text
//! optimizer, history -> checkpoint (a state in a file) -> run (the loop)
//! ```

pub(crate) mod checkpoint;
pub(crate) mod history;
pub(crate) mod optimizer;
pub(crate) mod run;
