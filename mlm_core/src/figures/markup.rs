//! Takes batches, predictions and histories, shows their tokens as text in colour and their losses as a table, as
//! [`Figure`]s of HTML.
//!
//! Coloured text brings its own background, everything else takes the notebook's colours, so that both read well in a
//! light and a dark theme. What the colours say stands in the text too.

use std::fmt::Write;

use html_escape::encode_text;

use crate::analysis::predict::FilledMask;
use crate::error::Result;
use crate::figures::figure::Figure;
use crate::text::batch::Batch;
use crate::text::masking::Treatment;
use crate::text::tokenizer::Tokenizer;
use crate::training::history::History;

/// Colours on which white text reads (Okabe and Ito's, darkened where needed).
pub(super) const VERMILION: &str = "#b34700";
const PURPLE: &str = "#8e3f73";
pub(super) const GREEN: &str = "#00704f";

/// Background of what was done to a token, and its name.
fn appearance(treatment: Treatment) -> (&'static str, &'static str) {
    match treatment {
        Treatment::Mask => (VERMILION, "[MASK]"),
        Treatment::Random => (PURPLE, "random token"),
        Treatment::Keep => (GREEN, "kept as it is"),
    }
}

/// Shows each sequence of a batch in a line of its own: tokens to recover on a coloured background, above them what
/// the model sees, below them the token that it must recover.
///
/// # Errors
/// When the parts of the batch do not fit together.
pub fn masked_tokens(batch: &Batch, tokenizer: &Tokenizer) -> Result<Figure> {
    batch.validate()?;
    let mut html = String::from("<div style=\"line-height: 1.3\">");
    let legend = [Treatment::Mask, Treatment::Random, Treatment::Keep].map(|treatment| {
        let (background, name) = appearance(treatment);
        format!("<span style=\"{}\">{}</span>", coloured(background), encode_text(name))
    });
    let _ = write!(
        html,
        "<div style=\"margin-bottom: 6px\">to recover: {} <span style=\"opacity: 0.7\">(below: the right token)</span></div>",
        legend.join(" ")
    );
    let mut masked = batch.masked_rows.iter().enumerate().peekable();
    let mut row = 0;
    for sequence in 0..batch.sequences() {
        html.push_str("<div>");
        for &id in batch.sequence(sequence)? {
            let token = tokenizer.token(id);
            let chosen = masked.next_if(|&(_, &masked_row)| masked_row == row);
            let (style, below) = match chosen {
                Some((nth, _)) => {
                    let (background, _) = appearance(batch.treatments[nth]);
                    (coloured(background), batch.targets.get(nth).map(|&target| tokenizer.token(target)))
                }
                None if tokenizer.is_special(id) => ("opacity: 0.6; padding: 1px 3px".to_owned(), None),
                None => ("padding: 1px 3px".to_owned(), None),
            };
            let below = below.map_or_else(|| "&nbsp;".to_owned(), |token| encode_text(&token).into_owned());
            let _ = write!(
                html,
                "<span style=\"display: inline-block; text-align: center; vertical-align: top; margin: 1px 2px\">\
                 <span style=\"{style}\">{}</span><br><span style=\"font-size: 80%\">{below}</span></span> ",
                encode_text(&token)
            );
            row += 1;
        }
        html.push_str("</div>");
    }
    html.push_str("</div>");
    Ok(Figure::html(html))
}

fn coloured(background: &str) -> String {
    format!("background-color: {background}; color: #ffffff; padding: 1px 5px; border-radius: 3px")
}

/// Shows the predictions for each gap of a text as bars.
pub fn predictions(filled: &FilledMask) -> Figure {
    let mut html = format!("<div style=\"margin: 4px 0\"><b>{}</b></div>", encode_text(&filled.text));
    for (nth, candidates) in filled.masks.iter().enumerate() {
        if filled.masks.len() > 1 {
            let _ = write!(html, "<div style=\"margin: 4px 0\">[MASK] {}</div>", nth + 1);
        }
        // Columns as wide in one table as in the next, so that the bars of several can be compared.
        html.push_str("<table style=\"border-collapse: collapse; table-layout: fixed; width: 480px; margin: 0\">");
        for candidate in candidates {
            let percent = 100.0 * candidate.probability;
            let _ = write!(
                html,
                "<tr><td style=\"width: 140px; text-align: right; padding: 1px 8px; overflow-wrap: anywhere\">{}</td>\
                 <td style=\"padding: 1px 0\"><div style=\"width: {percent:.1}%; min-width: 1px; \
                 height: 14px; background-color: #0072b2\"></div></td>\
                 <td style=\"width: 60px; text-align: right; padding: 1px 8px\">{percent:.1} %</td></tr>",
                encode_text(&candidate.token)
            );
        }
        html.push_str("</table>");
    }
    if let Some(unseen) = filled.coverage.unseen() {
        let _ = write!(html, "<div style=\"margin: 4px 0\">{unseen}</div>");
    }
    Figure::html(html)
}

/// Shows the last validation loss of each run beside its [`crate::Baselines`], all in nats per masked token, and the share of
/// the gap between the neighbours and the floor that it has closed. What is not known is left out.
pub fn gaps(runs: &[&History]) -> Figure {
    let cell = |html: &mut String, text: &str| {
        let _ = write!(html, "<td style=\"text-align: right; padding: 1px 8px\">{}</td>", encode_text(text));
    };
    let mut html = String::from("<table style=\"border-collapse: collapse; margin: 0\"><tr>");
    for title in ["run", "unigram", "neighbours", "at best", "validation", "floor", "gap closed"] {
        let _ = write!(html, "<th style=\"text-align: right; padding: 1px 8px\">{title}</th>");
    }
    html.push_str("</tr>");
    for run in runs {
        let loss = |loss: Option<f64>| loss.map(|loss| format!("{loss:.3}")).unwrap_or_default();
        let baselines = run.baselines();
        let closed = run.gap_closed().map(|closed| format!("{:.1} %", 100.0 * closed));
        html.push_str("<tr>");
        cell(&mut html, run.name());
        cell(&mut html, &loss(baselines.map(|baselines| baselines.unigram.loss)));
        cell(&mut html, &loss(baselines.map(|baselines| baselines.neighbours.loss)));
        cell(&mut html, &loss(baselines.and_then(|baselines| Some(baselines.best_neighbours.as_ref()?.loss))));
        cell(&mut html, &loss(run.validation_loss()));
        cell(&mut html, &loss(baselines.and_then(|baselines| Some(baselines.floor.as_ref()?.loss))));
        cell(&mut html, &closed.unwrap_or_default());
        html.push_str("</tr>");
    }
    html.push_str("</table>");
    Figure::html(html)
}
