//! Which words a model recovers, epoch by epoch.

use plotters::prelude::*;
use plotters::style::text_anchor::HPos;

use super::{INK, card, drawing, ink_on, letters, write};
use crate::analysis::evaluate::Recovery;
use crate::error::{Error, Result};
use crate::figures::figure::Figure;

/// Height of a row, width of a column, of the words before them and of the scale after them, in pixels.
const ROW: i32 = 18;
const COLUMN: i32 = 52;
const WORDS: i32 = 120;
const SCALE: i32 = 124;
/// Where the rows start, and the height of the scale.
const TOP: i32 = 44;
const SCALE_HEIGHT: i32 = 200;
/// More rows than that are not drawn: nobody reads them, and a text of one's own has tens of thousands of words.
const MAX_WORDS: usize = 100;
/// The longest word that stands beside its row in full.
const MAX_LETTERS: usize = 13;

/// Draws how surely each word is recovered after each epoch: a row a word, a column an epoch (the first is before
/// training), the colour and the number being the probability of the right word in percent. A tick marks the words that
/// are recovered: the right word is the most likely one. The last row counts them. Of more than 100 words the first 100
/// are drawn, and all are counted.
///
/// # Errors
/// When there is no recovery, or they are not of the same words.
pub fn recovery_heat_map(recoveries: &[Recovery]) -> Result<Figure> {
    let Some(first) = recoveries.first().filter(|first| !first.words.is_empty()) else {
        return Err(Error::argument("recoveries", "at least one with words", "none"));
    };
    let total = first.words.len();
    if let Some(other) = recoveries.iter().find(|other| other.words.len() != total) {
        let expected = format!("recoveries of the same {total} words");
        return Err(Error::argument("recoveries", expected, other.words.len()));
    }
    let drawn = total.min(MAX_WORDS);
    let left_out = (drawn < total).then(|| format!("the first {drawn} of {total} words"));

    // A little space parts the sentences.
    let mut y = TOP;
    let mut tops = Vec::with_capacity(drawn);
    for (nth, word) in first.words[..drawn].iter().enumerate() {
        if nth > 0 && first.words[nth - 1].sentence != word.sentence {
            y += 8;
        }
        tops.push(y);
        y += ROW;
    }
    let right = WORDS + (COLUMN * recoveries.len() as i32).max(240);
    let height = (y + if left_out.is_some() { 64 } else { 40 }).max(TOP + SCALE_HEIGHT + 48);
    let mut source = String::new();
    {
        let root = card(&mut source, ((right + SCALE) as u32, height as u32))?;
        let text = |text: &str, at: (i32, i32), size: i32, colour: RGBColor, align: HPos| {
            write(&root, text, at, letters(size, align).color(&colour))
        };
        let tick = |(x, y): (i32, i32), colour: RGBColor| -> Result<()> {
            let line = ShapeStyle::from(&colour).stroke_width(2);
            root.draw(&PathElement::new([(x - 4, y), (x - 1, y + 3), (x + 4, y - 4)], line)).map_err(drawing)
        };
        for (epoch, recovery) in recoveries.iter().enumerate() {
            let left = WORDS + COLUMN * epoch as i32;
            text(&epoch.to_string(), (left + COLUMN / 2, 30), 16, INK, HPos::Center)?;
            for (word, &top) in recovery.words.iter().zip(&tops) {
                // A diverged model gives NaN, for which there is no colour.
                let probability = if word.probability.is_finite() { word.probability } else { 0.0 };
                let colour = ViridisRGB.get_color(probability);
                let cell = Rectangle::new([(left, top), (left + COLUMN - 1, top + ROW - 1)], colour.filled());
                root.draw(&cell).map_err(drawing)?;
                let ink = ink_on(colour);
                let percent = format!("{:.0}", 100.0 * word.probability);
                text(&percent, (left + COLUMN / 2 - 4, top + ROW / 2), 14, ink, HPos::Center)?;
                if word.recovered {
                    tick((left + COLUMN - 11, top + ROW / 2), ink)?;
                }
            }
            text(&recovery.recovered().to_string(), (left + COLUMN / 2 - 4, y + 16), 16, INK, HPos::Center)?;
        }
        for (word, &top) in first.words.iter().zip(&tops) {
            text(&shortened(&word.word), (WORDS - 8, top + ROW / 2), 16, INK, HPos::Right)?;
        }
        text("epoch", (WORDS + COLUMN * recoveries.len() as i32 / 2, 12), 16, INK, HPos::Center)?;
        text("word masked alone", (WORDS - 8, 30), 14, INK, HPos::Right)?;
        text("recovered", (WORDS - 8, y + 16), 16, INK, HPos::Right)?;
        text(&format!("of {total}"), (WORDS + COLUMN * recoveries.len() as i32 + 4, y + 16), 16, INK, HPos::Left)?;
        if let Some(left_out) = &left_out {
            text(left_out, (WORDS, y + 42), 14, INK, HPos::Left)?;
        }
        // The scale: probability 0 to 100 %.
        let left = right + 24;
        for step in 0..SCALE_HEIGHT / 2 {
            let colour = ViridisRGB.get_color(1.0 - f64::from(step) / f64::from(SCALE_HEIGHT / 2 - 1));
            let stripe = Rectangle::new([(left, TOP + 2 * step), (left + 14, TOP + 2 * step + 2)], colour.filled());
            root.draw(&stripe).map_err(drawing)?;
        }
        text("p (%)", (left + 8, 30), 14, INK, HPos::Center)?;
        for (label, offset) in [("100", 0), ("50", SCALE_HEIGHT / 2), ("0", SCALE_HEIGHT)] {
            text(label, (left + 20, TOP + offset), 14, INK, HPos::Left)?;
        }
        tick((left + 6, TOP + SCALE_HEIGHT + 26), INK)?;
        text("recovered", (left + 20, TOP + SCALE_HEIGHT + 26), 14, INK, HPos::Left)?;
        root.present().map_err(drawing)?;
    }
    let last = recoveries.last().unwrap_or(first);
    let description = format!(
        "Heat map of the probability of the right word when it is masked alone, {} over {} epochs: \
         {} recovered before training, {} at the end.",
        left_out.unwrap_or_else(|| format!("{total} words")),
        recoveries.len() - 1,
        first.recovered(),
        last.recovered()
    );
    Ok(Figure::svg(source, description))
}

/// A word that fits beside its row.
fn shortened(word: &str) -> String {
    match word.char_indices().nth(MAX_LETTERS) {
        Some((end, _)) => format!("{}…", &word[..end]),
        None => word.to_owned(),
    }
}
