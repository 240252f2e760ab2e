//! Losses over epochs and steps, with the lines of what counting achieves.

use std::ops::Range;

use plotters::coord::Shift;
use plotters::coord::types::{RangedCoordf64, RangedCoordusize};
use plotters::element::DashedPathElement;
use plotters::prelude::*;
use plotters::series::DashedLineSeries;

use super::{RUNS, card, draw_legend, draw_mesh, drawing, extremes, mean};
use crate::analysis::baselines::Baselines;
use crate::error::{Error, Result};
use crate::figures::figure::Figure;
use crate::training::background::Run;
use crate::training::history::{EpochRecord, History};
use crate::training::progress::RunProgress;

/// Colour, dash and space of the lines of baselines: the more is known, the darker and closer.
const RULES: [(RGBColor, u32, u32); 4] = [
    (RGBColor(140, 149, 159), 2, 6),
    (RGBColor(101, 109, 118), 2, 4),
    (RGBColor(101, 109, 118), 6, 4),
    (RGBColor(36, 41, 47), 2, 2),
];

/// Draws the loss of one or several runs over their epochs: training as a line, validation dashed, in nats per masked
/// token; and as dotted lines the [`Baselines`] of the first run that has them.
///
/// # Errors
/// When no run has a record.
pub fn loss_curve(runs: &[&History]) -> Result<Figure> {
    let lines = runs.iter().map(|run| Losses {
        name: run.name(),
        train: points(run, |record| record.train_loss),
        dots: true,
        validation: points(run, |record| record.validation_loss),
    });
    let lines: Vec<_> = lines.collect();
    let Some(last_epoch) = lines
        .iter()
        .flat_map(|run| run.train.last().into_iter().chain(run.validation.last()))
        .map(|&(epoch, _)| epoch)
        .max()
    else {
        return Err(Error::argument("runs", "at least one run with a recorded loss", "none"));
    };
    let described: Vec<String> = (runs.iter())
        .filter_map(|run| {
            let losses = points(run, |record| record.train_loss.or(record.validation_loss));
            let (first, last) = (losses.first()?, losses.last()?);
            Some(format!("{} from {:.2} (epoch {}) to {:.2} (epoch {})", run.name(), first.1, first.0, last.1, last.0))
        })
        .collect();
    let description = format!("Loss in nats per masked token over epochs: {}.", described.join("; "));
    let baselines = runs.iter().find_map(|run| run.baselines());
    losses(&lines, baselines, "epoch", last_epoch, description)
}

/// Draws the loss of one or several trainings that are going on over their steps: of the batches as a line, of validation
/// after each epoch dashed, in nats per masked token; and as dotted lines the [`Baselines`] of the first one that has them.
///
/// # Errors
/// When it cannot be drawn.
pub fn progress(runs: &[&RunProgress]) -> Result<Figure> {
    let lines = runs.iter().map(|run| Losses {
        name: run.history.name(),
        train: run.curve.points(run.step),
        dots: false,
        validation: thinned(&points(&run.history, |record| record.validation_loss))
            .map(|(epoch, loss)| (epoch * run.steps_per_epoch, loss))
            .collect(),
    });
    let last_step = runs.iter().map(|run| run.steps).max().unwrap_or_default();
    let described: Vec<String> = runs.iter().map(|run| format!("{}: {run}", run.history.name())).collect();
    let description = format!("Loss in nats per masked token over steps. {}.", described.join("; "));
    let baselines = runs.iter().find_map(|run| run.history.baselines());
    losses(&lines.collect::<Vec<_>>(), baselines, "step", last_step, description)
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

/// The losses of a run, over epochs or steps.
struct Losses<'a> {
    name: &'a str,
    train: Vec<(usize, f64)>,
    /// Whether each point is marked.
    dots: bool,
    validation: Vec<(usize, f64)>,
}

fn losses(
    runs: &[Losses<'_>],
    baselines: Option<&Baselines>,
    x: &str,
    last: usize,
    mut description: String,
) -> Result<Figure> {
    let points = || runs.iter().flat_map(|run| run.train.iter().chain(&run.validation)).copied();
    if let Some(baselines) = baselines {
        description += &format!(" Loss {baselines}.");
    }
    let rules = rules(baselines);
    let highest = points().map(|(_, loss)| loss).chain(rules.iter().map(|&(_, loss, _)| loss));
    let highest = highest.max_by(f64::total_cmp).unwrap_or(1.0);
    // The loss on text held back may rise to where the legend would be.
    let covers = |(x, loss): (usize, f64)| x as f64 > 0.6 * last as f64 && loss > 0.7 * highest;
    let place = if points().any(covers) { SeriesLabelPosition::MiddleRight } else { SeriesLabelPosition::UpperRight };

    let xs = 0..last.max(1);
    let mut source = String::new();
    {
        let root = card(&mut source, (720, 400))?;
        let mut chart = axes(&root, x, xs.clone(), highest)?;
        for (nth, run) in runs.iter().enumerate() {
            let colour = RUNS[nth % RUNS.len()];
            let line = ShapeStyle::from(&colour).stroke_width(2);
            let Losses { name, train, dots, validation } = run;
            if !train.is_empty() {
                chart
                    .draw_series(LineSeries::new(train.clone(), line))
                    .map_err(drawing)?
                    .label(format!("{name}: training"))
                    .legend(move |(x, y)| PathElement::new([(x, y), (x + 24, y)], line));
                let dots = train.iter().filter(|_| *dots).map(|&point| Circle::new(point, 3, colour.filled()));
                chart.draw_series(dots).map_err(drawing)?;
            }
            if !validation.is_empty() {
                chart
                    .draw_series(DashedLineSeries::new(validation.clone(), 7, 5, line))
                    .map_err(drawing)?
                    .label(format!("{name}: validation"))
                    .legend(move |(x, y)| DashedPathElement::new([(x, y), (x + 24, y)], 7, 5, line));
            }
        }
        draw_rules(&mut chart, &rules, xs)?;
        draw_legend(&mut chart, place)?;
        root.present().map_err(drawing)?;
    }
    Ok(Figure::svg(source, description))
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
        let tested: Vec<_> = runs.iter().map(|run| points(run, |record| record.validation_loss)).collect();
        let after = |epoch| -> Option<Vec<f64>> {
            tested.iter().map(|points| points.iter().find(|&&(of, _)| of == epoch).map(|&(_, loss)| loss)).collect()
        };
        let epochs = tested.first().into_iter().flatten().map(|&(epoch, _)| epoch).filter(|&epoch| epoch > 0);
        let band: Vec<(usize, Vec<f64>)> = epochs.filter_map(|epoch| Some((epoch, after(epoch)?))).collect();
        if band.is_empty() {
            return Err(Error::argument("groups", "runs that were tested after an epoch", format!("none in {name:?}")));
        }
        bands.push((name, band));
    }
    let lowest = |losses: &[f64]| extremes(losses.iter().copied()).0;
    let highest = |losses: &[f64]| extremes(losses.iter().copied()).1;
    let all = || bands.iter().flat_map(|(_, band)| band);
    let top = all().map(|(_, losses)| highest(losses)).fold(f64::NEG_INFINITY, f64::max);
    let last = all().map(|&(epoch, _)| epoch).max().unwrap_or(1);
    let mut rules = rules(groups.iter().flat_map(|(_, runs)| runs).find_map(History::baselines));
    rules.retain(|&(_, loss, _)| loss <= top);
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

    let xs = 1..last.max(2);
    let mut source = String::new();
    {
        let root = card(&mut source, (720, 400))?;
        // The legend, of so many pixels of 324, stands above what is on the right.
        let legend = 28 + 20 * (bands.len() + rules.len());
        let free = 1.0 - legend as f64 / 324.0;
        let late = all().filter(|(epoch, _)| 2 * epoch > last).map(|(_, losses)| highest(losses));
        let late = late.fold(0.0, f64::max);
        let mut chart = axes(&root, "epoch", xs.clone(), top.max(late / free.max(0.2)))?;
        for (nth, (name, band)) in bands.iter().enumerate() {
            let colour = RUNS[nth % RUNS.len()];
            let line = ShapeStyle::from(&colour).stroke_width(2);
            let edge = |of: &dyn Fn(&[f64]) -> f64| -> Vec<_> {
                band.iter().map(|(epoch, losses)| (*epoch, of(losses))).collect()
            };
            let outline = edge(&highest).into_iter().chain(edge(&lowest).into_iter().rev());
            chart.draw_series([Polygon::new(outline.collect::<Vec<_>>(), colour.mix(0.2))]).map_err(drawing)?;
            chart
                .draw_series(LineSeries::new(edge(&mean), line))
                .map_err(drawing)?
                .label(*name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 24, y)], line));
        }
        draw_rules(&mut chart, &rules, xs)?;
        draw_legend(&mut chart, SeriesLabelPosition::UpperRight)?;
        root.present().map_err(drawing)?;
    }
    Ok(Figure::svg(source, format!("Validation loss in nats per masked token: {}.", described.join("; "))))
}

type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordusize, RangedCoordf64>>;

/// Axes for losses up to `highest`.
fn axes<'a, 'b>(
    root: &'a DrawingArea<SVGBackend<'b>, Shift>,
    x: &str,
    xs: Range<usize>,
    highest: f64,
) -> Result<Chart<'a, 'b>> {
    let Range { start, end } = xs;
    let mut chart = ChartBuilder::on(root)
        .margin(16)
        .margin_right(28)
        .x_label_area_size(44)
        .y_label_area_size(60)
        .build_cartesian_2d(start..end, 0.0..highest.max(1e-3) * 1.05)
        .map_err(drawing)?;
    let mut mesh = chart.configure_mesh();
    mesh.x_desc(x)
        .y_desc("loss (nats per masked token)")
        .x_labels((end - start).min(20) + 1)
        .y_labels(8)
        .x_label_formatter(&|x| x.to_string())
        .y_label_formatter(&|loss| format!("{loss:.1}"));
    draw_mesh(&mut mesh)?;
    Ok(chart)
}

/// A line of a baseline: its name, its loss, its look.
type Rule = (&'static str, f64, (RGBColor, u32, u32));

fn rules(baselines: Option<&Baselines>) -> Vec<Rule> {
    let Some(baselines) = baselines else { return Vec::new() };
    let all = [
        ("unigram", Some(&baselines.unigram)),
        ("neighbours", Some(&baselines.neighbours)),
        ("neighbours at best", baselines.best_neighbours.as_ref()),
        ("floor", baselines.floor.as_ref()),
    ];
    all.into_iter().zip(RULES).filter_map(|((name, of), look)| Some((name, of?.loss, look))).collect()
}

fn draw_rules(chart: &mut Chart<'_, '_>, rules: &[Rule], xs: Range<usize>) -> Result<()> {
    for &(name, loss, (colour, length, space)) in rules {
        let line = ShapeStyle::from(&colour).stroke_width(2);
        chart
            .draw_series(DashedLineSeries::new([(xs.start, loss), (xs.end, loss)], length, space, line))
            .map_err(drawing)?
            .label(format!("{name} {loss:.2}"))
            .legend(move |(x, y)| DashedPathElement::new([(x, y), (x + 24, y)], length, space, line));
    }
    Ok(())
}

fn points(run: &History, loss: impl Fn(&EpochRecord) -> Option<f64>) -> Vec<(usize, f64)> {
    run.records().iter().filter_map(|record| Some((record.epoch, loss(record)?))).collect()
}

/// Not many more points than can be told apart, the last one among them.
fn thinned(points: &[(usize, f64)]) -> impl Iterator<Item = (usize, f64)> {
    points.iter().copied().rev().step_by(points.len().div_ceil(MAX_POINTS).max(1)).collect::<Vec<_>>().into_iter().rev()
}

/// The most points of a line.
const MAX_POINTS: usize = 400;
