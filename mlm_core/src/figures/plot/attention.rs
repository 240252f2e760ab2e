//! Who looks at whom: all heads of a model side by side, and the heads of one layer as lines between words.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use candle_core::{DType, Device, Tensor};
use plotters::prelude::*;
use plotters::style::FontTransform;
use plotters::style::text_anchor::HPos;

use super::heat_map::sequential;
use super::{GRID, RUNS, card, drawing, letters, write};
use crate::error::{Error, Result};
use crate::figures::figure::Figure;

/// The attention probabilities of one sentence.
pub(super) struct Attention {
    pub(super) tokens: Vec<String>,
    /// `[layers, heads, seq, seq]`
    pub(super) layers: Vec<Vec<Vec<Vec<f32>>>>,
}

impl Attention {
    /// Those of the only sentence of a batch, `[1, heads, seq, seq]` for each layer.
    pub(super) fn read<S: AsRef<str>>(tokens: &[S], attention: &[Tensor]) -> Result<Self> {
        let seq = tokens.len();
        let mut layers = Vec::with_capacity(attention.len());
        for layer in attention {
            match layer.dims() {
                [1, heads, rows, columns] if *heads > 0 && (*rows, *columns) == (seq, seq) && seq > 0 => {}
                other => {
                    let expected = format!("[1, heads, {seq}, {seq}] for each layer: one sentence, of these tokens");
                    return Err(Error::argument("attention", expected, format!("{other:?}")));
                }
            }
            let layer = layer.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.squeeze(0)?;
            layers.push(layer.to_vec3()?);
        }
        if layers.is_empty() {
            return Err(Error::argument("attention", "at least one layer", "none"));
        }
        Ok(Self { tokens: tokens.iter().map(|token| token.as_ref().to_owned()).collect(), layers })
    }

    pub(super) fn heads(&self) -> usize {
        self.layers.iter().map(Vec::len).max().unwrap_or(0)
    }

    pub(super) fn check_layer(&self, layer: usize) -> Result<&[Vec<Vec<f32>>]> {
        let expected = || format!("less than {}, counted from 0", self.layers.len());
        self.layers.get(layer).map(Vec::as_slice).ok_or_else(|| Error::argument("layer", expected(), layer))
    }

    fn text(&self) -> String {
        self.tokens.join(" ")
    }

    /// How wide the longest token is about, in pixels, in letters of that size.
    fn longest(&self, size: i32) -> i32 {
        let letters = self.tokens.iter().map(|token| token.chars().count()).max().unwrap_or(0);
        letters as i32 * size * 11 / 20 + size
    }
}

/// Head by head another colour.
pub(super) fn head_colour(head: usize, heads: usize) -> RGBColor {
    if heads <= RUNS.len() {
        return RUNS[head];
    }
    let (r, g, b) = HSLColor(head as f64 / heads as f64, 0.75, 0.4).rgb();
    RGBColor(r, g, b)
}

/// Maps of more cells than these are pictures of so many pixels at most: 0.6 MB, whatever is in them.
const CELLS: usize = 4_000;
const PIXELS: usize = 1_200_000;

/// Draws the attention of all heads to one sentence as small heat maps: a row of maps a layer, a column of maps a head; in
/// a map, a row for each token that looks and a column for each token that it looks at. The darker, the more; the scale
/// goes by the root, so that a little can be told from nothing. `attention` is that of [`crate::Encoded`] for a batch of
/// this sentence alone. Of a long sentence in a large model a square stands for several tokens, and the darkest of them
/// counts; the figure says so.
///
/// # Errors
/// When `attention` is not that of one sentence of these tokens.
pub fn model_view<S: AsRef<str>>(tokens: &[S], attention: &[Tensor]) -> Result<Figure> {
    const WIDTH: i32 = 960;
    const GAP: i32 = 14;
    const TOP: i32 = 46;
    let attention = Attention::read(tokens, attention)?;
    let maps: usize = attention.layers.iter().map(Vec::len).sum();
    let (seq, heads) = (tokens.len(), attention.heads() as i32);
    let largest = ((PIXELS / maps) as f64).sqrt() as usize; // a map, in squares
    let tokens_each = seq.div_ceil(largest.max(1));
    let squares = seq.div_ceil(tokens_each);
    let cell = ((WIDTH - 140) / heads - GAP).div_euclid(squares as i32).clamp(1, 14);
    // Words stand beside their rows where they can be read.
    let size = (cell + 1).min(13);
    let named = cell >= 8 && tokens_each == 1;
    let (left, below) = if named { (attention.longest(size) + 16, attention.longest(size)) } else { (24, 0) };
    let map = cell * squares as i32;
    let (step, row) = ((map + GAP).max(48), map + GAP + 22);
    let end = TOP + row * attention.layers.len() as i32 - GAP - 16; // of the maps
    let (width, height) = (left + (step * heads).max(330) + 16, end + below + 64);
    let mut source = String::new();
    let mut pictures = String::new();
    {
        let root = card(&mut source, (width as u32, height as u32))?;
        let text = |text: &str, at: (i32, i32), size: i32, align: HPos| write(&root, text, at, letters(size, align));
        for (layer, of_layer) in attention.layers.iter().enumerate() {
            let top = TOP + row * layer as i32;
            for (head, rows) in of_layer.iter().enumerate() {
                let x = left + step * head as i32;
                let name = if step < 95 {
                    format!("{}-{}", layer + 1, head + 1)
                } else {
                    format!("layer {} head {}", layer + 1, head + 1)
                };
                text(&name, (x + map / 2, top - 11), 13, HPos::Center)?;
                if maps * seq * seq > CELLS {
                    pictures += &picture(&darkest(rows, tokens_each), (x, top), map)?;
                } else {
                    for (query, row) in rows.iter().enumerate() {
                        for (key, &weight) in row.iter().enumerate() {
                            let (x, y) = (x + cell * key as i32, top + cell * query as i32);
                            let corners = [(x, y), (x + cell, y + cell)];
                            root.draw(&Rectangle::new(corners, shade(weight).filled())).map_err(drawing)?;
                        }
                    }
                }
                let frame = Rectangle::new([(x, top), (x + map, top + map)], GRID.stroke_width(1));
                root.draw(&frame).map_err(drawing)?;
            }
            for (query, token) in attention.tokens.iter().enumerate().filter(|_| named) {
                let y = top + cell * query as i32 + cell / 2;
                text(token, (left - 6, y), size, HPos::Right)?;
            }
        }
        for head in (0..heads).filter(|_| named) {
            for (key, token) in attention.tokens.iter().enumerate() {
                let x = left + step * head + cell * key as i32 + cell / 2;
                write(&root, token, (x, end), letters(size, HPos::Left).transform(FontTransform::Rotate90))?;
            }
        }
        let each = match tokens_each {
            1 => String::new(),
            each => format!("; a square is the darkest of {each} x {each} tokens"),
        };
        text(&format!("each row looks at its columns{each}"), (left, 14), 14, HPos::Left)?;
        // The scale: where along it a weight stands goes by its root.
        let (x, y, length) = (left, height - 40, 200);
        for step in 0..100 {
            let stripe = [(x + step * length / 100, y), (x + (step + 1) * length / 100, y + 12)];
            let weight = (step as f32 / 99.0).powi(2);
            root.draw(&Rectangle::new(stripe, shade(weight).filled())).map_err(drawing)?;
        }
        root.draw(&Rectangle::new([(x, y), (x + length, y + 12)], GRID.stroke_width(1))).map_err(drawing)?;
        for (label, weight) in [("0", 0.0), ("0.05", 0.05), ("0.25", 0.25), ("1", 1.0f64)] {
            let at = x + (f64::from(length) * weight.sqrt()).round() as i32;
            text(label, (at, y + 24), 13, HPos::Center)?;
        }
        text("attention probability", (x + length + 14, y + 6), 13, HPos::Left)?;
        root.present().map_err(drawing)?;
    }
    let end = source.rfind("</svg>").unwrap_or(source.len());
    source.insert_str(end, &pictures);
    let (layers, sentence) = (attention.layers.len(), attention.text());
    let description = format!("Attention of {layers} layers of {heads} heads to the sentence: {sentence}");
    Ok(Figure::svg(source, description))
}

/// The largest weights of squares of so many tokens.
fn darkest(rows: &[Vec<f32>], tokens: usize) -> Vec<Vec<f32>> {
    let largest = |weights: &mut dyn Iterator<Item = f32>| weights.fold(f32::NAN, f32::max);
    let narrow = |row: &Vec<f32>| row.chunks(tokens).map(|part| largest(&mut part.iter().copied())).collect();
    let narrow: Vec<Vec<f32>> = rows.iter().map(narrow).collect();
    (narrow.chunks(tokens))
        .map(|rows| (0..rows[0].len()).map(|key| largest(&mut rows.iter().map(|row| row[key]))).collect())
        .collect()
}

/// A map as a picture in an SVG: 15 shades, and one for what is not a number.
fn picture(weights: &[Vec<f32>], (x, y): (i32, i32), size: i32) -> Result<String> {
    const SHADES: u8 = 15;
    let share = |nth: u8| f32::from(nth) / f32::from(SHADES - 1);
    let colours = (0..SHADES).map(|nth| sequential(share(nth))).chain([GRID]);
    let palette: Vec<u8> = colours.flat_map(|RGBColor(red, green, blue)| [red, green, blue]).collect();
    let index = |weight: f32| match weight {
        weight if weight.is_finite() => (weight.clamp(0.0, 1.0).sqrt() * f32::from(SHADES - 1)).round() as u8,
        _ => SHADES,
    };
    let pair = |pair: &[f32]| index(pair[0]) << 4 | pair.get(1).map_or(0, |&weight| index(weight));
    let pixels: Vec<u8> = weights.iter().flat_map(|row| row.chunks(2).map(pair)).collect();
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, weights[0].len() as u32, weights.len() as u32);
    encoder.set_color(png::ColorType::Indexed);
    encoder.set_depth(png::BitDepth::Four);
    encoder.set_palette(palette);
    encoder.write_header().and_then(|mut writer| writer.write_image_data(&pixels)).map_err(drawing)?;
    let bytes = STANDARD.encode(bytes);
    Ok(format!(
        "<image x=\"{x}\" y=\"{y}\" width=\"{size}\" height=\"{size}\" style=\"image-rendering: pixelated\" \
         href=\"data:image/png;base64,{bytes}\"/>\n"
    ))
}

/// By the root, so that a little can be told from nothing.
fn shade(weight: f32) -> RGBColor {
    sequential(weight.sqrt())
}

/// So many lines between words are drawn: 0.6 MB.
const LINES_DRAWN: usize = 5_000;

/// Draws whom each token looks at in one layer, as lines from the token that looks (left) to the one that is looked at
/// (right): a colour for each of `heads`, and the thicker and darker, the more. Layers and heads are counted from 0 and
/// named from 1. Less than 2 % is left out, and of more than 5,000 lines all but the strongest; the figure says so.
///
/// # Errors
/// When `attention` is not that of one sentence of these tokens, or has no such layer or head.
pub fn head_view<S: AsRef<str>>(tokens: &[S], attention: &[Tensor], layer: usize, heads: &[usize]) -> Result<Figure> {
    lines(&Attention::read(tokens, attention)?, layer, heads, LINES_DRAWN)
}

/// As [`head_view`], at most so many lines.
pub(super) fn lines(attention: &Attention, layer: usize, heads: &[usize], most: usize) -> Result<Figure> {
    const ROW: i32 = 24;
    const TOP: i32 = 66;
    const LINES: i32 = 260;
    let maps = attention.check_layer(layer)?;
    if let Some(head) = heads.iter().find(|&&head| head >= maps.len()) {
        return Err(Error::argument("heads", format!("less than {}, counted from 0", maps.len()), head));
    }
    // Of each line the head, the two tokens and the weight.
    let mut drawn = Vec::new();
    for (nth, &head) in heads.iter().enumerate() {
        for (query, row) in maps[head].iter().enumerate() {
            let strong = row.iter().enumerate().filter(|(_, weight)| **weight >= 0.02);
            drawn.extend(strong.map(|(key, &weight)| (nth, query, key, weight)));
        }
    }
    let all = drawn.len();
    if all > most {
        drawn.sort_by(|a, b| b.3.total_cmp(&a.3));
        drawn.truncate(most);
        drawn.sort_by_key(|&(nth, query, key, _)| (nth, query, key));
    }
    let words = attention.longest(16).max(60);
    let legend = 78 * heads.len() as i32;
    let width = (2 * words + LINES).max(legend + 32) + 32;
    let (from, to) = ((width - LINES) / 2, (width + LINES) / 2);
    let height = TOP + ROW * attention.tokens.len() as i32 + 16;
    let mut source = String::new();
    {
        let root = card(&mut source, (width as u32, height as u32))?;
        let text = |text: &str, at: (i32, i32), align: HPos| write(&root, text, at, letters(16, align));
        let middle = |token: usize| TOP + ROW * token as i32 + ROW / 2;
        for (nth, &head) in heads.iter().enumerate() {
            let (x, y) = ((width - legend) / 2 + 78 * nth as i32, 18);
            let colour = head_colour(head, maps.len());
            root.draw(&Rectangle::new([(x, y - 6), (x + 12, y + 6)], colour.filled())).map_err(drawing)?;
            text(&format!("head {}", head + 1), (x + 17, y), HPos::Left)?;
        }
        for &(nth, query, key, weight) in &drawn {
            let colour = head_colour(heads[nth], maps.len());
            // Lines of several heads between the same words lie side by side.
            let shift = (2 * nth as i32 - heads.len() as i32 + 1).clamp(-8, 8);
            let style = colour.mix(f64::from(0.15 + 0.75 * weight)).stroke_width(1 + (6.0 * weight) as u32);
            let line = [(from, middle(query) + shift), (to, middle(key) + shift)];
            root.draw(&PathElement::new(line, style)).map_err(drawing)?;
        }
        text(&format!("layer {}", layer + 1), (from - 8, 46), HPos::Right)?;
        let looks = if all > most { format!("looks at: the {most} strongest of {all}") } else { "looks at".to_owned() };
        text(&looks, (width / 2, 46), HPos::Center)?;
        for (nth, token) in attention.tokens.iter().enumerate() {
            text(token, (from - 8, middle(nth)), HPos::Right)?;
            text(token, (to + 8, middle(nth)), HPos::Left)?;
        }
        root.present().map_err(drawing)?;
    }
    let shown: Vec<String> = heads.iter().map(|head| (head + 1).to_string()).collect();
    let (shown, layer, sentence) = (shown.join(", "), layer + 1, attention.text());
    Ok(Figure::svg(source, format!("Whom each token looks at in layer {layer}, heads {shown}: {sentence}")))
}
