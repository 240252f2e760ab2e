//! The heads of a model to play with: hover a word, pick a layer and heads.

use std::fmt::Write;

use candle_core::Tensor;
use html_escape::encode_double_quoted_attribute;
use serde_json::json;

use super::attention::{Attention, head_colour, head_view};
use crate::error::Result;
use crate::figures::figure::Figure;

const SCRIPT: &str = include_str!("attention_view.js");

/// Shows what [`head_view`] draws, to play with: pick a layer and heads, point at a word to see only its lines and how much
/// it looks at each other one, click to keep it. What it needs is in the figure, so it works wherever a notebook is shown
/// and in a page saved with [`Figure::save`], without a kernel and without the network. Where scripts do not run, as in a
/// notebook that is not trusted, the drawing of the first layer is there instead.
///
/// # Errors
/// As [`head_view`].
pub fn attention_view<S: AsRef<str>>(tokens: &[S], attention: &[Tensor]) -> Result<Figure> {
    let read = Attention::read(tokens, attention)?;
    let heads: Vec<usize> = (0..read.check_layer(0)?.len()).collect();
    let drawing = head_view(tokens, attention, 0, &heads)?.to_html();
    let colours: Vec<String> = (0..read.heads())
        .map(|head| head_colour(head, read.heads()))
        .map(|colour| format!("#{:02x}{:02x}{:02x}", colour.0, colour.1, colour.2))
        .collect();
    // Per mille are finer than a screen can show.
    let per_mille = |weight: &f32| if weight.is_finite() { (1000.0 * weight).round() as i32 } else { 0 };
    let layers: Vec<Vec<Vec<Vec<i32>>>> = (read.layers.iter())
        .map(|maps| {
            maps.iter().map(|rows| rows.iter().map(|row| row.iter().map(per_mille).collect()).collect()).collect()
        })
        .collect();
    let data = json!({ "tokens": read.tokens, "colours": colours, "layers": layers }).to_string();
    let mut html = String::new();
    let _ = write!(
        html,
        "<div class=\"mlm-attention\" data-attention=\"{}\">{drawing}</div>\n<script>{SCRIPT}</script>",
        encode_double_quoted_attribute(&data)
    );
    Ok(Figure::html(html))
}
