//! Losses over epochs, with the lines of what counting achieves.

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::series::DashedLineSeries;

use super::axis::{Axis, number};
use super::{LineName, RUNS, card_with_names, draw_mesh, drawing, extremes, mean, write_names};
use crate::analysis::baselines::Baselines;
use crate::analysis::evaluate::Evaluation;
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
    let rules = rules(baselines);
    let losses = runs.iter().flat_map(|run| run.train.iter().chain(&run.validation)).map(|&(_, loss)| loss);
    let highest = losses.chain(rules.iter().map(|rule| rule.loss)).max_by(f64::total_cmp).unwrap_or(1.0);
    let named = |run: &Losses<'_>, what: &str| match runs {
        [_] => what.to_owned(),
        _ => format!("{}: {what}", run.name),
    };
    let mut names: Vec<String> = rules.iter().map(Rule::name).collect();
    names.extend(runs.iter().flat_map(|run| ["training", "validation"].map(|what| named(run, what))));
    let mut source = String::new();
    {
        let (root, beside) = card_with_names(&mut source, &names)?;
        let mut chart = axes(&root, beside, (0.0, last), highest)?;
        let mut names = Vec::new();
        for (nth, run) in runs.iter().enumerate() {
            let colour = RUNS[nth % RUNS.len()];
            let line = ShapeStyle::from(&colour).stroke_width(2);
            let Losses { train, dots, validation, .. } = run;
            if let Some(&last) = train.last() {
                chart.draw_series(LineSeries::new(train.clone(), line)).map_err(drawing)?;
                let dots = train.iter().filter(|_| *dots).map(|&point| Circle::new(point, 3, colour.filled()));
                chart.draw_series(dots).map_err(drawing)?;
                let height = chart.backend_coord(&last).1;
                names.push(LineName { text: named(run, "training"), height, line, dashes: None });
            }
            if let Some(&last) = validation.last() {
                chart.draw_series(DashedLineSeries::new(validation.clone(), 7, 5, line)).map_err(drawing)?;
                let rings = validation.iter().filter(|_| validation.len() <= MOST_RINGS);
                chart.draw_series(rings.map(|&point| Circle::new(point, 4, line))).map_err(drawing)?;
                let height = chart.backend_coord(&last).1;
                names.push(LineName { text: named(run, "validation"), height, line, dashes: Some((7, 5)) });
            }
        }
        draw_rules(&mut chart, &rules, (0.0, last), &mut names)?;
        write_names(&root, names)?;
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
    let mut rules = rules(groups.iter().flat_map(|(_, runs)| runs).find_map(History::baselines));
    rules.retain(|rule| rule.loss <= top);
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

    let epochs = (1.0, last.max(2.0));
    let mut names: Vec<String> = rules.iter().map(Rule::name).collect();
    names.extend(bands.iter().map(|(name, _)| (*name).to_owned()));
    let mut source = String::new();
    {
        let (root, beside) = card_with_names(&mut source, &names)?;
        let mut chart = axes(&root, beside, epochs, top)?;
        let mut names = Vec::new();
        for (nth, (name, band)) in bands.iter().enumerate() {
            let colour = RUNS[nth % RUNS.len()];
            let line = ShapeStyle::from(&colour).stroke_width(2);
            let edge = |of: &dyn Fn(&[f64]) -> f64| -> Vec<_> {
                band.iter().map(|(epoch, losses)| (*epoch, of(losses))).collect()
            };
            let outline = edge(&highest).into_iter().chain(edge(&lowest).into_iter().rev());
            chart.draw_series([Polygon::new(outline.collect::<Vec<_>>(), colour.mix(0.2))]).map_err(drawing)?;
            let means = edge(&mean);
            let height = means.last().map_or(0, |last| chart.backend_coord(last).1);
            chart.draw_series(LineSeries::new(means, line)).map_err(drawing)?;
            names.push(LineName { text: (*name).to_owned(), height, line, dashes: None });
        }
        draw_rules(&mut chart, &rules, epochs, &mut names)?;
        write_names(&root, names)?;
        root.present().map_err(drawing)?;
    }
    Ok(Figure::svg(source, format!("Validation loss in nats per masked token: {}.", described.join("; "))))
}

type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<Axis, Axis>>;

/// Axes for losses up to `highest` over epochs, with so much room beside them.
fn axes<'a, 'b>(
    root: &'a DrawingArea<SVGBackend<'b>, Shift>,
    beside: i32,
    (from, to): (f64, f64),
    highest: f64,
) -> Result<Chart<'a, 'b>> {
    let epochs = Axis::linear(from, to.max(from + 1e-3), 1.0);
    let mut chart = ChartBuilder::on(root)
        .margin(16)
        .margin_right(beside)
        .x_label_area_size(44)
        .y_label_area_size(60)
        .build_cartesian_2d(epochs, Axis::linear(0.0, highest.max(1e-3) * 1.05, 0.0))
        .map_err(drawing)?;
    let mut mesh = chart.configure_mesh();
    let in_digits = |at: &f64| number(*at);
    mesh.x_desc("epoch")
        .y_desc("loss (nats per masked token)")
        .x_label_formatter(&in_digits)
        .y_label_formatter(&in_digits);
    draw_mesh(&mut mesh)?;
    Ok(chart)
}

/// A line of a baseline.
struct Rule {
    of: &'static str,
    loss: f64,
    colour: RGBColor,
    dashes: (u32, u32),
}

impl Rule {
    fn name(&self) -> String {
        format!("{} {:.2}", self.of, self.loss)
    }
}

fn rules(baselines: Option<&Baselines>) -> Vec<Rule> {
    let Some(baselines) = baselines else { return Vec::new() };
    let all = [
        ("unigram", Some(&baselines.unigram)),
        ("neighbours", Some(&baselines.neighbours)),
        ("neighbours at best", baselines.best_neighbours.as_ref()),
        ("floor", baselines.floor.as_ref()),
    ];
    let rule = |((of, of_it), (colour, dashes)): ((_, Option<&Evaluation>), _)| {
        Some(Rule { of, loss: of_it?.loss, colour, dashes })
    };
    all.into_iter().zip(RULES).filter_map(rule).collect()
}

/// Draws them from one epoch to another, and adds their names.
fn draw_rules(
    chart: &mut Chart<'_, '_>,
    rules: &[Rule],
    (from, to): (f64, f64),
    names: &mut Vec<LineName>,
) -> Result<()> {
    for rule in rules {
        let line = ShapeStyle::from(&rule.colour).stroke_width(2);
        let (dash, space) = rule.dashes;
        let ends = [(from, rule.loss), (to, rule.loss)];
        chart.draw_series(DashedLineSeries::new(ends, dash, space, line)).map_err(drawing)?;
        let height = chart.backend_coord(&ends[1]).1;
        names.push(LineName { text: rule.name(), height, line, dashes: Some(rule.dashes) });
    }
    Ok(())
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
