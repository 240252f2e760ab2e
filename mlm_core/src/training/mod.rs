//! What a training loop is made of, the loop itself standing in the notebook; and one that runs without a notebook and can
//! be stopped at any moment:
//!
//! ```text
//! optimizer, history, curve, folder -> checkpoint (a state in a file) -> preparation, progress, texts -> ranks -> run (the loop)
//!     -> background (in a thread)
//! ```

pub(crate) mod background;
pub(crate) mod checkpoint;
pub(crate) mod curve;
pub(crate) mod folder;
pub(crate) mod history;
pub(crate) mod optimizer;
pub(crate) mod preparation;
pub(crate) mod progress;
pub(crate) mod ranks;
pub(crate) mod run;
pub(crate) mod texts;
