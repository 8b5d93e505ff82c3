//! Pictures as files of their own, with a background: legible on white and on dark.

pub(super) mod canvas;

use aligner_report::kit::Axis;
use aligner_report::kit::number::{compact, grouped, percent};

use super::content::{Drawing, Picture, Span, Stack, VERDICTS, rate_axis};
use crate::stats::Interval;
use canvas::{Anchor, Canvas, width_px};

/// Width of a picture, and of what is drawn in it.
const WIDTH: f64 = 720.0;
const LEFT: f64 = 28.0;
const INNER: f64 = WIDTH - 2.0 * LEFT;
/// Height of the head with title and sentence.
const HEAD: f64 = 56.0;
/// Of a bar's row, and of a row without a bar.
const STACK: f64 = 78.0;
const SPAN: f64 = 48.0;
/// Of one histogram with its labels.
const CELL: f64 = 190.0;

/// A picture as a file.
pub(super) fn svg(picture: &Picture) -> String {
    match &picture.drawing {
        Drawing::Stacks(stacks) => stacked(picture, stacks),
        Drawing::Spans(axis, spans) => spanned(picture, axis, spans),
        Drawing::Histograms(histograms) => histogrammed(picture, histograms),
    }
}

fn canvas(picture: &Picture, height: f64) -> Canvas {
    let mut canvas = Canvas::new(WIDTH, height, &picture.title);
    canvas.text([LEFT, 32.0], "title", Anchor::Start, &picture.title, INNER);
    canvas
}

fn stacked(picture: &Picture, stacks: &[Stack]) -> String {
    let has_rates = stacks.iter().any(|stack| stack.rate.is_some());
    let foot = if has_rates { 44.0 } else { 20.0 };
    let mut canvas = canvas(picture, HEAD + 20.0 + STACK * stacks.len() as f64 + foot);
    let mut x = LEFT;
    for (class, name) in VERDICTS {
        canvas.rect([x, 45.0, 11.0, 11.0], class);
        canvas.text([x + 17.0, 55.0], "soft", Anchor::Start, name, INNER);
        x += 17.0 + width_px(name, 13.0) + 22.0;
    }
    let room = INNER - width_px(&picture.title, 16.0) - 20.0;
    canvas.text([WIDTH - LEFT, 32.0], "soft", Anchor::End, &picture.about, room);
    for (index, stack) in stacks.iter().enumerate() {
        let top = HEAD + 20.0 + STACK * index as f64;
        names(&mut canvas, top, &stack.label, &stack.rate_text());
        bar(&mut canvas, top + 24.0, stack.counts);
        if let (Some(rate), Some(axis)) = (stack.rate, rate_axis()) {
            track(&mut canvas, top + 58.0, &axis, rate);
        }
    }
    if let Some(axis) = rate_axis().filter(|_| has_rates) {
        ticks(
            &mut canvas,
            HEAD + 20.0 + STACK * stacks.len() as f64,
            &axis,
            percent,
        );
    }
    canvas.finish()
}

/// A label on the left, and its number on the right.
fn names(canvas: &mut Canvas, top: f64, label: &str, text: &str) {
    let right = width_px(text, 13.0);
    canvas.text(
        [LEFT, top + 15.0],
        "label",
        Anchor::Start,
        label,
        INNER - right - 20.0,
    );
    canvas.text([WIDTH - LEFT, top + 15.0], "soft", Anchor::End, text, INNER);
}

fn bar(canvas: &mut Canvas, top: f64, counts: [u64; 3]) {
    let total: u64 = counts.iter().sum();
    let mut x = LEFT;
    for (&count, (class, _)) in counts.iter().zip(VERDICTS).filter(|(count, _)| **count > 0) {
        let width = INNER * count as f64 / total as f64;
        canvas.rect([x, top, width, 22.0], class);
        let text = grouped(count);
        if width > width_px(&text, 13.0) + 6.0 {
            canvas.text(
                [x + width / 2.0, top + 15.5],
                &format!("{class}-ink"),
                Anchor::Middle,
                &text,
                width,
            );
        }
        x += width;
    }
}

fn spanned(picture: &Picture, axis: &Axis, spans: &[Span]) -> String {
    let mut canvas = canvas(picture, HEAD + SPAN * spans.len() as f64 + 44.0);
    for (index, span) in spans.iter().enumerate() {
        let top = HEAD + SPAN * index as f64;
        names(&mut canvas, top, &span.label, &span.text);
        track(&mut canvas, top + 31.0, axis, span.interval);
    }
    ticks(&mut canvas, HEAD + SPAN * spans.len() as f64, axis, compact);
    canvas.finish()
}

/// Where a value of an axis lies: its ends leave room for their numbers.
fn at(axis: &Axis, value: f64) -> f64 {
    LEFT + 16.0 + (INNER - 32.0) * axis.place(value).clamp(0.0, 1.0)
}

fn track(canvas: &mut Canvas, y: f64, axis: &Axis, interval: Interval) {
    let (low, high) = (at(axis, interval.low), at(axis, interval.high));
    canvas.rect([LEFT + 16.0, y - 1.0, INNER - 32.0, 2.0], "track");
    canvas.rect([at(axis, 0.0) - 0.5, y - 8.0, 1.0, 16.0], "zero");
    canvas.rect([low, y - 1.0, (high - low).max(1.0), 2.0], "reach");
    for end in [low, high] {
        canvas.rect([end - 1.0, y - 5.0, 2.0, 10.0], "reach");
    }
    canvas.dot(at(axis, interval.value), y, 4.0);
}

fn ticks(canvas: &mut Canvas, top: f64, axis: &Axis, write: fn(f64) -> String) {
    for (value, _) in axis.ticks() {
        let text = write(value).replace('-', "−");
        canvas.text(
            [at(axis, value), top + 14.0],
            "tick",
            Anchor::Middle,
            &text,
            INNER,
        );
    }
}

fn histogrammed(picture: &Picture, histograms: &[(String, Vec<u64>)]) -> String {
    let columns = if histograms.len() == 1 { 1 } else { 2 };
    let rows = histograms.len().div_ceil(columns);
    let mut canvas = canvas(picture, HEAD + CELL * rows as f64 + 8.0);
    let gap = 40.0;
    let width = (INNER - gap * (columns as f64 - 1.0)) / columns as f64;
    for (index, (label, counts)) in histograms.iter().enumerate() {
        let left = LEFT + (width + gap) * (index % columns) as f64;
        let top = HEAD + CELL * (index / columns) as f64;
        histogram(&mut canvas, [left, top, width], label, counts);
    }
    canvas.finish()
}

/// One histogram: its left, its top and its width.
fn histogram(canvas: &mut Canvas, [left, top, width]: [f64; 3], label: &str, counts: &[u64]) {
    let most = counts.iter().copied().max().unwrap_or(0);
    let Some(axis) = Axis::from_zero(most as f64) else {
        return;
    };
    let text = format!("n = {}", grouped(counts.iter().sum()));
    let room = width - width_px(&text, 13.0) - 16.0;
    canvas.text([left, top + 14.0], "label", Anchor::Start, label, room);
    canvas.text([left + width, top + 14.0], "soft", Anchor::End, &text, width);
    let (x, y, width, height) = (left + 44.0, top + 28.0, width - 60.0, 118.0);
    for (value, place) in axis.ticks() {
        let line = y + height * (1.0 - place);
        canvas.rect([x, line - 0.5, width, 1.0], "grid");
        canvas.text([x - 8.0, line + 4.0], "tick", Anchor::End, &compact(value), 40.0);
    }
    let step = width / counts.len() as f64;
    for (index, &count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
        let high = height * axis.place(count as f64);
        canvas.rect(
            [
                x + step * (index as f64 + 0.08),
                y + height - high,
                0.84 * step,
                high,
            ],
            "win",
        );
    }
    for half in 0..=2 {
        let place = x + width * f64::from(half) / 2.0;
        canvas.text(
            [place, y + height + 18.0],
            "tick",
            Anchor::Middle,
            &format!("{} %", 50 * half),
            width,
        );
    }
}
