//! A report as Markdown (GitHub's), with the pictures beside it.

mod escape;

use std::fmt::Write;

use aligner_data::EditOp;
use aligner_report::kit::number::grouped;

use super::changes::{Change, Piece};
use super::content::{Block, Content, Drawing, Grid, Picture};
use super::facts::Fact;
use escape::Plain;

/// The text.
pub(super) fn markdown(content: &Content<'_>) -> String {
    let mut text = format!("# {}\n\n", Plain(content.title));
    if !content.shared.is_empty() {
        let _ = writeln!(text, "Evaluation of corrections. {}\n", Plain(&content.shared));
    }
    for note in content.notes {
        let _ = writeln!(text, "**Note:** {}\n", Plain(note));
    }
    for (name, value) in &content.tiles {
        let _ = writeln!(text, "- {name}: {value}");
    }
    for section in &content.sections {
        let _ = writeln!(text, "\n## {}\n", section.title);
        if !section.about.is_empty() {
            let _ = writeln!(text, "{}\n", Plain(&section.about));
        }
        for each in &section.blocks {
            block(&mut text, each);
        }
    }
    if content.sections.is_empty() {
        text += "There is nothing in this evaluation yet.\n\n";
    }
    let _ = writeln!(
        text,
        "---\n\nDrawn by aligner {} from the files of the evaluation.",
        env!("CARGO_PKG_VERSION")
    );
    text
}

fn block(text: &mut String, block: &Block<'_>) {
    let _ = match block {
        Block::Heading(heading) => writeln!(text, "### {}\n", Plain(heading)),
        Block::Note(note) => writeln!(text, "Note: {}\n", Plain(note)),
        Block::Grid(each) => {
            grid(text, each);
            Ok(())
        }
        Block::Picture(each) => {
            picture(text, each);
            Ok(())
        }
        Block::Change(each) => {
            change(text, each);
            Ok(())
        }
        Block::Facts(each) => {
            facts(text, each);
            Ok(())
        }
    };
}

fn grid(text: &mut String, grid: &Grid) {
    for name in &grid.head {
        let _ = write!(text, "| {} ", Plain(name));
    }
    *text += "|\n";
    for column in 0..grid.head.len() {
        *text += if column < grid.names { "|---" } else { "|---:" };
    }
    *text += "|\n";
    for row in &grid.rows {
        for cell in row {
            let _ = write!(text, "| {} ", Plain(&cell.text));
            if !cell.interval.is_empty() {
                let _ = write!(text, "({}) ", Plain(&cell.interval));
            }
        }
        *text += "|\n";
    }
    text.push('\n');
}

fn picture(text: &mut String, picture: &Picture) {
    let (title, file) = (Plain(&picture.title), &picture.file);
    let _ = writeln!(text, "![{title}]({file})\n");
    if !picture.about.is_empty() {
        let _ = writeln!(text, "{}\n", Plain(&picture.about));
    }
    let Drawing::Histograms(histograms) = &picture.drawing else {
        return;
    };
    // The one picture whose numbers stand in no table.
    for (label, counts) in histograms {
        let counts: Vec<String> = counts.iter().copied().map(grouped).collect();
        let _ = writeln!(
            text,
            "- {}, from 0 % to 100 %: {}",
            Plain(label),
            counts.join(" · ")
        );
    }
    text.push('\n');
}

fn change(text: &mut String, change: &Change<'_>) {
    let cut = if change.question_is_cut {
        " *… shortened*"
    } else {
        ""
    };
    let _ = writeln!(text, "**Question:** {}{cut}\n", Plain(change.question));
    let chips: Vec<String> = change.chips.iter().map(|chip| Plain(chip).to_string()).collect();
    let _ = writeln!(text, "{}\n", chips.join(" · "));
    *text += "| answer | correction |\n|---|---|\n";
    for without in [EditOp::Insert, EditOp::Delete] {
        *text += "| ";
        side(text, change, without);
        text.push(' ');
    }
    *text += "|\n\n";
}

fn side(text: &mut String, change: &Change<'_>, without: EditOp) {
    let mut is_empty = true;
    for piece in change.side(without) {
        is_empty = false;
        let _ = match piece {
            Piece::Text(edit) => {
                let plain = Plain(&edit.text);
                match edit.op {
                    EditOp::Keep => write!(text, "{plain}"),
                    EditOp::Delete => write!(text, "<del>{plain}</del>"),
                    EditOp::Insert => write!(text, "<ins>{plain}</ins>"),
                }
            }
            Piece::Gap { chars, .. } => {
                write!(text, " *… {} characters …* ", grouped(*chars as u64))
            }
        };
    }
    if is_empty {
        *text += "*nothing*";
    }
}

fn facts(text: &mut String, facts: &[Fact]) {
    *text += "| name | value |\n|---|---|\n";
    for fact in facts {
        let _ = writeln!(text, "| {} | {} |", Plain(&fact.name), Plain(&fact.value));
    }
    text.push('\n');
}
