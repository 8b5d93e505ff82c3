//! A report as one page.

mod pictures;

use std::fmt::Write;

use aligner_data::EditOp;
use aligner_report::kit::{Edits, Escaped, number::grouped, page};

use super::changes::{Change, Piece};
use super::content::{Block, Content, Grid, Section};
use super::facts::Fact;

const STYLE: &str = include_str!("style.css");

/// The page.
pub(super) fn html(content: &Content<'_>) -> String {
    let mut html = format!(
        "<header><p class=\"kind\">Evaluation of corrections</p><h1 dir=\"auto\">{}</h1>",
        Escaped(content.title)
    );
    if !content.shared.is_empty() {
        let _ = write!(html, "<p class=\"shared\">{}</p>", Escaped(&content.shared));
    }
    html += "</header>\n";
    for note in content.notes {
        let _ = writeln!(html, "<p class=\"notice\" dir=\"auto\">{}</p>", Escaped(note));
    }
    if !content.tiles.is_empty() {
        html += "<dl class=\"tiles\">";
        for (name, value) in &content.tiles {
            let _ = write!(html, "<div><dt>{name}</dt><dd>{value}</dd></div>");
        }
        html += "</dl>\n";
    }
    for each in &content.sections {
        section(&mut html, each);
    }
    if content.sections.is_empty() {
        html += "<p class=\"notice\">There is nothing in this evaluation yet.</p>\n";
    }
    let _ = writeln!(
        html,
        "<footer><p>Drawn by aligner {} from the files of the evaluation.</p></footer>",
        env!("CARGO_PKG_VERSION")
    );
    page(&format!("{} – evaluation", content.title), STYLE, &html)
}

fn section(html: &mut String, section: &Section<'_>) {
    let _ = write!(html, "<section><h2>{}</h2>", section.title);
    if !section.about.is_empty() {
        let _ = write!(html, "<p class=\"about\">{}</p>", Escaped(&section.about));
    }
    html.push('\n');
    for block in &section.blocks {
        match block {
            Block::Heading(text) => {
                let _ = writeln!(html, "<h3 class=\"part\" dir=\"auto\">{}</h3>", Escaped(text));
            }
            Block::Note(text) => {
                let _ = writeln!(html, "<p class=\"about\" dir=\"auto\">{}</p>", Escaped(text));
            }
            Block::Grid(grid) => table(html, grid),
            Block::Picture(picture) => pictures::picture(html, picture),
            Block::Change(shown) => change(html, shown),
            Block::Facts(lines) => facts(html, lines),
        }
    }
    *html += "</section>\n";
}

/// A table; on a narrow screen each row becomes a list, for which every cell carries the name of its column.
fn table(html: &mut String, grid: &Grid) {
    *html += "<table class=\"figures\"><thead><tr>";
    for (column, name) in grid.head.iter().enumerate() {
        let _ = write!(html, "<th{}>{}</th>", name_class(grid, column), Escaped(name));
    }
    *html += "</tr></thead><tbody>\n";
    for row in &grid.rows {
        *html += "<tr>";
        for (column, (cell, name)) in row.iter().zip(&grid.head).enumerate() {
            let (class, name) = (name_class(grid, column), Escaped(name));
            if cell.text.is_empty() {
                let _ = write!(html, "<td{class}></td>");
                continue;
            }
            let _ = write!(
                html,
                "<td{class} data-name=\"{name}\"><span><bdi>{}</bdi>",
                Escaped(&cell.text)
            );
            if !cell.interval.is_empty() {
                let _ = write!(html, " <small>({})</small>", Escaped(&cell.interval));
            }
            *html += "</span></td>";
        }
        *html += "</tr>\n";
    }
    *html += "</tbody></table>\n";
}

fn name_class(grid: &Grid, column: usize) -> &'static str {
    if column < grid.names {
        " class=\"name\""
    } else {
        ""
    }
}

fn change(html: &mut String, change: &Change<'_>) {
    let cut = if change.question_is_cut {
        " <span class=\"gap\">[…]</span>"
    } else {
        ""
    };
    let _ = write!(
        html,
        "<article><p class=\"question\" dir=\"auto\">{}{cut}</p><div class=\"sides\">",
        Escaped(change.question)
    );
    for (name, without) in [("answer", EditOp::Insert), ("correction", EditOp::Delete)] {
        let _ = write!(
            html,
            "<div><p class=\"side\">{name}</p><p class=\"diff\" dir=\"auto\">"
        );
        side(html, change, without);
        *html += "</p></div>";
    }
    *html += "</div><p class=\"chip\">";
    for (index, chip) in change.chips.iter().enumerate() {
        let dot = if index == 0 { "" } else { " · " };
        let _ = write!(html, "{dot}<bdi>{}</bdi>", Escaped(chip));
    }
    *html += "</p></article>\n";
}

fn side(html: &mut String, change: &Change<'_>, without: EditOp) {
    let mut is_empty = true;
    for piece in change.side(without) {
        is_empty = false;
        let _ = match piece {
            Piece::Text(edit) => {
                let edits = std::slice::from_ref(edit);
                write!(html, "{}", Edits { edits, without: None })
            }
            Piece::Gap { chars, .. } => write!(html, "{}", gap(*chars)),
        };
    }
    if is_empty {
        *html += "<span class=\"gap\">[nothing]</span>";
    }
}

fn gap(chars: usize) -> String {
    format!(
        "<span class=\"gap\">[… {} characters …]</span>",
        grouped(chars as u64)
    )
}

fn facts(html: &mut String, facts: &[Fact]) {
    *html += "<table class=\"settings\"><tbody>\n";
    for fact in facts {
        let _ = writeln!(
            html,
            "<tr><th scope=\"row\"><bdi>{}</bdi></th><td dir=\"auto\">{}</td></tr>",
            Escaped(&fact.name),
            Escaped(&fact.value)
        );
    }
    *html += "</tbody></table>\n";
}
