//! A table of numbers in colour.

use plotters::prelude::*;
use plotters::style::FontTransform;
use plotters::style::text_anchor::HPos;

use super::{GRID, card, drawing, ink_on, letters, write};
use crate::error::{Error, Result};
use crate::figures::figure::Figure;

/// Blue at -1, white at 0, red at 1 (the ends of ColorBrewer's RdBu); grey for what is not a number.
pub(super) fn diverging(share: f32) -> RGBColor {
    faded(share, if share < 0.0 { (33, 102, 172) } else { (178, 24, 43) })
}

/// White at 0, dark blue at 1 (the end of ColorBrewer's Blues); grey for what is not a number.
pub(super) fn sequential(share: f32) -> RGBColor {
    faded(share, (8, 48, 107))
}

fn faded(share: f32, end: (u8, u8, u8)) -> RGBColor {
    if !share.is_finite() {
        return GRID;
    }
    let fade = |channel: u8| (255.0 - (255.0 - f32::from(channel)) * share.abs().min(1.0)).round() as u8;
    RGBColor(fade(end.0), fade(end.1), fade(end.2))
}

/// Draws a table of numbers, each in its cell and as its colour: the further from 0, the darker, blue, or where some are
/// negative, red above 0 and blue below; what rounds to 0 is a grey 0 on white. `values` holds a row for each of `rows`, in
/// it a number for each of `columns`, all in the same `unit`. Where there is nothing to say, a NaN leaves the cell grey.
///
/// # Errors
/// When there is no row or no column, or there are more or fewer numbers.
pub fn heat_map<R: AsRef<str>, C: AsRef<str>>(
    rows: &[R],
    columns: &[C],
    values: &[Vec<f64>],
    unit: &str,
) -> Result<Figure> {
    // Of the greys that text may have on white, a light one: zeros are read last.
    const FAINT: RGBColor = RGBColor(110, 119, 129);
    const ROW: i32 = 24;
    const LETTER: i32 = 8;
    const WIDEST: i32 = 960;
    if rows.is_empty() || columns.is_empty() {
        return Err(Error::argument("rows", "at least one row and one column", "none"));
    }
    let sizes: Vec<usize> = values.iter().map(Vec::len).collect();
    if sizes != vec![columns.len(); rows.len()] {
        let expected = format!("{} rows of {} numbers", rows.len(), columns.len());
        return Err(Error::argument("values", expected, format!("rows of {sizes:?}")));
    }
    let numbers = || values.iter().flatten().filter(|number| number.is_finite());
    let largest = numbers().fold(1e-9f64, |largest, number| largest.max(number.abs()));
    // Two decimals, or as many as the largest number needs for two digits.
    let digits = if largest < 100.0 { (1.0 - largest.log10().floor()).clamp(2.0, 4.0) as usize } else { 0 };
    let rounds_to_0 = |number: f64| number.abs() < 0.5 * 10f64.powi(-(digits as i32));
    let signed = numbers().any(|&number| number < 0.0 && !rounds_to_0(number));
    let longest = |lengths: &mut dyn Iterator<Item = usize>| LETTER * lengths.max().unwrap_or(0) as i32 + 8;
    let left = longest(&mut rows.iter().map(|row| row.as_ref().chars().count())).max(40) + 12;
    let names = longest(&mut columns.iter().map(|column| column.as_ref().chars().count()));
    // Names that are too long to stand side by side hang down.
    let number = LETTER * (digits as i32 + 3);
    let hang = left + names.max(number) * columns.len() as i32 > WIDEST;
    let (cell, below) = if hang { (number, names) } else { (names.max(number), ROW) };
    let (width, height) = (left + cell * columns.len() as i32 + 24, 40 + ROW * rows.len() as i32 + below + 8);
    let mut source = String::new();
    {
        let root = card(&mut source, (width.max(left + 8 * unit.chars().count() as i32 + 16) as u32, height as u32))?;
        let text = |text: &str, at: (i32, i32), align: HPos| write(&root, text, at, letters(15, align));
        text(unit, (left, 20), HPos::Left)?;
        for (nth, (row, values)) in rows.iter().zip(values).enumerate() {
            let top = 40 + ROW * nth as i32;
            text(row.as_ref(), (left - 8, top + ROW / 2), HPos::Right)?;
            for (column, &value) in values.iter().enumerate() {
                let x = left + cell * column as i32;
                let share = if rounds_to_0(value) { 0.0 } else { (value / largest) as f32 };
                let colour = if signed { diverging(share) } else { sequential(share) };
                let corners = [(x, top), (x + cell - 1, top + ROW - 1)];
                root.draw(&Rectangle::new(corners, colour.filled())).map_err(drawing)?;
                if value.is_finite() {
                    let (ink, written) = match rounds_to_0(value) {
                        true => (FAINT, "0".to_owned()),
                        false => (ink_on(colour), format!("{value:.digits$}")),
                    };
                    let at = (x + cell / 2, top + ROW / 2);
                    write(&root, &written, at, letters(15, HPos::Center).color(&ink))?;
                }
            }
        }
        let end = 40 + ROW * rows.len() as i32;
        for (nth, column) in columns.iter().enumerate() {
            let x = left + cell * nth as i32 + cell / 2;
            if hang {
                let hanging = letters(15, HPos::Left).transform(FontTransform::Rotate90);
                write(&root, column.as_ref(), (x, end + 6), hanging)?;
            } else {
                text(column.as_ref(), (x, end + ROW / 2), HPos::Center)?;
            }
        }
        root.present().map_err(drawing)?;
    }
    let described: Vec<String> = (rows.iter().zip(values))
        .map(|(row, values)| {
            let values: Vec<String> = values.iter().map(|value| format!("{value:.digits$}")).collect();
            format!("{} {}", row.as_ref(), values.join(" "))
        })
        .collect();
    let columns: Vec<&str> = columns.iter().map(AsRef::as_ref).collect();
    Ok(Figure::svg(source, format!("Heat map, {unit}, of {}: {}.", columns.join(", "), described.join("; "))))
}
