//! Losses that follow a power law.

use plotters::coord::combinators::{BindKeyPoints, LogCoord, WithKeyPoints};
use plotters::element::DashedPathElement;
use plotters::prelude::*;
use plotters::series::DashedLineSeries;

use super::axis::{decades, large};
use super::{FONT, GRID, INK, RUNS, card, draw_mesh, drawing, extremes};
use crate::analysis::scaling::PowerLaw;
use crate::error::Result;
use crate::figures::figure::Figure;

/// Draws losses over what is scaled, the [`PowerLaw`] that is nearest to them, and what it says is irreducible. Both axes, which
/// are called `x` and `y`, are logarithmic: without something irreducible, a power law is a straight line there.
///
/// # Errors
/// As [`PowerLaw::fit`].
pub fn scaling(points: &[(f64, f64)], x: &str, y: &str) -> Result<Figure> {
    let law = PowerLaw::fit(points)?;
    let range = |numbers: &mut dyn Iterator<Item = f64>| {
        let (least, most) = extremes(numbers);
        (least / 1.2, most * 1.2)
    };
    let (left, right) = range(&mut points.iter().map(|point| point.0));
    let stays = Some(law.irreducible).filter(|stays| *stays > 0.0);
    let (bottom, top) = range(&mut points.iter().map(|point| point.1).chain(stays));
    let curve = (0..=100).map(|part| left * (right / left).powf(f64::from(part) / 100.0)).map(|x| (x, law.loss(x)));
    let said = format!("{:.3} + ({} / x)^{:.2}", law.irreducible, large(law.scale), law.exponent);
    let mut source = String::new();
    {
        let root = card(&mut source, (560, 360))?;
        let mut chart = ChartBuilder::on(&root)
            .margin(16)
            .margin_right(28)
            .x_label_area_size(48)
            .y_label_area_size(72)
            .build_cartesian_2d(logarithmic(left, right), logarithmic(bottom, top))
            .map_err(drawing)?;
        let mut mesh = chart.configure_mesh();
        mesh.x_desc(x)
            .y_desc(y)
            .x_label_formatter(&|x| large(*x))
            .y_label_formatter(&|y| format!("{y:.0$}", (-y.log10().floor()).max(0.0) as usize));
        draw_mesh(&mut mesh)?;
        let (ours, fit) = (RUNS[0], ShapeStyle::from(&RUNS[1]).stroke_width(2));
        chart
            .draw_series(LineSeries::new(curve, fit))
            .map_err(drawing)?
            .label(&said)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 24, y)], fit));
        if let Some(stays) = stays {
            let asymptote = [(left, stays), (right, stays)];
            chart
                .draw_series(DashedLineSeries::new(asymptote, 2, 4, INK.into()))
                .map_err(drawing)?
                .label(format!("irreducible: {stays:.3}"))
                .legend(|(x, y)| DashedPathElement::new([(x, y), (x + 24, y)], 2, 4, INK));
        }
        chart
            .draw_series(points.iter().map(|&point| Circle::new(point, 4, ours.filled())))
            .map_err(drawing)?
            .label("a model")
            .legend(move |(x, y)| Circle::new((x + 12, y), 4, ours.filled()));
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .legend_area_size(32)
            .margin(8)
            .background_style(WHITE.mix(0.9))
            .border_style(GRID)
            .label_font((FONT, 16).into_font().color(&INK))
            .draw()
            .map_err(drawing)?;
        root.present().map_err(drawing)?;
    }
    let description = format!("{y} over {x}, {} models: near to {said}.", points.len());
    Ok(Figure::svg(source, description))
}

/// An axis with 1, 2, 5, 10, 20 and so on.
fn logarithmic(from: f64, to: f64) -> WithKeyPoints<LogCoord<f64>> {
    LogCoord::from((from..to).log_scale()).with_key_points(decades(from, to, &[1.0, 2.0, 5.0]))
}
