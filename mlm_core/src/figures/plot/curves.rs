//! Numbers over numbers.

use std::ops::Range;

use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged};
use plotters::element::DashedPathElement;
use plotters::prelude::*;
use plotters::series::DashedLineSeries;
use plotters::style::text_anchor::HPos;

use super::{INK, RUNS, card, decades, draw_mesh, drawing, extremes, large, letters, write};
use crate::error::{Error, Result};
use crate::figures::figure::Figure;

/// How numbers lie along an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Equal distances are equal differences.
    Linear,
    /// Equal distances are equal ratios; all numbers are positive.
    Logarithmic,
}

/// Draws named curves, each through its points in their order, in a colour each, with its name where it ends. One that has the
/// same y everywhere is something to compare the others with: it is drawn in black, dashed. The axes have a name and a
/// [`Scale`] each.
///
/// ```
/// # use mlm_core::{plot::Scale, *};
/// # fn main() -> Result<()> {
/// let losses = [("model", vec![(1.0, 4.0), (10.0, 2.0), (100.0, 1.0)]), ("floor", vec![(1.0, 0.9), (100.0, 0.9)])];
/// let figure = plot::curves(&losses, ("step", Scale::Logarithmic), ("loss (nats)", Scale::Linear))?;
/// assert!(figure.to_html().contains("floor 0.9"));
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// When there is no point, more curves than colours, or a number that an axis does not have: one that is not finite, or on a
/// logarithmic one, not positive.
pub fn curves<S: AsRef<str>>(curves: &[(S, Vec<(f64, f64)>)], x: (&str, Scale), y: (&str, Scale)) -> Result<Figure> {
    let points = || curves.iter().flat_map(|(_, points)| points);
    for (name, points) in curves {
        if let Some((of_x, of_y)) = points.iter().find(|point| !x.1.has(point.0) || !y.1.has(point.1)) {
            let actual = format!("({of_x}, {of_y}) in {:?}", name.as_ref());
            return Err(Error::argument("curves", "finite numbers, positive ones on a logarithmic axis", actual));
        }
    }
    if points().next().is_none() {
        return Err(Error::argument("curves", "at least one point", "none"));
    }
    let is_rule = |points: &[(f64, f64)]| points.len() > 1 && points.iter().all(|point| point.1 == points[0].1);
    let coloured = curves.iter().filter(|(_, points)| !is_rule(points)).count();
    if coloured > RUNS.len() {
        return Err(Error::argument("curves", format!("at most {} that are not level", RUNS.len()), coloured));
    }

    let place = |&(of_x, of_y): &(f64, f64)| (x.1.place(of_x), y.1.place(of_y));
    let described: Vec<String> = curves
        .iter()
        .filter_map(|(name, points)| Some(format!("{} {}", name.as_ref(), number(points.last()?.1))))
        .collect();
    let widest = curves.iter().map(|(name, _)| name.as_ref().chars().count()).max().unwrap_or(0);
    let beside = 36 + 8 * widest as i32;
    let mut source = String::new();
    {
        let root = card(&mut source, ((660 + beside) as u32, 400))?;
        let mut chart = ChartBuilder::on(&root)
            .margin(16)
            .margin_right(beside)
            .x_label_area_size(48)
            .y_label_area_size(72)
            .build_cartesian_2d(x.1.axis(points().map(|point| point.0)), y.1.axis(points().map(|point| point.1)))
            .map_err(drawing)?;
        let [of_x, of_y] = [x.1, y.1].map(|scale| move |at: &f64| number(scale.number(*at)));
        let mut mesh = chart.configure_mesh();
        mesh.x_desc(x.0).y_desc(y.0).x_label_formatter(&of_x).y_label_formatter(&of_y);
        draw_mesh(&mut mesh)?;
        let mut colours = RUNS.iter();
        // Where each curve ends, its name, and the look of its line.
        let mut ends = Vec::new();
        for (name, points) in curves {
            let Some(last) = points.last() else { continue };
            let places = points.iter().map(place);
            let (colour, is_rule) =
                if is_rule(points) { (&INK, true) } else { (colours.next().unwrap_or(&INK), false) };
            let line = ShapeStyle::from(colour).stroke_width(2);
            if is_rule {
                chart.draw_series(DashedLineSeries::new(places, 4, 4, line)).map_err(drawing)?;
            } else {
                chart.draw_series(LineSeries::new(places, line)).map_err(drawing)?;
                // A few points are measurements; many are a curve.
                let dots = points.iter().filter(|_| points.len() <= MOST_DOTS).map(place);
                chart.draw_series(dots.map(|at| Circle::new(at, 4, colour.filled()))).map_err(drawing)?;
            }
            ends.push((chart.backend_coord(&place(last)).1, name.as_ref(), line, is_rule));
        }
        // A name stands as high as its curve ends, or just below the one before.
        ends.sort_by_key(|end| end.0);
        let (mut free, left) = (0, 660 - 8);
        for (height, name, line, is_rule) in ends {
            let at = height.max(free);
            free = at + 20;
            let sample = [(left, at), (left + 20, at)];
            if is_rule {
                root.draw(&DashedPathElement::new(sample, 4, 4, line)).map_err(drawing)?;
            } else {
                root.draw(&PathElement::new(sample, line)).map_err(drawing)?;
            }
            write(&root, name, (left + 26, at), letters(16, HPos::Left))?;
        }
        root.present().map_err(drawing)?;
    }
    let described = described.join("; ");
    Ok(Figure::svg(source, format!("{} over {}, each at its last point: {described}.", y.0, x.0)))
}

/// The most points that are marked.
const MOST_DOTS: usize = 12;

impl Scale {
    fn has(self, number: f64) -> bool {
        number.is_finite() && (self == Self::Linear || number > 0.0)
    }

    /// Where a number lies.
    fn place(self, number: f64) -> f64 {
        if self == Self::Linear { number } else { number.log10() }
    }

    /// The number that lies there.
    fn number(self, place: f64) -> f64 {
        if self == Self::Linear { place } else { 10_f64.powf(place) }
    }

    /// An axis that has those numbers, with marks at 1, 2 and 5 times a power of ten, or at multiples of one.
    fn axis(self, numbers: impl Iterator<Item = f64>) -> Axis {
        let (least, most) = extremes(numbers.map(|number| self.place(number)));
        let room = 0.04 * if most > least { most - least } else { 1.0 };
        let (from, to) = (least - room, most + room);
        let marks: Vec<f64> = match self {
            Self::Linear => {
                let rough = (to - from) / 8.0;
                let decade = 10_f64.powf(rough.log10().floor());
                let step = [1.0, 2.0, 5.0].map(|digit| digit * decade).into_iter().find(|step| *step >= rough);
                let step = step.unwrap_or(10.0 * decade);
                ((from / step).ceil() as i64..=(to / step).floor() as i64).map(|nth| nth as f64 * step).collect()
            }
            Self::Logarithmic => {
                let digits: &[f64] = match to - from {
                    ..1.5 => &[1.0, 2.0, 3.0, 5.0, 7.0],
                    1.5..3.0 => &[1.0, 2.0, 5.0],
                    _ => &[1.0],
                };
                decades(10_f64.powf(from), 10_f64.powf(to), digits).into_iter().map(f64::log10).collect()
            }
        };
        Axis { range: from..to, marks }
    }
}

/// An axis and its marks.
struct Axis {
    range: Range<f64>,
    marks: Vec<f64>,
}

impl Ranged for Axis {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, place: &f64, (start, end): (i32, i32)) -> i32 {
        let share = (place - self.range.start) / (self.range.end - self.range.start);
        start + (share * f64::from(end - start)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.marks.clone()
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

/// 1e-7, 0.05, 3.5, 20, 350, 35k, 1M.
fn number(number: f64) -> String {
    match number.abs() {
        0.0 => "0".to_owned(),
        ..1e-3 => format!("{number:.0e}"),
        ..10.0 => format!("{}", (number * 1e4).round() / 1e4),
        _ => large(number),
    }
}
