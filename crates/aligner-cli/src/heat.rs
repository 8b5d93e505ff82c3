//! A correction on the terminal, each token in the colour of its probability.

use std::fmt::Write;

use aligner_report::tokens::{Cell, Likelihood, probability, quoted};
use anstyle::{Ansi256Color, Color, Style};

use crate::terminal::styled;

/// Backgrounds by likelihood, of the 256 colours: none where a token is nearly certain, then pale yellow to red.
const BACKGROUNDS: [Option<u8>; 6] = [None, Some(230), Some(222), Some(215), Some(209), Some(203)];
/// Black on them is read on a light terminal and on a dark one.
const INK: u8 = 16;

/// The heat map with its legend and the tokens that the model doubts; without colours a line for each token.
pub fn render(cells: &[Cell<'_>], coloured: bool) -> String {
    if !coloured {
        return cells.iter().map(line).collect();
    }
    let mut text: String = cells.iter().map(coloured_cell).collect();
    text.push_str("\n\n");
    for likelihood in Likelihood::ALL {
        let swatch = styled("  ", style(likelihood), true);
        let _ = write!(text, "{swatch} {}  ", likelihood.name());
    }
    let _ = writeln!(
        text,
        "{} not in the answer",
        styled("word", Style::new().underline(), true)
    );
    let doubted: Vec<&Cell<'_>> = cells.iter().filter(|cell| cell.logprob.exp() < 0.5).collect();
    if !doubted.is_empty() {
        text.push('\n');
        doubted.iter().for_each(|cell| text.push_str(&line(cell)));
    }
    text
}

fn style(likelihood: Likelihood) -> Style {
    match BACKGROUNDS.get(likelihood.0).copied().flatten() {
        None => Style::new(),
        Some(background) => Style::new()
            .bg_color(Some(Color::Ansi256(Ansi256Color(background))))
            .fg_color(Some(Color::Ansi256(Ansi256Color(INK)))),
    }
}

fn coloured_cell(cell: &Cell<'_>) -> String {
    let plain = style(Likelihood::of(cell.logprob));
    if cell.is_end {
        return styled("⏹", plain, true);
    }
    let of_text = if cell.kept { plain } else { plain.underline() };
    let mut out = String::new();
    for (index, part) in cell.text.split('\n').enumerate() {
        if index > 0 {
            // The colour ends before the line does, or it would fill the terminal's width.
            out += &styled("↵", plain, true);
            out.push('\n');
        }
        // White space between a word that was kept and one that was not belongs to neither.
        let (gap, word) = part.split_at(part.len() - part.trim_start().len());
        for (text, style) in [(gap, plain), (word, of_text)] {
            if !text.is_empty() {
                out += &styled(&harmless(text), style, true);
            }
        }
    }
    out
}

/// `  97 %  kept  ␣sun    ␣moon 2 %`
fn line(cell: &Cell<'_>) -> String {
    let (state, name) = match (cell.is_end, cell.kept) {
        (true, _) => ("end", String::new()),
        (false, true) => ("kept", shown(cell.text)),
        (false, false) => ("new", shown(cell.text)),
    };
    let others: Vec<String> = cell
        .alternatives
        .iter()
        .map(|(text, logprob)| format!("{} {}", shown(text), probability(*logprob)))
        .collect();
    let line = format!(
        "{:>8}  {state:<4}  {name:<18}  {}",
        probability(cell.logprob),
        others.join("  ")
    );
    format!("{}\n", line.trim_end())
}

fn shown(text: &str) -> String {
    harmless(&quoted(text))
}

/// Text that moves no cursor and changes no colour, whatever a model or a user wrote.
fn harmless(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(text: &str, probability: f64, kept: bool) -> Cell<'_> {
        Cell {
            text,
            tokens: 1,
            not_first: 0,
            logprob: probability.ln(),
            kept,
            is_end: text.is_empty(),
            alternatives: vec![(" other\x1b]0;x\x07", -0.1)],
        }
    }

    #[test]
    fn colours_come_from_probabilities_alone() {
        let cells = [
            cell("sure", 0.99, true),
            cell(" un\x1b[31msure\nnext", 0.3, false),
            cell("", 0.005, false),
        ];
        let text = render(&cells, true);
        assert!(text.starts_with("sure"), "{text:?}");
        assert!(
            text.contains("48;5;222m \x1b[0m") && text.contains("48;5;222mun\u{fffd}[31msure"),
            "{text:?}"
        );
        assert!(text.contains("48;5;203m⏹"), "{text:?}");
        assert!(!text.contains("\x1b[31m") && !text.contains("\x1b]0"), "{text:?}");
        let plain = render(&cells, false);
        assert_eq!(plain.lines().count(), 3);
        assert!(!plain.contains('\x1b'), "{plain:?}");
        assert!(plain.contains("99 %  kept  sure"), "{plain}");
        assert!(plain.contains("30 %  new   ␣un\u{fffd}[31msure↵next"), "{plain}");
        assert!(plain.contains("0.5 %  end"), "{plain}");
    }
}
