//! Takes what somebody has worked out in an exercise and what is asked of it, says what is right and what is wrong.

use std::fmt::{self, Debug, Write};

use html_escape::encode_text;

use crate::figures::figure::Figure;
use crate::figures::markup::{GREEN, VERMILION};

/// What an exercise of a notebook asks of an answer, one thing after the other. In a notebook, end a cell with it: it shows
/// what is right, up to the first thing that is not, and what to think about there.
///
/// ```
/// use mlm_core::Check;
///
/// fn mean(numbers: &[f64]) -> f64 {
///     numbers.iter().sum()
/// }
/// let check = Check::new()
///     .near("the mean of 3", mean(&[3.0]), 3.0, "")
///     .near("the mean of 1 and 3", mean(&[1.0, 3.0]), 2.0, "By what is the sum divided?");
/// assert!(!check.passed());
/// assert_eq!(check.wrong(), Some("the mean of 1 and 3: expected 2, got 4. By what is the sum divided?"));
/// ```
#[derive(Clone, Default, PartialEq)]
pub struct Check {
    right: Vec<String>,
    wrong: Option<String>,
}

impl Check {
    /// Nothing is asked yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks that a number be near to the one expected: no more than a ten-thousandth of it (of 1, if it is smaller) away.
    #[must_use]
    pub fn near(self, what: &str, yours: impl Into<f64>, expected: impl Into<f64>, hint: &str) -> Self {
        let (yours, expected) = (yours.into(), expected.into());
        let near = (yours - expected).abs() <= 1e-4 * expected.abs().max(1.0);
        self.ask(what, near, &format!("expected {}, got {}.", rounded(expected), rounded(yours)), hint)
    }

    /// Asks that something be equal to what is expected.
    #[must_use]
    pub fn equal<T: PartialEq + Debug>(self, what: &str, yours: T, expected: T, hint: &str) -> Self {
        let said = format!("expected {expected:?}, got {yours:?}.");
        self.ask(what, yours == expected, &said, hint)
    }

    /// Asks that something hold.
    #[must_use]
    pub fn that(self, what: &str, holds: bool, hint: &str) -> Self {
        self.ask(what, holds, "this does not hold yet.", hint)
    }

    fn ask(mut self, what: &str, holds: bool, otherwise: &str, hint: &str) -> Self {
        if self.wrong.is_none() {
            match holds {
                true => self.right.push(what.to_owned()),
                false => self.wrong = Some(format!("{what}: {otherwise} {hint}").trim_end().to_owned()),
            }
        }
        self
    }

    /// Whether all that was asked holds.
    pub fn passed(&self) -> bool {
        self.wrong.is_none()
    }

    /// The first thing that does not hold, what came instead, and a hint.
    pub fn wrong(&self) -> Option<&str> {
        self.wrong.as_deref()
    }

    /// What is right so far, and what is wrong.
    pub fn to_figure(&self) -> Figure {
        let edge = if self.passed() { GREEN } else { VERMILION };
        let mut html = format!("<div style=\"border-left: 5px solid {edge}; padding: 2px 10px\">");
        for line in self.lines() {
            let _ = write!(html, "<div>{}</div>", encode_text(&line));
        }
        html.push_str("</div>");
        Figure::html(html)
    }

    /// What is right so far and what is wrong; once all is right, below it a figure of what has been worked out.
    pub fn and_show(&self, figure: Figure) -> Figure {
        Figure::stack([self.to_figure()].into_iter().chain(self.passed().then_some(figure)))
    }

    fn lines(&self) -> Vec<String> {
        let mut lines = vec![if self.passed() { "All right." } else { "Not yet." }.to_owned()];
        lines.extend(self.right.iter().map(|what| format!("✓ {what}")));
        lines.extend(self.wrong.iter().map(|wrong| format!("✗ {wrong}")));
        lines
    }

    /// Shows it as the output of a notebook cell.
    pub fn evcxr_display(&self) {
        self.to_figure().evcxr_display();
    }
}

/// As it is shown; the kernel writes this when it cannot tell what the last expression of a cell is.
impl Debug for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines().join("\n"))
    }
}

/// With six digits, or as many as stand before the point; before that, what is not a short decimal as the fraction that it is.
fn rounded(number: f64) -> String {
    let digits = 5 - number.abs().max(1e-300).log10().floor().clamp(-12.0, 5.0) as i32;
    let scale = 10f64.powi(digits);
    if !number.is_finite() {
        return number.to_string();
    }
    let decimal = (number * scale).round() / scale;
    let is_whole = |times: f64| (times - times.round()).abs() < 1e-10;
    match (2..=100).map(f64::from).find(|below| is_whole(number * below)) {
        Some(below) if !is_whole(number * scale) => format!("{}/{below} ({decimal})", (number * below).round()),
        _ => decimal.to_string(),
    }
}
