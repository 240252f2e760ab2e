//! Vectors as strips of colour.

use plotters::prelude::*;
use plotters::style::text_anchor::HPos;

use super::heat_map::diverging;
use super::{card, drawing, letters, write};
use crate::error::{Error, Result};
use crate::figures::figure::Figure;

/// Height of a strip and of the row that it stands in, and how wide a strip is about, in pixels.
const STRIP: i32 = 22;
const STRIP_ROW: i32 = 28;
const WIDTH: i32 = 448;

/// Draws named vectors of the same length as strips of colour, one below the other: blue is negative, red positive, and
/// strips that look alike are alike. All share one scale.
///
/// # Errors
/// When there is no vector, or they differ in length.
pub fn vectors<S: AsRef<str>>(named: &[(S, Vec<f32>)]) -> Result<Figure> {
    let length = named.first().map_or(0, |(_, vector)| vector.len());
    if length == 0 {
        return Err(Error::argument("named", "at least one vector with numbers", "none"));
    }
    if let Some((name, other)) = named.iter().find(|(_, vector)| vector.len() != length) {
        let actual = format!("{} in {:?}", other.len(), name.as_ref());
        return Err(Error::argument("named", format!("vectors of {length} numbers"), actual));
    }
    let numbers = named.iter().flat_map(|(_, vector)| vector).filter(|number| number.is_finite());
    let largest = numbers.fold(1e-9f32, |largest, number| largest.max(number.abs()));
    let longest = named.iter().map(|(name, _)| name.as_ref().chars().count()).max().unwrap_or(0);
    let left = 24 + 7 * longest as i32;
    let number = (WIDTH / length as i32).clamp(7, 28); // wide
    // The scale needs its place, too.
    let right = left + (number * length as i32).max(340);
    let (width, height) = (right + 24, 16 + STRIP_ROW * named.len() as i32 + 40);
    let mut source = String::new();
    {
        let root = card(&mut source, (width as u32, height as u32))?;
        let text = |text: &str, at: (i32, i32), align: HPos| write(&root, text, at, letters(15, align));
        let cell = |at: (i32, i32), size: (i32, i32), share: f32| -> Result<()> {
            let corners = [at, (at.0 + size.0, at.1 + size.1)];
            root.draw(&Rectangle::new(corners, diverging(share).filled())).map_err(drawing)
        };
        for (nth, (name, vector)) in named.iter().enumerate() {
            let top = 16 + STRIP_ROW * nth as i32;
            text(name.as_ref(), (left - 8, top + STRIP / 2), HPos::Right)?;
            for (column, value) in vector.iter().enumerate() {
                cell((left + number * column as i32, top), (number, STRIP), value / largest)?;
            }
        }
        // The scale.
        let top = 16 + STRIP_ROW * named.len() as i32 + 10;
        text(&format!("{:.2}", -largest), (left, top + 8), HPos::Left)?;
        for step in 0..=40 {
            cell((left + 52 + 3 * step, top), (3, 16), step as f32 / 20.0 - 1.0)?;
        }
        text(&format!("{largest:.2}"), (left + 52 + 3 * 41 + 8, top + 8), HPos::Left)?;
        text(&format!("{length} numbers"), (right, top + 8), HPos::Right)?;
        root.present().map_err(drawing)?;
    }
    let names: Vec<&str> = named.iter().map(|(name, _)| name.as_ref()).collect();
    Ok(Figure::svg(source, format!("Vectors of {length} numbers as strips of colour: {}.", names.join("; "))))
}
