//! Losses over epochs, with the lines of what counting achieves.

use plotters::prelude::*;

use super::axis::Axis;
use super::lines::{self, Line, Marks};
use super::{RUNS, extremes, mean};
use crate::analysis::baselines::Baselines;
use crate::error::{Error, Result};
use crate::figures::figure::Figure;
use crate::training::background::Run;
use crate::training::history::{EpochRecord, History};
use crate::training::progress::RunProgress;

/// Colour, dash and space of the lines of baselines: the more is known, the darker and closer.
const RULES: [(RGBColor, (u32, u32)); 4] = [
    (RGBColor(140, 149, 159), (2, 6)),
    (RGBColor(101, 109, 118), (2, 4)),
    (RGBColor(101, 109, 118), (6, 4)),
    (RGBColor(36, 41, 47), (2, 2)),
];

/// Draws the loss of one or several runs over their epochs, in nats per masked token: training as a line, whose points are means
/// over an epoch and stand in its middle, validation dashed; and as dotted lines the [`Baselines`] of the first run that has them.
///
/// # Errors
/// When no run has a record.
pub fn loss_curve(runs: &[&History]) -> Result<Figure> {
    let in_the_middle = |(epoch, loss): (f64, f64)| ((epoch - 0.5).max(0.0), loss);
    let lines = runs.iter().map(|run| Losses {
        name: run.name(),
        train: points(run, |record| record.train_loss).map(in_the_middle).collect(),
        dots: true,
        validation: points(run, |record| record.validation_loss).collect(),
    });
    let last = runs.iter().filter_map(|run| run.records().last()).map(|record| record.epoch).max();
    let last = last.ok_or_else(|| Error::argument("runs", "at least one run with a recorded loss", "none"))?;
    let described: Vec<String> = (runs.iter())
        .filter_map(|run| {
            let losses: Vec<_> = points(run, |record| record.train_loss.or(record.validation_loss)).collect();
            let (first, last) = (losses.first()?, losses.last()?);
            Some(format!("{} from {:.2} (epoch {}) to {:.2} (epoch {})", run.name(), first.1, first.0, last.1, last.0))
        })
        .collect();
    let description = format!("Loss in nats per masked token over epochs: {}.", described.join("; "));
    let baselines = runs.iter().find_map(|run| run.baselines());
    losses(&lines.collect::<Vec<_>>(), baselines, last as f64, description)
}

/// Draws the loss of one or several trainings that are going on over their epochs, in nats per masked token: of the batches as a
/// line, of validation dashed; and as dotted lines the [`Baselines`] of the first one that has them.
///
/// # Errors
/// When it cannot be drawn.
pub fn progress(runs: &[&RunProgress]) -> Result<Figure> {
    let epochs = |run: &RunProgress, steps: f64| steps / run.steps_per_epoch.max(1) as f64;
    let lines = runs.iter().map(|run| Losses {
        name: run.history.name(),
        train: run.curve.points(run.step).into_iter().map(|(step, loss)| (epochs(run, step), loss)).collect(),
        dots: false,
        validation: thinned(&points(&run.history, |record| record.validation_loss).collect::<Vec<_>>()),
    });
    let last = runs.iter().map(|run| epochs(run, run.steps as f64)).fold(0.0, f64::max);
    let described: Vec<String> = runs.iter().map(|run| format!("{}: {run}", run.history.name())).collect();
    let description = format!("Loss in nats per masked token over epochs. {}.", described.join("; "));
    let baselines = runs.iter().find_map(|run| run.history.baselines());
    losses(&lines.collect::<Vec<_>>(), baselines, last, description)
}

impl Run {
    /// The losses so far, see [`progress`].
    ///
    /// # Errors
    /// When they cannot be drawn.
    pub fn plot(&self) -> Result<Figure> {
        progress(&[&self.progress()])
    }
}

/// The losses of a run over its epochs.
struct Losses<'a> {
    name: &'a str,
    train: Vec<(f64, f64)>,
    /// Whether each point is marked.
    dots: bool,
    validation: Vec<(f64, f64)>,
}

fn losses(runs: &[Losses<'_>], baselines: Option<&Baselines>, last: f64, mut description: String) -> Result<Figure> {
    if let Some(baselines) = baselines {
        description += &format!(" Loss {baselines}.");
    }
    let several = runs.len() > 1;
    let mut lines = Vec::new();
    for (run, colour) in runs.iter().zip(RUNS.into_iter().cycle()) {
        let mut line = |what: &str, points: &[(f64, f64)], dashes, marks| {
            let name = if several { format!("{}: {what}", run.name) } else { what.to_owned() };
            lines.push(Line { name, points: points.to_vec(), colour, dashes, marks, band: Vec::new() });
        };
        line("training", &run.train, None, if run.dots { Marks::Dots(3) } else { Marks::None });
        let rings = if run.validation.len() <= MOST_RINGS { Marks::Rings } else { Marks::None };
        line("validation", &run.validation, Some((7, 5)), rings);
    }
    lines.extend(rules(baselines, (0.0, last)));
    let losses = lines.iter().flat_map(|line| &line.points).map(|&(_, loss)| loss);
    let highest = losses.max_by(f64::total_cmp).unwrap_or(1.0);
    lines::figure(&lines, epochs(0.0, last), losses_to(highest), description)
}

/// Draws how the validation loss falls in groups of runs that differ in their seed: the mean of a group as a line, a band from
/// its lowest to its highest run, after each epoch that all of them have; and as dotted lines the [`Baselines`] of the first
/// run that has them, those that are not above all losses.
///
/// # Errors
/// When there is no group, or one without an epoch that all of its runs have tested.
pub fn loss_bands<S: AsRef<str>>(groups: &[(S, Vec<History>)]) -> Result<Figure> {
    if groups.is_empty() {
        return Err(Error::argument("groups", "at least one", "none"));
    }
    let mut bands = Vec::new();
    for (name, runs) in groups {
        let name = name.as_ref();
        let tested: Vec<Vec<_>> =
            runs.iter().map(|run| points(run, |record| record.validation_loss).collect()).collect();
        let after = |epoch| -> Option<Vec<f64>> {
            tested.iter().map(|points| points.iter().find(|point| point.0 == epoch).map(|point| point.1)).collect()
        };
        let epochs = tested.first().into_iter().flatten().map(|point| point.0).filter(|&epoch| epoch > 0.0);
        let band: Vec<(f64, Vec<f64>)> = epochs.filter_map(|epoch| Some((epoch, after(epoch)?))).collect();
        if band.is_empty() {
            return Err(Error::argument("groups", "runs that were tested after an epoch", format!("none in {name:?}")));
        }
        bands.push((name, band));
    }
    let lowest = |losses: &[f64]| extremes(losses.iter().copied()).0;
    let highest = |losses: &[f64]| extremes(losses.iter().copied()).1;
    let all = || bands.iter().flat_map(|(_, band)| band);
    let (_, top) = extremes(all().map(|(_, losses)| highest(losses)));
    let (_, last) = extremes(all().map(|&(epoch, _)| epoch));
    let described: Vec<String> = (bands.iter())
        .filter_map(|(name, band)| {
            let (epoch, losses) = band.last()?;
            let runs = losses.len();
            Some(format!(
                "{name} {:.3} after epoch {epoch} (mean of {runs} runs, {:.3} to {:.3})",
                mean(losses),
                lowest(losses),
                highest(losses)
            ))
        })
        .collect();

    let mut lines = Vec::new();
    for ((name, band), colour) in bands.iter().zip(RUNS.into_iter().cycle()) {
        let edge = |of: &dyn Fn(&[f64]) -> f64| -> Vec<_> {
            band.iter().map(|(epoch, losses)| (*epoch, of(losses))).collect()
        };
        let outline = edge(&highest).into_iter().chain(edge(&lowest).into_iter().rev()).collect();
        let (name, points) = ((*name).to_owned(), edge(&mean));
        lines.push(Line { name, points, colour, dashes: None, marks: Marks::None, band: outline });
    }
    let last = last.max(2.0);
    let baselines = groups.iter().flat_map(|(_, runs)| runs).find_map(History::baselines);
    lines.extend(rules(baselines, (1.0, last)).filter(|rule| rule.points.iter().all(|&(_, loss)| loss <= top)));
    let description = format!("Validation loss in nats per masked token: {}.", described.join("; "));
    lines::figure(&lines, epochs(1.0, last), losses_to(top), description)
}

/// An axis of epochs, and its name.
fn epochs(from: f64, to: f64) -> (&'static str, Axis) {
    ("epoch", Axis::linear(from, to.max(from + 1e-3), 1.0))
}

/// An axis of losses up to one, and its name.
fn losses_to(highest: f64) -> (&'static str, Axis) {
    ("loss (nats per masked token)", Axis::linear(0.0, highest.max(1e-3) * 1.05, 0.0))
}

/// The lines of baselines from one epoch to another.
fn rules(baselines: Option<&Baselines>, (from, to): (f64, f64)) -> impl Iterator<Item = Line> {
    let all = baselines.map(|baselines| {
        [
            ("unigram", Some(baselines.unigram.loss)),
            ("neighbours", Some(baselines.neighbours.loss)),
            ("neighbours at best", baselines.best_neighbours.as_ref().map(|of| of.loss)),
            ("floor", baselines.floor.as_ref().map(|of| of.loss)),
        ]
    });
    all.into_iter().flatten().zip(RULES).filter_map(move |((name, loss), (colour, dashes))| {
        let loss = loss?;
        let (name, points) = (format!("{name} {loss:.2}"), vec![(from, loss), (to, loss)]);
        Some(Line { name, points, colour, dashes: Some(dashes), marks: Marks::None, band: Vec::new() })
    })
}

fn points(run: &History, loss: impl Fn(&EpochRecord) -> Option<f64>) -> impl Iterator<Item = (f64, f64)> {
    run.records().iter().filter_map(move |record| Some((record.epoch as f64, loss(record)?)))
}

/// Not many more points than can be told apart, the last one among them.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let mut kept: Vec<_> = points.iter().copied().rev().step_by(points.len().div_ceil(MOST_POINTS).max(1)).collect();
    kept.reverse();
    kept
}

/// The most points of a line, and of one on which each is marked by a ring.
const MOST_POINTS: usize = 400;
const MOST_RINGS: usize = 40;
