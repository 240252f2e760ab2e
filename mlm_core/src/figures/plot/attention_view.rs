//! The heads of a model to play with: hover a word, pick a layer and heads.

use std::fmt::Write;

use candle_core::Tensor;
use html_escape::encode_double_quoted_attribute;
use serde_json::json;

use super::attention::{Attention, head_colour, lines};
use crate::error::Result;
use crate::figures::figure::Figure;

const SCRIPT: &str = include_str!("attention_view.js");

/// So many lines are in the drawing for where scripts do not run, and so many weights to play with: 0.3 and 1.1 MB.
const LINES_DRAWN: usize = 2_000;
const WEIGHTS: usize = 250_000;

/// So many of the strongest weights, each with the token that it is for, where that is more: 1.2 MB.
const STRONGEST: usize = 120_000;

/// Shows what [`crate::plot::head_view`] draws, to play with: pick a layer and heads, point at a word to see only its lines and
/// how much it looks at each other one, click to keep it. What it needs is in the figure, so it works wherever a notebook is shown
/// and in a page saved with [`Figure::save`], without a kernel and without the network. Where scripts do not run, as in a
/// notebook that is not trusted, the drawing of the first layer is there instead. Of a long sentence in a large model only
/// the tokens that each one looks at most are there, and the first layers; the figure says so.
///
/// # Errors
/// When `attention` is not that of one sentence of these tokens.
pub fn attention_view<S: AsRef<str>>(tokens: &[S], attention: &[Tensor]) -> Result<Figure> {
    let read = Attention::read(tokens, attention)?;
    let (seq, all) = (read.tokens.len(), read.layers.len());
    let rows: usize = read.layers.iter().map(|heads| heads.len() * seq).sum();
    let heads: Vec<usize> = (0..read.check_layer(0)?.len()).collect();
    let drawing = lines(&read, 0, &heads, LINES_DRAWN)?.to_html();
    let colours: Vec<String> = (0..read.heads())
        .map(|head| head_colour(head, read.heads()))
        .map(|colour| format!("#{:02x}{:02x}{:02x}", colour.0, colour.1, colour.2))
        .collect();
    // Per mille are finer than a screen can show.
    let per_mille = |weight: f32| if weight.is_finite() { (1000.0 * weight).round() as usize } else { 0 };
    let mut row_data: &dyn Fn(&Vec<f32>) -> Vec<usize> = &|row| row.iter().map(|&weight| per_mille(weight)).collect();
    let (most, mut layers, mut note) = ((STRONGEST / rows).max(1), all, String::new());
    // The strongest of a row, each as its token and its weight.
    let strongest = |row: &Vec<f32>| {
        let mut keys: Vec<usize> = (0..row.len()).collect();
        keys.sort_by(|&a, &b| row[b].total_cmp(&row[a]));
        keys.iter().take(most).flat_map(|&key| [key, per_mille(row[key])]).collect()
    };
    if rows * seq > WEIGHTS {
        layers = (all * STRONGEST / rows).clamp(1, all);
        note = format!("the {most} that each looks at most");
        if layers < all {
            note += &format!(", the first {layers} of {all} layers");
        }
        row_data = &strongest;
    }
    let layers: Vec<Vec<Vec<Vec<usize>>>> = (read.layers[..layers].iter())
        .map(|maps| maps.iter().map(|rows| rows.iter().map(row_data).collect()).collect())
        .collect();
    let data = json!({ "tokens": read.tokens, "colours": colours, "layers": layers, "note": note }).to_string();
    let mut html = String::new();
    let _ = write!(
        html,
        "<div class=\"mlm-attention\" data-attention=\"{}\">{drawing}</div>\n<script>{SCRIPT}</script>",
        encode_double_quoted_attribute(&data)
    );
    Ok(Figure::html(html))
}
