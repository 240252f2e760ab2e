//! Numbers over numbers.

use super::axis::{Scale, number};
use super::lines::{self, Line, Marks};
use super::{INK, RUNS};
use crate::error::{Error, Result};
use crate::figures::figure::Figure;

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
    let mut colours = RUNS.into_iter();
    let lines = curves.iter().map(|(name, points)| {
        let is_rule = is_rule(points);
        // A few points are measurements; many are a curve.
        let is_measured = !is_rule && (1..=MOST_DOTS).contains(&points.len());
        Line {
            name: name.as_ref().to_owned(),
            points: points.iter().map(place).collect(),
            colour: if is_rule || points.is_empty() { INK } else { colours.next().unwrap_or(INK) },
            dashes: is_rule.then_some((4, 4)),
            marks: if is_measured { Marks::Dots(4) } else { Marks::None },
            band: Vec::new(),
        }
    });
    let lines: Vec<Line> = lines.collect();
    let axes = [x.1.axis(points().map(|point| point.0)), y.1.axis(points().map(|point| point.1))];
    let [along_x, along_y] = axes;
    let description = format!("{} over {}, each at its last point: {}.", y.0, x.0, described.join("; "));
    lines::figure(&lines, (x.0, along_x), (y.0, along_y), description)
}

/// The most points that are marked.
const MOST_DOTS: usize = 12;
