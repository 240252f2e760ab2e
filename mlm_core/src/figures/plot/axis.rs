//! How numbers lie along an axis, and how they are written there.

use std::ops::Range;

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};

use super::extremes;

/// How numbers lie along an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Equal distances are equal differences.
    Linear,
    /// Equal distances are equal ratios; all numbers are positive.
    Logarithmic,
}

impl Scale {
    pub(super) fn has(self, number: f64) -> bool {
        number.is_finite() && (self == Self::Linear || number > 0.0)
    }

    /// Where a number lies.
    pub(super) fn place(self, number: f64) -> f64 {
        if self == Self::Linear { number } else { number.log10() }
    }

    /// The number that lies there.
    fn number(self, place: f64) -> f64 {
        if self == Self::Linear { place } else { 10_f64.powf(place) }
    }

    /// An axis that has those numbers, with marks at 1, 2 and 5 times a power of ten, or at multiples of one.
    pub(super) fn axis(self, numbers: impl Iterator<Item = f64>) -> Axis {
        let (least, most) = extremes(numbers.map(|number| self.place(number)));
        let room = 0.04 * if most > least { most - least } else { 1.0 };
        let (from, to) = (least - room, most + room);
        let marks: Vec<f64> = match self {
            Self::Linear => return Axis::linear(from, to, 0.0),
            Self::Logarithmic => {
                let digits: &[f64] = match to - from {
                    ..1.5 => &[1.0, 2.0, 3.0, 5.0, 7.0],
                    1.5..3.0 => &[1.0, 2.0, 5.0],
                    _ => &[1.0],
                };
                decades(10_f64.powf(from), 10_f64.powf(to), digits).into_iter().map(f64::log10).collect()
            }
        };
        Axis { scale: self, range: from..to, marks }
    }
}

/// An axis and its marks.
pub(super) struct Axis {
    scale: Scale,
    range: Range<f64>,
    marks: Vec<f64>,
}

impl Axis {
    /// From one number to another, with marks at multiples of 1, 2 or 5 times a power of ten, `least` at least.
    pub(super) fn linear(from: f64, to: f64, least: f64) -> Self {
        let rough = ((to - from) / 8.0).max(least);
        let decade = 10_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0].map(|digit| digit * decade).into_iter().find(|step| *step >= rough);
        let step = step.unwrap_or(10.0 * decade);
        let multiples = (from / step).ceil() as i64..=(to / step).floor() as i64;
        Self { scale: Scale::Linear, range: from..to, marks: multiples.map(|nth| nth as f64 * step).collect() }
    }
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, place: &f64, (start, end): (i32, i32)) -> i32 {
        let share = (place - self.range.start) / (self.range.end - self.range.start);
        start + (share * f64::from(end - start)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.marks.clone()
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

impl ValueFormatter<f64> for Axis {
    fn format_ext(&self, place: &f64) -> String {
        number(self.scale.number(*place))
    }
}

/// 1e-7, 0.05, 3.5, 20, 350, 35k, 1M.
pub(super) fn number(number: f64) -> String {
    match number.abs() {
        0.0 => "0".to_owned(),
        ..1e-3 => format!("{number:.0e}"),
        ..10.0 => format!("{}", (number * 1e4).round() / 1e4),
        _ => large(number),
    }
}

/// Those digits times powers of ten, as far as they lie between two positive numbers.
pub(super) fn decades(from: f64, to: f64, digits: &[f64]) -> Vec<f64> {
    let powers = from.log10().floor() as i32..=to.log10().floor() as i32;
    let marks = powers.flat_map(|power| digits.iter().map(move |digit| digit * 10_f64.powi(power)));
    marks.filter(|mark| (from..=to).contains(mark)).collect()
}

/// 3.5, 20, 350, 35k, 1M.
pub(super) fn large(number: f64) -> String {
    match number {
        ..10.0 if number.fract() != 0.0 => format!("{number:.1}"),
        ..1e4 => format!("{number:.0}"),
        ..1e6 => format!("{:.0}k", number / 1e3),
        _ => format!("{:.0}M", number / 1e6),
    }
}
