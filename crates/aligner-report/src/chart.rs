//! Curves as inline SVG.
//!
//! The picture is stretched to the width there is, lines keep their width (`non-scaling-stroke`), and all text is HTML
//! beside it: on a phone as on paper the labels have the size of the text around them.

use std::fmt::Write;

use crate::kit::number::{compact, percent};
use crate::kit::{Axis, Escaped, SIZE, shortened};
use crate::series::Bucket;

/// Points that are marked one by one.
const MOST_DOTS: usize = 60;
/// Stage names that fit beside each other.
const MOST_STAGE_NAMES: usize = 6;

/// How a curve is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// A line.
    Line,
    /// A line that stays behind the others.
    Faint,
    /// A line with its points.
    Dots,
}

/// One curve.
#[derive(Debug, Clone)]
pub struct Curve {
    /// Its name in the legend.
    pub name: &'static str,
    /// 1 to 4: a colour of the style sheet.
    pub colour: u8,
    /// Points from left to right.
    pub points: Vec<(f64, f64)>,
    /// How it is drawn.
    pub style: Style,
}

/// What the numbers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Numbers.
    Plain,
    /// Shares of one, drawn from 0 to 1.
    Share,
}

/// A picture of curves over the steps.
#[derive(Debug)]
pub struct Chart<'a> {
    /// Above it.
    pub title: &'a str,
    /// A sentence on what is seen, or nothing.
    pub about: &'a str,
    /// Between which values the raw data lie.
    pub band: Option<&'a [Bucket]>,
    /// The curves.
    pub curves: Vec<Curve>,
    /// The last step of the run.
    pub steps: f64,
    /// Where stages begin.
    pub stages: &'a [(f64, String)],
    /// What the numbers are.
    pub unit: Unit,
}

impl Chart<'_> {
    /// The picture; empty when there is nothing to draw.
    pub fn html(&self) -> String {
        let Some((x, y)) = self.axes() else {
            return String::new();
        };
        let mut svg = String::new();
        grid(&mut svg, &x, &y);
        for (start, _) in self.boundaries(&x) {
            let at = x.place(start) * SIZE;
            let _ = write!(svg, "<path class=\"stage\" d=\"M{at:.1} 0V1000\"/>");
        }
        if let Some(band) = self.band.filter(|band| band.iter().any(|b| b.count > 1)) {
            let upper = band.iter().map(|b| (b.x(), b.high));
            let lower = band.iter().rev().map(|b| (b.x(), b.low));
            let outline: Vec<_> = upper.chain(lower).collect();
            let _ = write!(svg, "<path class=\"band\" d=\"{}Z\"/>", path(&outline, &x, &y));
        }
        for curve in &self.curves {
            curve.draw(&mut svg, &x, &y);
        }
        let format = match self.unit {
            Unit::Plain => compact,
            Unit::Share => percent,
        };
        let scale = if y.is_log() { " <small>(log)</small>" } else { "" };
        let title = Escaped(self.title);
        let mut html = format!(
            "<figure><figcaption><h3>{title}{scale}</h3>{}</figcaption>",
            self.legend()
        );
        let names = self.stage_names(&x);
        let staged = if names.is_empty() { "" } else { " staged" };
        let _ = write!(
            html,
            "<div class=\"plot{staged}\" role=\"img\" aria-label=\"{title} over the steps\">"
        );
        for (value, place) in y.ticks() {
            let top = 100.0 * (1.0 - place);
            let _ = write!(
                html,
                "<span class=\"y\" style=\"top:{top:.2}%\">{}</span>",
                format(value)
            );
        }
        for (value, place) in x.ticks() {
            let left = 100.0 * place;
            let _ = write!(
                html,
                "<span class=\"x\" style=\"left:{left:.2}%\">{}</span>",
                compact(value)
            );
        }
        html += &names;
        let _ = write!(
            html,
            "<svg viewBox=\"0 0 1000 1000\" preserveAspectRatio=\"none\" aria-hidden=\"true\">{svg}</svg></div>"
        );
        if !self.about.is_empty() {
            let _ = write!(html, "<p class=\"about\">{}</p>", Escaped(self.about));
        }
        html + "</figure>\n"
    }

    fn axes(&self) -> Option<(Axis, Axis)> {
        let points = self.curves.iter().flat_map(|curve| &curve.points);
        // The same for every curve of a run, so that what is above each other is of the same step.
        let x = Axis::exact([0.0, self.steps].into_iter())?;
        points.clone().next()?;
        if self.unit == Unit::Share {
            return Some((x, Axis::exact([0.0, 1.0].into_iter())?));
        }
        let band = self.band.into_iter().flatten();
        let reach = band.flat_map(|bucket| [bucket.low, bucket.high]);
        let y = Axis::fitting(points.map(|point| point.1).chain(reach).collect())?;
        Some((x, y))
    }

    /// Stages that begin inside of the picture.
    fn boundaries<'a>(&'a self, x: &Axis) -> impl Iterator<Item = (f64, &'a str)> {
        let stages = self.stages.iter().map(|(start, name)| (*start, name.as_str()));
        let x = *x;
        stages
            .skip(1)
            .filter(move |(start, _)| (0.0..=1.0).contains(&x.place(*start)))
    }

    /// Each stage's name where it begins.
    fn stage_names(&self, x: &Axis) -> String {
        let mut html = String::new();
        if self.stages.len() < 2 || self.stages.len() > MOST_STAGE_NAMES {
            return html;
        }
        let (mut before, mut row) = (f64::NEG_INFINITY, 0);
        for (start, name) in self.stages {
            let left = 100.0 * x.place(*start).clamp(0.0, 1.0);
            // On a phone a third of the picture holds one name: a stage that is shorter has it in the row above.
            row = if left - before < 34.0 { 1 - row } else { 0 };
            before = left;
            let (name, _) = shortened(name, 16);
            // A name at the right end is written to the left of its line.
            let side = if left > 75.0 { " left" } else { "" };
            let above = if row == 1 { " above" } else { "" };
            let name = Escaped(name);
            let _ = write!(
                html,
                "<span class=\"stage{side}{above}\" style=\"left:{left:.2}%\">{name}</span>"
            );
        }
        html
    }

    fn legend(&self) -> String {
        let named = self.curves.iter().filter(|curve| !curve.name.is_empty());
        if named.clone().count() < 2 {
            return String::new();
        }
        let mut html = String::from("<div class=\"legend\">");
        for curve in named {
            let faint = if curve.style == Style::Faint { " faint" } else { "" };
            let _ = write!(
                html,
                "<span><i class=\"c{}{faint}\"></i>{}</span>",
                curve.colour,
                Escaped(curve.name)
            );
        }
        html + "</div>"
    }
}

impl Curve {
    fn draw(&self, svg: &mut String, x: &Axis, y: &Axis) {
        let class = match self.style {
            Style::Faint => " faint",
            Style::Line | Style::Dots => "",
        };
        let colour = self.colour;
        let line = path(&self.points, x, y);
        let _ = write!(svg, "<path class=\"line c{colour}{class}\" d=\"{line}\"/>");
        if self.points.len() == 1 || (self.style == Style::Dots && self.points.len() <= MOST_DOTS) {
            // A line of no length with round ends is a dot that stretching does not bend.
            let mut dots = String::new();
            for &(px, py) in &self.points {
                let _ = write!(
                    dots,
                    "M{:.1} {:.1}h0",
                    x.place(px) * SIZE,
                    (1.0 - y.place(py)) * SIZE
                );
            }
            let _ = write!(svg, "<path class=\"dots c{colour}\" d=\"{dots}\"/>");
        }
    }
}

fn grid(svg: &mut String, x: &Axis, y: &Axis) {
    let mut lines = String::new();
    for (_, place) in y.ticks() {
        let _ = write!(lines, "M0 {:.1}H1000", (1.0 - place) * SIZE);
    }
    for (_, place) in x.ticks() {
        let _ = write!(lines, "M{:.1} 1000v-12", place * SIZE);
    }
    let _ = write!(svg, "<path class=\"grid\" d=\"{lines}\"/>");
}

fn path(points: &[(f64, f64)], x: &Axis, y: &Axis) -> String {
    let mut path = String::new();
    for (index, &(px, py)) in points.iter().enumerate() {
        let letter = if index == 0 { 'M' } else { 'L' };
        let top = (1.0 - y.place(py)) * SIZE;
        let _ = write!(path, "{letter}{:.1} {top:.1}", x.place(px) * SIZE);
    }
    path
}
