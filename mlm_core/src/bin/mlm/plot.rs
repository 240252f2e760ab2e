//! `mlm plot`: the curves of some runs in one figure.

use std::path::PathBuf;

use clap::Args;
use mlm_core::*;

/// Draw the losses of runs over their epochs, one over the other.
#[derive(Args)]
#[command(after_help = "Example: mlm plot runs/lab runs/slower --out loss.png")]
pub(crate) struct Plot {
    /// Folders with a history.jsonl, as `mlm train` and the notebooks write them
    #[arg(required = true, value_name = "DIR")]
    runs: Vec<PathBuf>,
    /// The figure, an .svg, a .png or an .html
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

impl Plot {
    /// What the figure shows, in words.
    pub(crate) fn run(&self) -> Result<String> {
        let histories = self.runs.iter().map(History::load).collect::<Result<Vec<_>>>()?;
        plot::loss_curve(&histories.iter().collect::<Vec<_>>())?.save(&self.out)?;
        let runs = if histories.len() == 1 { "run" } else { "runs" };
        Ok(format!("{}: the losses of {} {runs}\n", self.out.display(), histories.len()))
    }
}
