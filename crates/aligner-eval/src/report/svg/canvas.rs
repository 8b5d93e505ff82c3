//! A picture that is being drawn.

use std::fmt::Write;

use aligner_report::kit::Escaped;

const STYLE: &str = "text{font-family:system-ui,-apple-system,'Segoe UI',Roboto,'Noto Sans','DejaVu Sans',sans-serif;\
font-size:13px;fill:#1d1f22}.title{font-size:16px;font-weight:700}.label{font-weight:600}.soft{fill:#5d636b}\
.tick{font-size:12px;fill:#5d636b}.win{fill:#2b62c9}.tie{fill:#d5d8dc}.loss{fill:#b8480b}.win-ink,.loss-ink{fill:#fff}\
.track,.grid{fill:#e3e5e8}.zero{fill:#5d636b}.reach,.dot{fill:#1d1f22}\
.card{fill:#fff;stroke:#d5d8dc}";

/// Around a text: it runs in the direction of its own first letter, as `<bdi>` does it.
const ISOLATE: &str = "&#x2068;";
const END: &str = "&#x2069;";

/// Which end of a text its place is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

/// A picture that is being drawn.
#[derive(Debug)]
pub(super) struct Canvas {
    svg: String,
}

impl Canvas {
    /// A card of a size in pixels; `title` is what is read aloud of it.
    pub fn new(width: f64, height: f64, title: &str) -> Self {
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
             role=\"img\">\n<title>{}</title>\n<style>{STYLE}</style>\n",
            Clean(title)
        );
        let _ = writeln!(
            svg,
            "<rect class=\"card\" x=\"0.5\" y=\"0.5\" width=\"{}\" height=\"{}\" rx=\"8\"/>",
            width - 1.0,
            height - 1.0
        );
        Self { svg }
    }

    /// A text, shortened to the room there is.
    pub fn text(&mut self, [x, y]: [f64; 2], class: &str, anchor: Anchor, text: &str, room_px: f64) {
        if text.is_empty() {
            return;
        }
        let anchor = match anchor {
            Anchor::Start => "",
            Anchor::Middle => " text-anchor=\"middle\"",
            Anchor::End => " text-anchor=\"end\"",
        };
        let size = if class == "title" { 16.0 } else { 13.0 };
        let fitted = fitted(text, size, room_px);
        let _ = writeln!(
            self.svg,
            "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\"{anchor}>{ISOLATE}{}{END}</text>",
            Clean(&fitted)
        );
    }

    /// A rectangle: left, top, width, height.
    pub fn rect(&mut self, [x, y, width, height]: [f64; 4], class: &str) {
        let _ = writeln!(
            self.svg,
            "<rect class=\"{class}\" x=\"{x:.2}\" y=\"{y:.2}\" width=\"{width:.2}\" height=\"{height:.2}\"/>"
        );
    }

    /// A dot.
    pub fn dot(&mut self, x: f64, y: f64, radius: f64) {
        let _ = writeln!(
            self.svg,
            "<circle class=\"dot\" cx=\"{x:.2}\" cy=\"{y:.2}\" r=\"{radius}\"/>"
        );
    }

    /// The file.
    pub fn finish(self) -> String {
        self.svg + "</svg>\n"
    }
}

/// Text for XML, which forbids two characters more than HTML and knows no lines in a picture.
pub(crate) struct Clean<'a>(pub &'a str);

impl std::fmt::Display for Clean<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = self
            .0
            .replace(['\u{fffe}', '\u{ffff}'], "\u{fffd}")
            .replace(['\n', '\t'], " ");
        write!(f, "{}", Escaped(&text))
    }
}

/// About how wide a text is, at a size of its font; rather too wide than too narrow.
pub(crate) fn width_px(text: &str, size_px: f64) -> f64 {
    text.chars().map(width_em).sum::<f64>() * size_px
}

/// In the widest of the fonts that the style names, in bold.
fn width_em(c: char) -> f64 {
    match c {
        '\u{300}'..='\u{36f}' | '\u{200b}'..='\u{200f}' | '\u{fe00}'..='\u{fe0f}' => 0.0,
        'i' | 'j' | 'l' | '.' | ',' | ':' | ';' | '\'' | '|' | ' ' | '·' => 0.39,
        't' | 'f' | 'r' | '-' | '/' | '(' | ')' => 0.5,
        'm' | 'w' | 'M' | 'W' | '%' | '@' | '—' | '…' => 1.0,
        'A'..='Z' | '+' | '−' | '=' => 0.8,
        c if c.is_ascii() || c < '\u{1100}' => 0.7,
        '\u{2000}'..='\u{2bff}' => 0.8,
        _ => 1.05,
    }
}

/// A text that fits: without its middle where it is too long, as names differ at their ends.
fn fitted(text: &str, size_px: f64, room_px: f64) -> String {
    if width_px(text, size_px) <= room_px {
        return text.to_string();
    }
    let half = ((room_px - size_px) / 2.0).max(0.0);
    let start: String = text.chars().take_while(within(half, size_px)).collect();
    let end: Vec<char> = text.chars().rev().take_while(within(half, size_px)).collect();
    // A mark without what it stands on would sit on the dots.
    let end = end.into_iter().rev().skip_while(|&c| width_em(c) == 0.0);
    format!("{start}…{}", end.collect::<String>())
}

/// Whether a further character still fits.
fn within(room_px: f64, size_px: f64) -> impl FnMut(&char) -> bool {
    let mut width = 0.0;
    move |&c| {
        width += width_em(c) * size_px;
        width <= room_px
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_fits_and_is_text() {
        assert_eq!(fitted("short", 13.0, 200.0), "short");
        let long = fitted(&format!("{}v0.2", "name ".repeat(100)), 13.0, 200.0);
        assert!(
            long.starts_with("name") && long.ends_with("v0.2") && long.contains('…'),
            "{long}"
        );
        assert!(width_px(&long, 13.0) <= 200.0, "{long}");
        assert_eq!(fitted("世界世界世界", 10.0, 55.0), "世界…世界");
        assert_eq!(fitted("世界世e\u{301}界", 10.0, 43.0), "世…界");
        assert_eq!(fitted("世界", 10.0, 1.0), "…");
        let mut canvas = Canvas::new(10.0, 10.0, "</title>");
        canvas.text([0.0, 0.0], "label", Anchor::Start, "<b>\u{ffff}\n&", 200.0);
        let svg = canvas.finish();
        assert!(
            svg.contains("<title>&lt;/title&gt;</title>")
                && svg.contains(";&lt;b&gt;\u{fffd} &amp;&#x2069;</text>")
        );
    }
}
