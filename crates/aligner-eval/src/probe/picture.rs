//! Accuracy by layer as a picture.

use std::fmt::Write;

use super::report::{LayerProbe, PlaceProbe, StepProbe};
use crate::report::{Clean, width_px};

const WIDTH: f64 = 760.0;
const LEFT: f64 = 62.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 44.0;
/// Where the curves' ground is.
const BOTTOM: f64 = 344.0;
/// The first line of the legend, and from one line to the next.
const LEGEND: f64 = BOTTOM + 64.0;
const LEGEND_LINE: f64 = 22.0;
const FONT_PX: f64 = 13.0;
/// Of the first step, and of those behind it.
const COLOURS: [&str; 8] = [
    "#1f6fb4", "#d1571c", "#3a8f3a", "#8a4fb0", "#b8860b", "#0e9aa7", "#c2407f", "#6b4423",
];
/// When all colours were given once, they are given again with dashes.
const DASHES: [&str; 3] = ["", "7 3", "2 3"];
/// Curves that can be told apart.
const MOST_CURVES: usize = COLOURS.len() * DASHES.len();
/// Numbers below the picture that fit beside each other.
const MOST_TICKS: usize = 16;

/// Where places and accuracies lie.
struct Frame {
    places: usize,
    lowest: f64,
}

impl Frame {
    fn of(probe: &LayerProbe, first: &StepProbe) -> Self {
        let shown = probe.steps.iter().take(MOST_CURVES);
        let values = shown.flat_map(|step| step.places.iter().map(|place| place.probe.accuracy.value));
        let lows = first
            .places
            .iter()
            .flat_map(|place| [place.probe.accuracy.low, place.shuffled.accuracy.value]);
        let lowest = values.chain(lows).chain([first.majority]).fold(1.0, f64::min);
        Self {
            places: first.places.len(),
            lowest: ((lowest * 10.0).floor() / 10.0).min(0.9),
        }
    }

    fn x(&self, place: usize) -> f64 {
        let share = place as f64 / (self.places.max(2) - 1) as f64;
        LEFT + (WIDTH - LEFT - RIGHT) * share
    }

    fn y(&self, accuracy: f64) -> f64 {
        TOP + (BOTTOM - TOP) * (1.0 - (accuracy - self.lowest) / (1.0 - self.lowest))
    }

    fn path(&self, step: &StepProbe, of: impl Fn(&PlaceProbe) -> f64) -> String {
        let points = step.places.iter().enumerate().map(|(index, place)| {
            let letter = if index == 0 { 'M' } else { 'L' };
            format!("{letter}{:.1},{:.1}", self.x(index), self.y(of(place)))
        });
        points.collect::<Vec<_>>().join(" ")
    }
}

/// The picture; `what` is what is told apart.
pub(crate) fn draw(probe: &LayerProbe, what: &str) -> String {
    let mut drawn = String::new();
    let mut height = LEGEND;
    if let Some(first) = probe.steps.first() {
        let frame = Frame::of(probe, first);
        let title = format!("Accuracy of a linear probe: {}", Clean(what));
        text(&mut drawn, (LEFT, 24.0), "start", &title);
        axes(&mut drawn, &frame, first);
        curves(&mut drawn, &frame, probe, first);
        height = legend(&mut drawn, probe) + LEGEND_LINE;
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"{FONT_PX}\">\n<rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n{drawn}</svg>\n"
    )
}

/// Colour and dashes of a step's curve, counted from 0.
fn stroke(step: usize) -> String {
    let (colour, dashes) = (
        COLOURS[step % COLOURS.len()],
        DASHES[step / COLOURS.len() % DASHES.len()],
    );
    match dashes {
        "" => format!("stroke=\"{colour}\""),
        dashes => format!("stroke=\"{colour}\" stroke-dasharray=\"{dashes}\""),
    }
}

fn axes(svg: &mut String, frame: &Frame, first: &StepProbe) {
    let (right, bottom) = (WIDTH - RIGHT, BOTTOM);
    for tenth in (frame.lowest * 10.0).round() as usize..=10 {
        let y = frame.y(tenth as f64 / 10.0);
        let _ = writeln!(
            svg,
            "<line x1=\"{LEFT}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#e4e4e4\"/>"
        );
        text(svg, (LEFT - 8.0, y + 4.0), "end", &format!("{} %", tenth * 10));
    }
    let every = frame.places.div_ceil(MOST_TICKS).max(1);
    for (index, place) in first.places.iter().enumerate() {
        let name = match place.layer {
            None => "emb.".to_string(),
            // The first number would touch the name before it.
            Some(layer) if layer % every == 0 && index >= every => layer.to_string(),
            Some(_) => continue,
        };
        text(svg, (frame.x(index), bottom + 18.0), "middle", &name);
    }
    text(
        svg,
        ((LEFT + right) / 2.0, bottom + 36.0),
        "middle",
        "behind layer",
    );
}

fn curves(svg: &mut String, frame: &Frame, probe: &LayerProbe, first: &StepProbe) {
    let upper = frame.path(first, |place| place.probe.accuracy.high);
    let mut lower: Vec<String> = Vec::new();
    for (index, place) in first.places.iter().enumerate().rev() {
        lower.push(format!(
            "L{:.1},{:.1}",
            frame.x(index),
            frame.y(place.probe.accuracy.low)
        ));
    }
    let (lower, blue) = (lower.join(" "), COLOURS[0]);
    let _ = writeln!(
        svg,
        "<path d=\"{upper} {lower}Z\" fill=\"{blue}\" fill-opacity=\"0.15\"/>"
    );
    let (y, right) = (frame.y(first.majority), WIDTH - RIGHT);
    let _ = writeln!(
        svg,
        "<line x1=\"{LEFT}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#222222\" stroke-dasharray=\"6 4\"/>"
    );
    let chance = frame.path(first, |place| place.shuffled.accuracy.value);
    let _ = writeln!(
        svg,
        "<path d=\"{chance}\" fill=\"none\" stroke=\"#999999\" stroke-width=\"1.5\"/>"
    );
    // The first step lies on top of the others.
    for (index, step) in probe.steps.iter().enumerate().take(MOST_CURVES).rev() {
        let path = frame.path(step, |place| place.probe.accuracy.value);
        let width = if index == 0 { 2.5 } else { 1.5 };
        let _ = writeln!(
            svg,
            "<path d=\"{path}\" fill=\"none\" {} stroke-width=\"{width}\"/>",
            stroke(index)
        );
    }
}

/// What the curves are, in as many lines as it takes; where the last line lies.
fn legend(svg: &mut String, probe: &LayerProbe) -> f64 {
    let steps = probe.steps.iter().enumerate().take(MOST_CURVES);
    let steps = steps.map(|(index, step)| {
        let interval = if index == 0 { ", 95 %" } else { "" };
        (format!("token {}{interval}", step.step), stroke(index))
    });
    let others = [
        ("majority", "stroke=\"#222222\" stroke-dasharray=\"6 4\""),
        ("labels shuffled", "stroke=\"#999999\""),
    ];
    let others = others.map(|(name, stroke)| (name.to_string(), stroke.to_string()));
    let (mut x, mut y) = (LEFT, LEGEND);
    for (name, stroke) in steps.chain(others) {
        let width = 28.0 + width_px(&name, FONT_PX);
        if x > LEFT && x + width > WIDTH - RIGHT {
            (x, y) = (LEFT, y + LEGEND_LINE);
        }
        let _ = writeln!(
            svg,
            "<line x1=\"{x:.1}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\" {stroke} stroke-width=\"2.5\"/>",
            x + 22.0
        );
        text(svg, (x + 28.0, y + 4.0), "start", &name);
        x += width + 18.0;
    }
    if let Some(more) = probe.steps.len().checked_sub(MOST_CURVES + 1) {
        y += LEGEND_LINE;
        let first = MOST_CURVES + 1;
        let name = format!("tokens {first} to {} are not drawn", first + more);
        text(svg, (LEFT, y + 4.0), "start", &name);
    }
    y
}

fn text(svg: &mut String, (x, y): (f64, f64), anchor: &str, words: &str) {
    let _ = writeln!(
        svg,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"#444444\">{words}</text>"
    );
}
