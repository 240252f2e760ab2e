//! Losses that follow a power law.

use plotters::prelude::*;

use super::{RUNS, card, draw_legend, draw_mesh, drawing};
use crate::analysis::scaling::PowerLaw;
use crate::error::Result;
use crate::figures::figure::Figure;

/// Draws losses and the [`PowerLaw`] that is nearest to them, both axes logarithmic: how much they are above the floor, over
/// what is scaled. A power law is a straight line there.
///
/// # Errors
/// As [`PowerLaw::fit`].
pub fn scaling(points: &[(f64, f64)], floor: f64, x: &str) -> Result<Figure> {
    let law = PowerLaw::fit(points, floor)?;
    let excess: Vec<(f64, f64)> = points.iter().map(|&(x, loss)| (x, loss - floor)).collect();
    let range = |of: &dyn Fn(&(f64, f64)) -> f64| {
        let numbers = || excess.iter().map(of);
        (numbers().fold(f64::INFINITY, f64::min) / 1.2, numbers().fold(0.0, f64::max) * 1.2)
    };
    let ((left, right), (bottom, top)) = (range(&|point| point.0), range(&|point| point.1));
    let line = [left, right].map(|x| (x, law.loss(x) - floor));
    let mut source = String::new();
    {
        let root = card(&mut source, (560, 360))?;
        let mut chart = ChartBuilder::on(&root)
            .margin(16)
            .margin_right(28)
            .x_label_area_size(48)
            .y_label_area_size(72)
            .build_cartesian_2d((left..right).log_scale(), (bottom.min(line[1].1)..top.max(line[0].1)).log_scale())
            .map_err(drawing)?;
        let mut mesh = chart.configure_mesh();
        mesh.x_desc(x)
            .y_desc("loss above the floor (nats)")
            .x_label_formatter(&|x| if *x < 1e4 { format!("{x:.0}") } else { format!("{:.0}k", x / 1e3) })
            .y_label_formatter(&|y| format!("{y:.0$}", (-y.log10().floor()).max(0.0) as usize));
        draw_mesh(&mut mesh)?;
        let (ours, straight) = (RUNS[0], ShapeStyle::from(&RUNS[1]).stroke_width(2));
        chart
            .draw_series(excess.iter().map(|&point| Circle::new(point, 4, ours.filled())))
            .map_err(drawing)?
            .label("a model")
            .legend(move |(x, y)| Circle::new((x + 12, y), 4, ours.filled()));
        chart
            .draw_series(LineSeries::new(line, straight))
            .map_err(drawing)?
            .label(format!("{floor:.2} + {:.3} x^-{:.2}", law.a, law.b))
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 24, y)], straight));
        draw_legend(&mut chart, SeriesLabelPosition::UpperRight)?;
        root.present().map_err(drawing)?;
    }
    let description = format!(
        "Loss above the floor of {floor:.3} over {x}, {} models: near to {:.3} x^-{:.3}.",
        points.len(),
        law.a,
        law.b
    );
    Ok(Figure::svg(source, description))
}
