//! Named points in a plane.

use plotters::prelude::*;
use plotters::style::text_anchor::HPos;

use super::{Card, RUNS, card, draw_mesh, drawing, extremes, letters, write};
use crate::error::{Error, Result};
use crate::figures::figure::Figure;

/// Draws points, each given by its group, its name and its coordinates, in a colour and a shape for each group. Both axes, which are
/// called `x` and `y`, have the same scale, so that distances are what they seem. Where points crowd, a name for which
/// there is no room is left out.
///
/// # Errors
/// When there is no point, more groups than colours, or a coordinate that is not a number.
pub fn scatter<G: AsRef<str>, S: AsRef<str>>(points: &[(G, S, f64, f64)], x: &str, y: &str) -> Result<Figure> {
    const SIZE: (u32, u32) = (820, 520);
    const LEGEND: i32 = 130;
    const LETTER: i32 = 7;
    if points.is_empty() {
        return Err(Error::argument("points", "at least one point", "none"));
    }
    if let Some((_, name, x, y)) = points.iter().find(|(_, _, x, y)| !x.is_finite() || !y.is_finite()) {
        return Err(Error::argument("points", "finite coordinates", format!("({x}, {y}) of {:?}", name.as_ref())));
    }
    let mut groups: Vec<&str> = Vec::new();
    for (group, ..) in points {
        if !groups.contains(&group.as_ref()) {
            groups.push(group.as_ref());
        }
    }
    if groups.len() > RUNS.len() {
        return Err(Error::argument("points", format!("at most {} groups", RUNS.len()), groups.len()));
    }
    let mut source = String::new();
    {
        let root = card(&mut source, SIZE)?;
        let (left, below, margin) = (72, 48, 16);
        let room = (SIZE.0 as i32 - left - LEGEND - 2 * margin, SIZE.1 as i32 - below - 2 * margin);
        let (middle_x, half_x) = middle(points.iter().map(|point| point.2));
        let (middle_y, half_y) = middle(points.iter().map(|point| point.3));
        // As much of a unit for a pixel as the axis needs that has less room for what it shows.
        let unit = (half_x / f64::from(room.0)).max(half_y / f64::from(room.1)).max(1e-9) * 1.1;
        let range = |middle: f64, room: i32| middle - unit * f64::from(room)..middle + unit * f64::from(room);
        let mut chart = ChartBuilder::on(&root)
            .margin(margin)
            .margin_right(margin + LEGEND)
            .x_label_area_size(below)
            .y_label_area_size(left)
            .build_cartesian_2d(range(middle_x, room.0), range(middle_y, room.1))
            .map_err(drawing)?;
        let mut mesh = chart.configure_mesh();
        // As many decimals as tell two pixels apart, and no -0.
        let scale = 10f64.powf(-unit.log10().floor()).max(1.0);
        let number = |number: &f64| format!("{}", (number * scale).round() / scale + 0.0);
        mesh.x_desc(x).y_desc(y).x_labels(8).y_labels(6).x_label_formatter(&number).y_label_formatter(&number);
        draw_mesh(&mut mesh)?;
        let legend = SIZE.0 as i32 - LEGEND;
        let mut placed = vec![Area { left: legend - 12, right: SIZE.0 as i32, top: 0, bottom: SIZE.1 as i32 }];
        let mut named = Vec::new();
        for (group, name, x, y) in points {
            let at = chart.backend_coord(&(*x, *y));
            let nth = groups.iter().position(|known| *known == group.as_ref()).unwrap_or_default();
            draw_mark(&root, nth, at)?;
            placed.push(Area { left: at.0 - 4, right: at.0 + 4, top: at.1 - 4, bottom: at.1 + 4 });
            named.push((name.as_ref(), at));
        }
        for (name, (x, y)) in named {
            let width = LETTER * name.chars().count() as i32;
            let places = [
                (HPos::Left, x + 7, y, x + 7),
                (HPos::Right, x - 7, y, x - 7 - width),
                (HPos::Center, x, y - 13, x - width / 2),
                (HPos::Center, x, y + 13, x - width / 2),
                (HPos::Left, x + 5, y - 10, x + 5),
                (HPos::Left, x + 5, y + 10, x + 5),
                (HPos::Right, x - 5, y - 10, x - 5 - width),
                (HPos::Right, x - 5, y + 10, x - 5 - width),
            ];
            for (align, x, y, left) in places {
                let taken = Area { left, right: left + width, top: y - 7, bottom: y + 7 };
                if placed.iter().all(|other| !other.meets(&taken)) {
                    write(&root, name, (x, y), letters(13, align))?;
                    placed.push(taken);
                    break;
                }
            }
        }
        for (nth, group) in groups.iter().enumerate() {
            let at = 30 + 24 * nth as i32;
            draw_mark(&root, nth, (legend, at))?;
            write(&root, group, (legend + 12, at), letters(15, HPos::Left))?;
        }
        root.present().map_err(drawing)?;
    }
    let told: Vec<String> = (points.iter())
        .map(|(group, name, x, y)| format!("{} ({}) at {x:.2}, {y:.2}", name.as_ref(), group.as_ref()))
        .collect();
    Ok(Figure::svg(source, format!("Points, {x} and {y}. {}.", told.join("; "))))
}

/// Draws a point of a group, in its colour and its shape.
fn draw_mark(root: &Card<'_>, group: usize, (x, y): (i32, i32)) -> Result<()> {
    let style = RUNS[group].filled();
    match group {
        0 => root.draw(&Circle::new((x, y), 4, style)),
        1 => root.draw(&Rectangle::new([(x - 4, y - 4), (x + 4, y + 4)], style)),
        2 => root.draw(&TriangleMarker::new((x, y), 6, style)),
        3 => root.draw(&Polygon::new(vec![(x, y - 6), (x + 6, y), (x, y + 6), (x - 6, y)], style)),
        4 => root.draw(&Cross::new((x, y), 4, RUNS[group].stroke_width(2))),
        _ => root.draw(&Circle::new((x, y), 4, RUNS[group].stroke_width(2))),
    }
    .map_err(drawing)
}

/// What a name or a point covers, in pixels.
struct Area {
    left: i32,
    right: i32,
    top: i32,
    bottom: i32,
}

impl Area {
    fn meets(&self, other: &Self) -> bool {
        self.left < other.right && other.left < self.right && self.top < other.bottom && other.top < self.bottom
    }
}

/// The middle between the least and the largest, and how far both are from it.
fn middle(numbers: impl Iterator<Item = f64>) -> (f64, f64) {
    let (least, largest) = extremes(numbers);
    ((least + largest) / 2.0, (largest - least) / 2.0)
}
