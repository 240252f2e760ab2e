//! Measurements that were taken several times, side by side.

use plotters::prelude::*;
use plotters::style::text_anchor::HPos;

use super::{GRID, INK, RUNS, card, drawing, extremes, letters, mean, write};
use crate::error::{Error, Result};
use crate::figures::figure::Figure;

/// Draws what was measured several times, with several seeds, say: for each name a line from its lowest to its highest value,
/// a dot at their mean, and the three numbers, which are in `unit`. What has one value only is something to compare with, and is
/// drawn as a diamond.
///
/// # Errors
/// When there is none, or one without values, or one that is not a number.
pub fn ranges<S: AsRef<str>>(named: &[(S, Vec<f64>)], unit: &str) -> Result<Figure> {
    const ROW: i32 = 26;
    const LONGEST: f64 = 420.0;
    if named.is_empty() {
        return Err(Error::argument("named", "at least one measurement", "none"));
    }
    if let Some((name, values)) =
        named.iter().find(|(_, of)| of.is_empty() || of.iter().any(|value| !value.is_finite()))
    {
        let actual = format!("{values:?} in {:?}", name.as_ref());
        return Err(Error::argument("named", "at least one value each, all of them numbers", actual));
    }
    let (least, most) = extremes(named.iter().flat_map(|(_, values)| values).copied());
    let numbers = |values: &[f64]| match values {
        [value] => format!("{value:.3}"),
        _ => {
            let (lowest, highest) = extremes(values.iter().copied());
            format!("{:.3} ({lowest:.3} to {highest:.3})", mean(values))
        }
    };
    let widest = named.iter().map(|(name, _)| name.as_ref().chars().count()).max().unwrap_or(0);
    let left = 24 + 8 * widest as i32;
    let (width, height) = (left + LONGEST as i32 + 220, 16 + ROW * named.len() as i32 + 36);
    let at = |value: f64| left + (LONGEST * (value - least) / (most - least).max(f64::MIN_POSITIVE)).round() as i32;
    let mut source = String::new();
    {
        let root = card(&mut source, (width as u32, height as u32))?;
        let text = |text: &str, at: (i32, i32), align: HPos| write(&root, text, at, letters(16, align));
        let right = left + LONGEST as i32;
        for (nth, (name, values)) in named.iter().enumerate() {
            let middle = 16 + ROW * nth as i32 + ROW / 2;
            text(name.as_ref(), (left - 12, middle), HPos::Right)?;
            root.draw(&PathElement::new([(left, middle), (right, middle)], GRID)).map_err(drawing)?;
            let (lowest, highest) = extremes(values.iter().copied());
            let (from, centre, to) = (at(lowest), at(mean(values)), at(highest));
            if values.len() == 1 {
                let corners =
                    vec![(centre, middle - 6), (centre + 6, middle), (centre, middle + 6), (centre - 6, middle)];
                root.draw(&Polygon::new(corners, INK.filled())).map_err(drawing)?;
            } else {
                let line = ShapeStyle::from(&RUNS[0]).stroke_width(4);
                root.draw(&PathElement::new([(from, middle), (to, middle)], line)).map_err(drawing)?;
                root.draw(&Circle::new((centre, middle), 5, RUNS[0].filled())).map_err(drawing)?;
            }
            text(&numbers(values), (right + 16, middle), HPos::Left)?;
        }
        text(unit, (left, 16 + ROW * named.len() as i32 + 14), HPos::Left)?;
        root.present().map_err(drawing)?;
    }
    let described: Vec<String> =
        named.iter().map(|(name, values)| format!("{} {}", name.as_ref(), numbers(values))).collect();
    Ok(Figure::svg(source, format!("{unit}, mean (lowest to highest): {}.", described.join("; "))))
}
