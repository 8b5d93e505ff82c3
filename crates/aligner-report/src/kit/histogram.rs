//! Bars.

use std::fmt::Write;

use super::SIZE;
use super::axis::Axis;
use super::number::compact;
use super::text::Escaped;

/// How often each edit ratio occurs, as bars from 0 to 1; empty when there is nothing to draw.
///
/// `title` and `about` are text. The picture is stretched to the width there is, and its labels are HTML beside it.
pub fn histogram(title: &str, about: &str, counts: &[u64]) -> String {
    let most = counts.iter().copied().max().unwrap_or(0);
    let Some(y) = Axis::from_zero(most as f64) else {
        return String::new();
    };
    let bars = bars(counts, &y);
    let mut svg = String::new();
    let mut labels = String::new();
    let mut lines = String::new();
    for (value, place) in y.ticks() {
        let _ = write!(lines, "M0 {:.1}H1000", (1.0 - place) * SIZE);
        let top = 100.0 * (1.0 - place);
        let _ = write!(
            labels,
            "<span class=\"y\" style=\"top:{top:.2}%\">{}</span>",
            compact(value)
        );
    }
    for quarter in 0..=4 {
        let left = 25 * quarter;
        let _ = write!(labels, "<span class=\"x\" style=\"left:{left}%\">{left} %</span>");
    }
    let _ = write!(
        svg,
        "<path class=\"grid\" d=\"{lines}\"/><g class=\"bars\">{bars}</g>"
    );
    let title = Escaped(title);
    format!(
        "<figure><figcaption><h3>{title}</h3></figcaption><div class=\"plot\" role=\"img\" aria-label=\"{title}\">{labels}\
         <svg viewBox=\"0 0 1000 1000\" preserveAspectRatio=\"none\" aria-hidden=\"true\">{svg}</svg></div>\
         <p class=\"about\">{}</p></figure>\n",
        Escaped(about)
    )
}

/// A bar for each count that is not 0.
fn bars(counts: &[u64], y: &Axis) -> String {
    let mut bars = String::new();
    let width = SIZE / counts.len() as f64;
    for (index, &count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
        let (left, height) = (index as f64 * width, y.place(count as f64) * SIZE);
        let _ = write!(
            bars,
            "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{height:.1}\"/>",
            left + 0.08 * width,
            SIZE - height,
            0.84 * width
        );
    }
    bars
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_high_as_its_count_and_nothing_is_no_picture() {
        let html = histogram("t", "a", &[0, 106, 53]);
        assert_eq!(html.matches("<rect").count(), 2, "no bar for no count");
        assert!(
            html.contains("height=\"943.4\"") && html.contains("height=\"471.7\""),
            "{html}"
        );
        assert_eq!(histogram("t", "a", &[0, 0]), "");
        assert_eq!(histogram("t", "a", &[]), "");
    }
}
