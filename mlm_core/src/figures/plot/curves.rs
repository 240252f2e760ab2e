//! Numbers over numbers.

use plotters::prelude::*;
use plotters::series::DashedLineSeries;

use super::axis::{Scale, number};
use super::{INK, LineName, RUNS, card_with_names, draw_mesh, drawing, write_names};
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
    let names: Vec<&str> = curves.iter().map(|(name, _)| name.as_ref()).collect();
    let mut source = String::new();
    {
        let (root, beside) = card_with_names(&mut source, &names)?;
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
        let mut names = Vec::new();
        for (name, points) in curves {
            let Some(last) = points.last() else { continue };
            let places = points.iter().map(place);
            let (colour, dashes) =
                if is_rule(points) { (&INK, Some((4, 4))) } else { (colours.next().unwrap_or(&INK), None) };
            let line = ShapeStyle::from(colour).stroke_width(2);
            if let Some((dash, space)) = dashes {
                chart.draw_series(DashedLineSeries::new(places, dash, space, line)).map_err(drawing)?;
            } else {
                chart.draw_series(LineSeries::new(places, line)).map_err(drawing)?;
                // A few points are measurements; many are a curve.
                let dots = points.iter().filter(|_| points.len() <= MOST_DOTS).map(place);
                chart.draw_series(dots.map(|at| Circle::new(at, 4, colour.filled()))).map_err(drawing)?;
            }
            let height = chart.backend_coord(&place(last)).1;
            names.push(LineName { text: name.as_ref().to_owned(), height, line, dashes });
        }
        write_names(&root, names)?;
        root.present().map_err(drawing)?;
    }
    let described = described.join("; ");
    Ok(Figure::svg(source, format!("{} over {}, each at its last point: {described}.", y.0, x.0)))
}

/// The most points that are marked.
const MOST_DOTS: usize = 12;
