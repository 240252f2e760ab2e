//! Lines over two axes, each with its name where it ends.

use plotters::element::DashedPathElement;
use plotters::prelude::*;
use plotters::series::DashedLineSeries;
use plotters::style::text_anchor::HPos;

use super::axis::Axis;
use super::{Card, card, draw_mesh, drawing, letters, write};
use crate::error::Result;
use crate::figures::figure::Figure;

/// How wide the chart is, without the names beside it, and how high it is at least, in pixels.
const WIDTH: i32 = 660;
const HEIGHT: i32 = 400;
/// Room for a name, and for none of them above and below, in pixels.
const NAME: i32 = 20;
const ABOVE: i32 = 18;
const BELOW: i32 = 50;

/// A line, and its looks.
pub(super) struct Line {
    pub(super) name: String,
    /// Where it goes, on the axes. Without any, it is not drawn.
    pub(super) points: Vec<(f64, f64)>,
    pub(super) colour: RGBColor,
    /// Its dashes and the spaces between them, in pixels, if it has any.
    pub(super) dashes: Option<(u32, u32)>,
    pub(super) marks: Marks,
    /// The outline of what lies around it, on the axes, if something does.
    pub(super) band: Vec<(f64, f64)>,
}

/// How its points are marked.
pub(super) enum Marks {
    None,
    /// Of that radius, in pixels.
    Dots(i32),
    Rings,
}

/// Draws lines over axes, each of which has a name, one after the other; the card is as high as their names need.
pub(super) fn figure(lines: &[Line], x: (&str, Axis), y: (&str, Axis), description: String) -> Result<Figure> {
    // Room for the names of those without points, too: a live figure does not change its size when they come.
    let beside = 48 + 8 * lines.iter().map(|line| line.name.chars().count()).max().unwrap_or(0) as i32;
    let height = (ABOVE + NAME * lines.len() as i32 + BELOW).max(HEIGHT);
    let mut source = String::new();
    {
        let root = card(&mut source, ((WIDTH + beside) as u32, height as u32))?;
        let mut chart = ChartBuilder::on(&root)
            .margin(16)
            .margin_right(beside)
            .x_label_area_size(48)
            .y_label_area_size(72)
            .build_cartesian_2d(x.1, y.1)
            .map_err(drawing)?;
        draw_mesh(chart.configure_mesh().x_desc(x.0).y_desc(y.0))?;
        let mut names = Vec::new();
        for line in lines.iter().filter(|line| !line.points.is_empty()) {
            let Line { points, colour, dashes, marks, band, .. } = line;
            let style = ShapeStyle::from(colour).stroke_width(2);
            if !band.is_empty() {
                chart.draw_series([Polygon::new(band.as_slice(), colour.mix(0.2))]).map_err(drawing)?;
            }
            let points = || points.iter().copied();
            match *dashes {
                Some((dash, space)) => chart.draw_series(DashedLineSeries::new(points(), dash, space, style)),
                None => chart.draw_series(LineSeries::new(points(), style)),
            }
            .map_err(drawing)?;
            let mark = match *marks {
                Marks::None => None,
                Marks::Dots(radius) => Some((radius, colour.filled())),
                Marks::Rings => Some((4, style)),
            };
            if let Some((radius, style)) = mark {
                chart.draw_series(points().map(|at| Circle::new(at, radius, style))).map_err(drawing)?;
            }
            names.extend(points().last().map(|end| (chart.backend_coord(&end).1, line)));
        }
        write_names(&root, names)?;
        root.present().map_err(drawing)?;
    }
    Ok(Figure::svg(source, description))
}

/// Writes the names of lines, each as high as its line ends, or as near as the others let it.
fn write_names(root: &Card<'_>, mut names: Vec<(i32, &Line)>) -> Result<()> {
    names.sort_by_key(|(height, _)| *height);
    let mut free = ABOVE;
    for (height, _) in &mut names {
        *height = free.max(*height);
        free = *height + NAME;
    }
    let mut free = root.dim_in_pixel().1 as i32 - BELOW;
    for (height, _) in names.iter_mut().rev() {
        *height = free.min(*height);
        free = *height - NAME;
    }
    let left = WIDTH + 8;
    for (height, line) in names {
        let (sample, style) = ([(left, height), (left + 20, height)], ShapeStyle::from(&line.colour).stroke_width(2));
        match line.dashes {
            Some((dash, space)) => root.draw(&DashedPathElement::new(sample, dash, space, style)),
            None => root.draw(&PathElement::new(sample, style)),
        }
        .map_err(drawing)?;
        write(root, &line.name, (left + 26, height), letters(16, HPos::Left))?;
    }
    Ok(())
}
