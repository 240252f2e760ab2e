//! Measurements side by side.

use plotters::prelude::*;
use plotters::style::text_anchor::HPos;

use super::{RUNS, card, drawing, letters, write};
use crate::error::{Error, Result};
use crate::figures::figure::Figure;

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
    // All with the decimals that the largest needs for two digits.
    let digits = (1.0 - largest.log10().floor()).clamp(0.0, 4.0) as usize;
    let number = |value: f64| format!("{value:.digits$}");
    let mut source = String::new();
    {
        let root = card(&mut source, (width as u32, height as u32))?;
        let text = |text: &str, at: (i32, i32), align: HPos| write(&root, text, at, letters(16, align));
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
