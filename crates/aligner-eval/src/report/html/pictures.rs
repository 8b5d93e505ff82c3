//! Pictures of the page: HTML that is as wide as the page, with text of the size of the text around it.

use std::fmt::Write;

use aligner_report::kit::number::{compact, grouped, percent};
use aligner_report::kit::{Axis, Escaped, histogram};

use super::super::content::{Drawing, Picture, Span, Stack, VERDICTS, rate_axis};
use crate::stats::Interval;

/// Width of a bar on the narrowest screen, and of a digit in it, in pixels.
const BAR_PX: f64 = 290.0;
const DIGIT_PX: f64 = 8.0;

pub(super) fn picture(html: &mut String, picture: &Picture) {
    match &picture.drawing {
        Drawing::Stacks(stacks) => {
            head(html, picture);
            stacks.iter().for_each(|each| stack(html, each));
            if let Some(axis) = rate_axis().filter(|_| stacks.iter().any(|stack| stack.rate.is_some())) {
                ticks(html, &axis, percent);
            }
            *html += "</figure>\n";
        }
        Drawing::Spans(axis, spans) => {
            head(html, picture);
            spans.iter().for_each(|each| span(html, axis, each));
            ticks(html, axis, compact);
            *html += "</figure>\n";
        }
        Drawing::Histograms(histograms) => {
            let (title, about) = (Escaped(&picture.title), Escaped(&picture.about));
            let _ = write!(
                html,
                "<h3 class=\"part\">{title}</h3><p class=\"about\">{about}</p><div class=\"pair\">"
            );
            for (label, counts) in histograms {
                let about = format!("{} corrections", grouped(counts.iter().sum()));
                *html += &histogram(label, &about, counts);
            }
            *html += "</div>\n";
        }
    }
}

fn head(html: &mut String, picture: &Picture) {
    let title = Escaped(&picture.title);
    let _ = write!(
        html,
        "<figure class=\"rows\"><figcaption><h4 dir=\"auto\">{title}</h4>"
    );
    if let Drawing::Stacks(_) = picture.drawing {
        *html += "<div class=\"legend\">";
        for (class, name) in VERDICTS {
            let _ = write!(html, "<span><i class=\"{class}\"></i>{name}</span>");
        }
        *html += "</div>";
    }
    *html += "</figcaption>";
    if !picture.about.is_empty() {
        let _ = write!(
            html,
            "<p class=\"about\" dir=\"auto\">{}</p>",
            Escaped(&picture.about)
        );
    }
}

/// Wins, ties and losses beside each other, and ω below.
fn stack(html: &mut String, stack: &Stack) {
    let total: u64 = stack.counts.iter().sum();
    let label = Escaped(&stack.label);
    let _ = write!(
        html,
        "<div class=\"entry\"><p><bdi>{label}</bdi><span>{}</span></p><div class=\"bar\" role=\"img\" aria-label=\"",
        stack.rate_text()
    );
    let [wins, ties, losses] = stack.counts.map(grouped);
    let _ = write!(html, "{label}: {wins} wins, {ties} ties, {losses} losses\">");
    for (&count, (class, _)) in stack.counts.iter().zip(VERDICTS).filter(|(count, _)| **count > 0) {
        let share = count as f64 / total as f64;
        let text = grouped(count);
        let fits = share * BAR_PX > text.len() as f64 * DIGIT_PX + 4.0;
        let text = if fits { text.as_str() } else { "" };
        let _ = write!(
            html,
            "<span class=\"{class}\" style=\"width:{:.2}%\">{text}</span>",
            100.0 * share
        );
    }
    *html += "</div>";
    if let (Some(rate), Some(axis)) = (stack.rate, rate_axis()) {
        track(html, &axis, rate);
    }
    *html += "</div>";
}

fn span(html: &mut String, axis: &Axis, span: &Span) {
    let _ = write!(
        html,
        "<div class=\"entry\"><p><bdi>{}</bdi><span>{}</span></p>",
        Escaped(&span.label),
        span.text
    );
    track(html, axis, span.interval);
    *html += "</div>";
}

/// An estimate and its interval on an axis with its zero.
fn track(html: &mut String, axis: &Axis, interval: Interval) {
    let at = |value: f64| 100.0 * axis.place(value).clamp(0.0, 1.0);
    let (low, high) = (at(interval.low), at(interval.high));
    let _ = write!(
        html,
        "<div class=\"track\"><i class=\"zero\" style=\"left:{:.2}%\"></i><i class=\"reach\" \
         style=\"left:{low:.2}%;width:{:.2}%\"></i><i class=\"dot\" style=\"left:{:.2}%\"></i></div>",
        at(0.0),
        (high - low).max(0.0),
        at(interval.value)
    );
}

fn ticks(html: &mut String, axis: &Axis, write: fn(f64) -> String) {
    *html += "<div class=\"ticks\">";
    for (value, place) in axis.ticks() {
        let text = write(value).replace('-', "−");
        let _ = write!(html, "<span style=\"left:{:.2}%\">{text}</span>", 100.0 * place);
    }
    *html += "</div>";
}
