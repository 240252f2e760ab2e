//! Takes drawings (SVG) and marked-up text (HTML), gives one [`Figure`] that a notebook shows inline and that can be
//! saved; what is drawn is left to [`crate::figures::plot`] and [`crate::figures::markup`].
//!
//! A notebook cell shows one output per MIME type, the last one wins, so several figures of a cell are stacked into
//! one. Drawings go out as `<img>`: JupyterLab strips SVG elements, but not images, from a notebook that is not
//! trusted yet, which every notebook is when it is opened for the first time.

use std::fmt;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use html_escape::{encode_double_quoted_attribute, encode_text};

use crate::error::{Error, Result};
use crate::files;

/// Endings of files that hold one drawing.
const IMAGES: &[&str] = if cfg!(feature = "cli") { &["svg", "png"] } else { &["svg"] };

/// More bytes than that are not put into a notebook.
const LARGEST_OUTPUT: usize = 2_000_000;

/// Something to look at. In a notebook, end a cell with it.
#[derive(Clone, PartialEq)]
pub struct Figure {
    parts: Vec<Part>,
}

#[derive(Clone, PartialEq)]
enum Part {
    Svg { source: String, description: String },
    Html(String),
}

impl Part {
    fn to_html(&self) -> String {
        match self {
            Part::Html(fragment) => fragment.clone(),
            Part::Svg { source, description } => format!(
                "<img style=\"max-width: 100%; box-sizing: border-box; border: 1px solid #d8dee4; border-radius: 6px\" alt=\"{}\" src=\"data:image/svg+xml;base64,{}\">",
                encode_double_quoted_attribute(description),
                STANDARD.encode(source)
            ),
        }
    }
}

impl fmt::Debug for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The kernel writes this when it cannot tell what the last expression of a cell is, such as one that uses up a
        // variable of an earlier cell.
        f.write_str(
            "a Figure; to see it, end the cell with `let figure: Figure = …;` and, in a line of its own, `figure`",
        )
    }
}

impl Figure {
    /// A drawing, with a description for those who cannot see it.
    pub fn svg(source: impl Into<String>, description: impl Into<String>) -> Self {
        Self { parts: vec![Part::Svg { source: source.into(), description: description.into() }] }
    }

    /// A fragment of HTML; all text in it must be escaped already.
    pub fn html(fragment: impl Into<String>) -> Self {
        Self { parts: vec![Part::Html(fragment.into())] }
    }

    /// A line of plain text, to stand above a figure.
    pub fn heading(text: &str) -> Self {
        Self::html(format!("<div style=\"margin: 8px 0 2px 0; font-weight: bold\">{}</div>", encode_text(text)))
    }

    /// Several figures in one, from top to bottom.
    pub fn stack(figures: impl IntoIterator<Item = Figure>) -> Self {
        Self { parts: figures.into_iter().flat_map(|figure| figure.parts).collect() }
    }

    /// The figure as a fragment of HTML.
    pub fn to_html(&self) -> String {
        self.parts.iter().map(Part::to_html).collect::<Vec<_>>().join("\n")
    }

    /// As [`Self::to_html`]; of what would make the notebook slow, that it is not there, and how to get it.
    pub(crate) fn to_output(&self) -> String {
        let mut room = LARGEST_OUTPUT;
        let part = |part: &Part| {
            let html = part.to_html();
            if let Some(left) = room.checked_sub(html.len()) {
                room = left;
                return html;
            }
            let size = html.len() as f64 / 1e6;
            format!(
                "<div><i>What stands here is {size:.1} MB, and a notebook with it slow to open and to save. \
                 <code>figure.save(\"figure.html\")?</code> writes it into a file.</i></div>"
            )
        };
        self.parts.iter().map(part).collect::<Vec<_>>().join("\n")
    }

    /// Shows the figure as the output of a notebook cell; the Rust kernel calls it for the last expression of a cell. Of more
    /// than 2 MB it shows how to save it.
    pub fn evcxr_display(&self) {
        evcxr_runtime::mime_type("text/html").text(self.to_output());
    }

    /// Writes the figure to a file: a drawing as `.svg` (and, with the feature `cli`, as `.png`), any figure as a page of
    /// its own as `.html`.
    ///
    /// # Errors
    /// When the file has another ending, a figure that is not one drawing is to be an image, or the file cannot be
    /// written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        let content = match (ending, self.parts.as_slice()) {
            ("svg", [Part::Svg { source, .. }]) => source.clone().into_bytes(),
            #[cfg(feature = "cli")]
            ("png", [Part::Svg { source, .. }]) => crate::figures::png::encode(source)?,
            ("html", _) => format!(
                "<!doctype html>\n<meta charset=\"utf-8\">\n<body style=\"font-family: sans-serif; margin: 24px\">\n{}\n",
                self.to_html()
            )
            .into_bytes(),
            (image, parts) if IMAGES.contains(&image) => {
                return Err(Error::Figure(format!(
                    "{}: an image holds one drawing, this figure has {} parts with text; save it as .html",
                    path.display(),
                    parts.len()
                )));
            }
            _ => {
                let images = IMAGES.join(" or .");
                return Err(Error::Figure(format!("{}: a figure is saved as .{images} or .html", path.display())));
            }
        };
        files::write(path, &content)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_large_for_a_notebook_says_how_to_get_it() {
        let [small, large] = [10, LARGEST_OUTPUT].map(|size| Figure::html("x".repeat(size)));
        let output = Figure::stack([small.clone(), large.clone(), small.clone()]).to_output();
        assert!(output.len() < 1000 && output.matches("xxxxxxxxxx").count() == 2, "{output}");
        assert!(output.contains("2.0 MB") && output.contains("figure.save"), "{output}");
        assert_eq!(large.to_output(), large.to_html());
    }
}
