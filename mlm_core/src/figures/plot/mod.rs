//! Takes histories, recoveries, attention, vectors, points and measurements, draws them as [`Figure`]s.
//!
//! Each drawing stands on a white card with dark text, in a light notebook as in a dark one. That is on purpose: white is what
//! a heat map has for 0, a drawing is saved, printed and thrown on a wall, and a sentence about its colours has to be true
//! wherever it is read. JupyterLab cannot tell an image, either, which theme it has.

use std::fmt::Display;

use plotters::chart::MeshStyle;
use plotters::coord::ranged1d::{Ranged, ValueFormatter};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::error::{Error, Result};
#[cfg(doc)]
use crate::figures::figure::Figure;

mod attention;
mod attention_view;
mod axis;
mod bars;
mod curves;
mod heat_map;
mod lines;
mod losses;
mod ranges;
mod recovery;
mod scaling;
mod scatter;
mod vectors;

pub use attention::{head_view, model_view};
pub use attention_view::attention_view;
pub use axis::Scale;
pub use bars::bars;
pub use curves::curves;
pub use heat_map::heat_map;
pub use losses::{loss_bands, loss_curve, progress};
pub use ranges::ranges;
pub use recovery::recovery_heat_map;
pub use scaling::scaling;
pub use scatter::scatter;
pub use vectors::vectors;

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
const FONT: &str = "sans-serif";

type Card<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

/// A white card to draw on.
fn card(source: &mut String, size: (u32, u32)) -> Result<Card<'_>> {
    let root = SVGBackend::with_string(source, size).into_drawing_area();
    root.fill(&WHITE).map_err(drawing)?;
    Ok(root)
}

/// Letters of that size, in ink. They are written at a point that lies at half their height.
fn letters(size: i32, align: HPos) -> TextStyle<'static> {
    (FONT, size).into_font().color(&INK).pos(Pos::new(align, VPos::Center))
}

/// Writes a line of text.
fn write(root: &Card<'_>, text: &str, at: (i32, i32), letters: TextStyle<'_>) -> Result<()> {
    root.draw(&Text::new(text.to_owned(), at, letters)).map_err(drawing)
}

/// Black or white, whichever stands out more from that background: its contrast ratio is at least 4.5, what text needs
/// (WCAG 2.2, success criterion 1.4.3 and "relative luminance").
fn ink_on(background: RGBColor) -> RGBColor {
    let linear = |channel: u8| ((f32::from(channel) / 255.0 + 0.055) / 1.055).powf(2.4);
    let RGBColor(red, green, blue) = background;
    let luminance = 0.2126 * linear(red) + 0.7152 * linear(green) + 0.0722 * linear(blue);
    // At 0.179 both are equally good, with a contrast of the square root of 21.
    if luminance < 0.179 { WHITE } else { BLACK }
}

/// The axes of a chart, their names and their grid.
fn draw_mesh<X: Ranged + ValueFormatter<X::ValueType>, Y: Ranged + ValueFormatter<Y::ValueType>>(
    mesh: &mut MeshStyle<'_, '_, X, Y, SVGBackend<'_>>,
) -> Result<()> {
    mesh.axis_style(INK)
        .bold_line_style(GRID)
        .light_line_style(TRANSPARENT)
        .label_style((FONT, 16).into_font().color(&INK))
        .axis_desc_style((FONT, 18).into_font().color(&INK))
        .draw()
        .map_err(drawing)
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The lowest and the highest of some values.
fn extremes(values: impl IntoIterator<Item = f64>) -> (f64, f64) {
    values.into_iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)))
}

fn drawing(error: impl Display) -> Error {
    Error::Figure(error.to_string())
}
