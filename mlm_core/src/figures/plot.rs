//! Takes histories, recoveries, vectors and measurements, draws them: loss curves, the recovery heat map, strips of colour
//! and bars, as [`Figure`]s.
//!
//! Each drawing stands on a white card with dark text, so that it reads the same in a light and a dark notebook, on
//! paper and on a projector.

use std::fmt::Display;

use plotters::element::DashedPathElement;
use plotters::prelude::*;
use plotters::series::DashedLineSeries;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::analysis::baselines::Baselines;
use crate::analysis::evaluate::Recovery;
use crate::error::{Error, Result};
use crate::figures::figure::Figure;
use crate::training::background::Run;
use crate::training::history::{EpochRecord, History};
use crate::training::progress::RunProgress;

/// Text and axes.
const INK: RGBColor = RGBColor(36, 41, 47);
/// Lines of the grid.
const GRID: RGBColor = RGBColor(216, 222, 228);
/// A colour a run, told apart by colour-blind readers too (Okabe and Ito 2008, "Color Universal Design").
const RUNS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(230, 159, 0),
];
/// Colour, dash and space of the lines of baselines: the more is known, the darker and closer.
const RULES: [(RGBColor, u32, u32); 3] =
    [(RGBColor(140, 149, 159), 2, 6), (RGBColor(101, 109, 118), 2, 4), (RGBColor(36, 41, 47), 2, 2)];
const FONT: &str = "sans-serif";

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
    let baselines = baselines.map(|baselines| {
        description += &format!(" Loss {baselines}.");
        let floor = baselines.floor.as_ref().map(|floor| ("floor", floor.loss, RULES[2]));
        let [unigram, neighbours] = [&baselines.unigram, &baselines.neighbours].map(|of| of.loss);
        [Some(("unigram", unigram, RULES[0])), Some(("neighbours", neighbours, RULES[1])), floor]
    });
    let baselines = || baselines.iter().flatten().flatten().copied();
    let highest = points().map(|(_, loss)| loss).chain(baselines().map(|(_, loss, _)| loss));
    let highest = highest.max_by(f64::total_cmp).unwrap_or(1.0);
    // The loss on text held back may rise to where the legend would be.
    let covers = |(x, loss): (usize, f64)| x as f64 > 0.6 * last as f64 && loss > 0.7 * highest;
    let legend = if points().any(covers) { SeriesLabelPosition::MiddleRight } else { SeriesLabelPosition::UpperRight };

    let mut source = String::new();
    {
        let root = card(&mut source, (720, 400))?;
        let mut chart = ChartBuilder::on(&root)
            .margin(16)
            .margin_right(28)
            .x_label_area_size(44)
            .y_label_area_size(60)
            .build_cartesian_2d(0..last.max(1), 0.0..highest.max(1e-3) * 1.05)
            .map_err(drawing)?;
        chart
            .configure_mesh()
            .x_desc(x)
            .y_desc("loss (nats per masked token)")
            .x_labels(last.clamp(1, 20) + 1)
            .y_labels(8)
            .x_label_formatter(&|x| x.to_string())
            .y_label_formatter(&|loss| format!("{loss:.1}"))
            .axis_style(INK)
            .bold_line_style(GRID)
            .light_line_style(TRANSPARENT)
            .label_style((FONT, 16).into_font().color(&INK))
            .axis_desc_style((FONT, 18).into_font().color(&INK))
            .draw()
            .map_err(drawing)?;
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
        for (name, loss, (colour, length, space)) in baselines() {
            let line = ShapeStyle::from(&colour).stroke_width(2);
            chart
                .draw_series(DashedLineSeries::new([(0, loss), (last.max(1), loss)], length, space, line))
                .map_err(drawing)?
                .label(format!("{name} {loss:.2}"))
                .legend(move |(x, y)| DashedPathElement::new([(x, y), (x + 24, y)], length, space, line));
        }
        chart
            .configure_series_labels()
            .position(legend)
            .legend_area_size(32)
            .margin(8)
            .background_style(WHITE.mix(0.9))
            .border_style(GRID)
            .label_font((FONT, 16).into_font().color(&INK))
            .draw()
            .map_err(drawing)?;
        root.present().map_err(drawing)?;
    }
    Ok(Figure::svg(source, description))
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

/// Height of a row, width of a column, of the words before them and of the scale after them, in pixels.
const ROW: i32 = 18;
const COLUMN: i32 = 52;
const WORDS: i32 = 120;
const SCALE: i32 = 124;
/// Where the rows start, and the height of the scale.
const TOP: i32 = 44;
const SCALE_HEIGHT: i32 = 200;
/// More rows than that are not drawn: nobody reads them, and a text of one's own has tens of thousands of words.
const MAX_WORDS: usize = 100;
/// The longest word that stands beside its row in full.
const MAX_LETTERS: usize = 13;

/// Draws how surely each word is recovered after each epoch: a row a word, a column an epoch (the first is before
/// training), the colour and the number being the probability of the right word in percent. A tick marks the words that
/// are recovered: the right word is the most likely one. The last row counts them. Of more than 100 words the first 100
/// are drawn, and all are counted.
///
/// # Errors
/// When there is no recovery, or they are not of the same words.
pub fn recovery_heat_map(recoveries: &[Recovery]) -> Result<Figure> {
    let Some(first) = recoveries.first().filter(|first| !first.words.is_empty()) else {
        return Err(Error::argument("recoveries", "at least one with words", "none"));
    };
    let total = first.words.len();
    if let Some(other) = recoveries.iter().find(|other| other.words.len() != total) {
        let expected = format!("recoveries of the same {total} words");
        return Err(Error::argument("recoveries", expected, other.words.len()));
    }
    let drawn = total.min(MAX_WORDS);
    let left_out = (drawn < total).then(|| format!("the first {drawn} of {total} words"));

    // A little space parts the sentences.
    let mut y = TOP;
    let mut tops = Vec::with_capacity(drawn);
    for (nth, word) in first.words[..drawn].iter().enumerate() {
        if nth > 0 && first.words[nth - 1].sentence != word.sentence {
            y += 8;
        }
        tops.push(y);
        y += ROW;
    }
    let right = WORDS + (COLUMN * recoveries.len() as i32).max(240);
    let height = (y + if left_out.is_some() { 64 } else { 40 }).max(TOP + SCALE_HEIGHT + 48);
    let mut source = String::new();
    {
        let root = card(&mut source, ((right + SCALE) as u32, height as u32))?;
        let text = |text: &str, at: (i32, i32), size: u32, colour: RGBColor, align: HPos| -> Result<()> {
            let style = (FONT, size).into_font().color(&colour).pos(Pos::new(align, VPos::Center));
            root.draw(&Text::new(text.to_owned(), at, style)).map_err(drawing)
        };
        let tick = |(x, y): (i32, i32), colour: RGBColor| -> Result<()> {
            let line = ShapeStyle::from(&colour).stroke_width(2);
            root.draw(&PathElement::new([(x - 4, y), (x - 1, y + 3), (x + 4, y - 4)], line)).map_err(drawing)
        };
        for (epoch, recovery) in recoveries.iter().enumerate() {
            let left = WORDS + COLUMN * epoch as i32;
            text(&epoch.to_string(), (left + COLUMN / 2, 30), 16, INK, HPos::Center)?;
            for (word, &top) in recovery.words.iter().zip(&tops) {
                // A diverged model gives NaN, for which there is no colour.
                let probability = if word.probability.is_finite() { word.probability } else { 0.0 };
                let colour = ViridisRGB.get_color(probability);
                let cell = Rectangle::new([(left, top), (left + COLUMN - 1, top + ROW - 1)], colour.filled());
                root.draw(&cell).map_err(drawing)?;
                let ink = if word.probability > 0.6 { BLACK } else { WHITE };
                let percent = format!("{:.0}", 100.0 * word.probability);
                text(&percent, (left + COLUMN / 2 - 4, top + ROW / 2), 14, ink, HPos::Center)?;
                if word.recovered {
                    tick((left + COLUMN - 11, top + ROW / 2), ink)?;
                }
            }
            text(&recovery.recovered().to_string(), (left + COLUMN / 2 - 4, y + 16), 16, INK, HPos::Center)?;
        }
        for (word, &top) in first.words.iter().zip(&tops) {
            text(&shortened(&word.word), (WORDS - 8, top + ROW / 2), 16, INK, HPos::Right)?;
        }
        text("epoch", (WORDS + COLUMN * recoveries.len() as i32 / 2, 12), 16, INK, HPos::Center)?;
        text("word masked alone", (WORDS - 8, 30), 14, INK, HPos::Right)?;
        text("recovered", (WORDS - 8, y + 16), 16, INK, HPos::Right)?;
        text(&format!("of {total}"), (WORDS + COLUMN * recoveries.len() as i32 + 4, y + 16), 16, INK, HPos::Left)?;
        if let Some(left_out) = &left_out {
            text(left_out, (WORDS, y + 42), 14, INK, HPos::Left)?;
        }
        // The scale: probability 0 to 100 %.
        let left = right + 24;
        for step in 0..SCALE_HEIGHT / 2 {
            let colour = ViridisRGB.get_color(1.0 - f64::from(step) / f64::from(SCALE_HEIGHT / 2 - 1));
            let stripe = Rectangle::new([(left, TOP + 2 * step), (left + 14, TOP + 2 * step + 2)], colour.filled());
            root.draw(&stripe).map_err(drawing)?;
        }
        text("p (%)", (left + 8, 30), 14, INK, HPos::Center)?;
        for (label, offset) in [("100", 0), ("50", SCALE_HEIGHT / 2), ("0", SCALE_HEIGHT)] {
            text(label, (left + 20, TOP + offset), 14, INK, HPos::Left)?;
        }
        tick((left + 6, TOP + SCALE_HEIGHT + 26), INK)?;
        text("recovered", (left + 20, TOP + SCALE_HEIGHT + 26), 14, INK, HPos::Left)?;
        root.present().map_err(drawing)?;
    }
    let last = recoveries.last().unwrap_or(first);
    let description = format!(
        "Heat map of the probability of the right word when it is masked alone, {} over {} epochs: \
         {} recovered before training, {} at the end.",
        left_out.unwrap_or_else(|| format!("{total} words")),
        recoveries.len() - 1,
        first.recovered(),
        last.recovered()
    );
    Ok(Figure::svg(source, description))
}

/// A word that fits beside its row.
fn shortened(word: &str) -> String {
    match word.char_indices().nth(MAX_LETTERS) {
        Some((end, _)) => format!("{}…", &word[..end]),
        None => word.to_owned(),
    }
}

/// Height of a strip and of the row that it stands in, width of one of its numbers, in pixels.
const STRIP: i32 = 22;
const STRIP_ROW: i32 = 28;
const NUMBER: i32 = 7;

/// Draws named vectors of the same length as strips of colour, one below the other: blue is negative, red positive, and
/// strips that look alike are alike. All share one scale.
///
/// # Errors
/// When there is no vector, or they differ in length.
pub fn vectors<S: AsRef<str>>(named: &[(S, Vec<f32>)]) -> Result<Figure> {
    let length = named.first().map_or(0, |(_, vector)| vector.len());
    if length == 0 {
        return Err(Error::argument("named", "at least one vector with numbers", "none"));
    }
    if let Some((name, other)) = named.iter().find(|(_, vector)| vector.len() != length) {
        let actual = format!("{} in {:?}", other.len(), name.as_ref());
        return Err(Error::argument("named", format!("vectors of {length} numbers"), actual));
    }
    let numbers = named.iter().flat_map(|(_, vector)| vector).filter(|number| number.is_finite());
    let largest = numbers.fold(1e-9f32, |largest, number| largest.max(number.abs()));
    let longest = named.iter().map(|(name, _)| name.as_ref().chars().count()).max().unwrap_or(0);
    let left = 24 + 7 * longest as i32;
    let right = left + NUMBER * length as i32;
    let (width, height) = (right + 24, 16 + STRIP_ROW * named.len() as i32 + 40);
    let mut source = String::new();
    {
        let root = card(&mut source, (width as u32, height as u32))?;
        let text = |text: &str, at: (i32, i32), align: HPos| -> Result<()> {
            let style = (FONT, 15).into_font().color(&INK).pos(Pos::new(align, VPos::Center));
            root.draw(&Text::new(text.to_owned(), at, style)).map_err(drawing)
        };
        let cell = |at: (i32, i32), size: (i32, i32), share: f32| -> Result<()> {
            let corners = [at, (at.0 + size.0, at.1 + size.1)];
            root.draw(&Rectangle::new(corners, diverging(share).filled())).map_err(drawing)
        };
        for (nth, (name, vector)) in named.iter().enumerate() {
            let top = 16 + STRIP_ROW * nth as i32;
            text(name.as_ref(), (left - 8, top + STRIP / 2), HPos::Right)?;
            for (column, number) in vector.iter().enumerate() {
                cell((left + NUMBER * column as i32, top), (NUMBER, STRIP), number / largest)?;
            }
        }
        // The scale.
        let top = 16 + STRIP_ROW * named.len() as i32 + 10;
        text(&format!("{:.2}", -largest), (left, top + 8), HPos::Left)?;
        for step in 0..=40 {
            cell((left + 52 + 3 * step, top), (3, 16), step as f32 / 20.0 - 1.0)?;
        }
        text(&format!("{largest:.2}"), (left + 52 + 3 * 41 + 8, top + 8), HPos::Left)?;
        root.present().map_err(drawing)?;
    }
    let names: Vec<&str> = named.iter().map(|(name, _)| name.as_ref()).collect();
    Ok(Figure::svg(source, format!("Vectors of {length} numbers as strips of colour: {}.", names.join("; "))))
}

/// Draws named measurements as bars from 0, one below the other, each with its number, which is in `unit`.
///
/// # Errors
/// When there is none, or one that is negative or not a number.
pub fn bars<S: AsRef<str>>(named: &[(S, f64)], unit: &str) -> Result<Figure> {
    const BAR: i32 = 24;
    const BAR_ROW: i32 = 34;
    const LONGEST: f64 = 420.0;
    if named.is_empty() {
        return Err(Error::argument("named", "at least one measurement", "none"));
    }
    if let Some((name, value)) = named.iter().find(|(_, value)| !value.is_finite() || *value < 0.0) {
        let actual = format!("{value} in {:?}", name.as_ref());
        return Err(Error::argument("named", "numbers of at least 0", actual));
    }
    let largest = named.iter().map(|(_, value)| *value).fold(f64::MIN_POSITIVE, f64::max);
    let widest = named.iter().map(|(name, _)| name.as_ref().chars().count()).max().unwrap_or(0);
    let left = 24 + 8 * widest as i32;
    let (width, height) = (left + LONGEST as i32 + 84, 16 + BAR_ROW * named.len() as i32 + 36);
    let number = |value: f64| if value < 10.0 { format!("{value:.1}") } else { format!("{value:.0}") };
    let mut source = String::new();
    {
        let root = card(&mut source, (width as u32, height as u32))?;
        let text = |text: &str, at: (i32, i32), align: HPos| -> Result<()> {
            let style = (FONT, 16).into_font().color(&INK).pos(Pos::new(align, VPos::Center));
            root.draw(&Text::new(text.to_owned(), at, style)).map_err(drawing)
        };
        for (nth, (name, value)) in named.iter().enumerate() {
            let top = 16 + BAR_ROW * nth as i32;
            let right = left + (LONGEST * value / largest).round() as i32;
            text(name.as_ref(), (left - 8, top + BAR / 2), HPos::Right)?;
            let bar = Rectangle::new([(left, top), (right, top + BAR)], RUNS[0].filled());
            root.draw(&bar).map_err(drawing)?;
            text(&number(*value), (right + 8, top + BAR / 2), HPos::Left)?;
        }
        text(unit, (left, 16 + BAR_ROW * named.len() as i32 + 12), HPos::Left)?;
        root.present().map_err(drawing)?;
    }
    let described: Vec<String> =
        named.iter().map(|(name, value)| format!("{} {}", name.as_ref(), number(*value))).collect();
    Ok(Figure::svg(source, format!("Bars in {unit}: {}.", described.join("; "))))
}

/// Blue at -1, white at 0, red at 1 (the ends of ColorBrewer's RdBu); grey for what is not a number.
fn diverging(share: f32) -> RGBColor {
    if !share.is_finite() {
        return GRID;
    }
    let end = if share < 0.0 { RGBColor(33, 102, 172) } else { RGBColor(178, 24, 43) };
    let fade = |channel: u8| (255.0 - (255.0 - f32::from(channel)) * share.abs().min(1.0)).round() as u8;
    RGBColor(fade(end.0), fade(end.1), fade(end.2))
}

/// A white card to draw on.
fn card(source: &mut String, size: (u32, u32)) -> Result<DrawingArea<SVGBackend<'_>, plotters::coord::Shift>> {
    let root = SVGBackend::with_string(source, size).into_drawing_area();
    root.fill(&WHITE).map_err(drawing)?;
    Ok(root)
}

fn drawing(error: impl Display) -> Error {
    Error::Figure(error.to_string())
}
