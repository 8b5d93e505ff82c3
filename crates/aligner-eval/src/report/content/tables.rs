//! Figures in rows and columns.

use aligner_report::kit::number::grouped;

use super::super::format;
use super::super::input::{Figure, Group, Number, Row, Table, Unit, Verdicts};
use super::pictures::ScoreRow;
use super::{Names, Stack};

/// Columns of figures beside each other: as many as fit on paper.
const MOST_COLUMNS: usize = 6;

/// Columns of verdicts.
const VERDICT_COLUMNS: [&str; 8] = [
    "pairs",
    "wins",
    "ties",
    "losses",
    "ω",
    "p",
    "contradictions",
    "unread",
];

/// A table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Grid {
    pub head: Vec<String>,
    /// How many columns, from the first, hold names instead of numbers.
    pub names: usize,
    /// As many cells as `head` has, in every row.
    pub rows: Vec<Vec<Cell>>,
}

/// A number with its interval, a name, or nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in super::super) struct Cell {
    pub text: String,
    pub interval: String,
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self {
            text,
            interval: String::new(),
        }
    }
}

impl From<(String, String)> for Cell {
    fn from((text, interval): (String, String)) -> Self {
        Self { text, interval }
    }
}

/// Head and cells of a group's name.
fn name_head(names: Names) -> Vec<String> {
    let parts = [
        Some("upstream"),
        names.dataset.then_some("data set"),
        names.aligner.then_some("Aligner"),
    ];
    parts.into_iter().flatten().map(String::from).collect()
}

fn name_cells(group: &Group, names: Names) -> Vec<Cell> {
    let parts = [
        Some(&group.upstream),
        names.dataset.then_some(&group.dataset),
        names.aligner.then_some(&group.aligner),
    ];
    parts.into_iter().flatten().cloned().map(Cell::from).collect()
}

/// Figures of groups, in as many tables as they need. A figure that no group has gets no column.
pub(super) fn figures(table: &Table, names: Names) -> Vec<Grid> {
    let mut columns: Vec<&str> = Vec::new();
    for figure in table.rows.iter().flat_map(|row| &row.figures) {
        let has_data = format::number(figure.number, figure.unit, 1.0).is_some();
        if has_data && !columns.contains(&figure.name.as_str()) {
            columns.push(&figure.name);
        }
    }
    // Tables of the same width, rather than a last one with a single column.
    let tables = columns.len().div_ceil(MOST_COLUMNS).max(1);
    let width = columns.len().div_ceil(tables).max(1);
    let grids = columns.chunks(width);
    grids.map(|columns| figure_grid(table, columns, names)).collect()
}

/// Some columns of a table.
fn figure_grid(table: &Table, columns: &[&str], names: Names) -> Grid {
    let mut head = name_head(names);
    let named = head.len();
    head.extend(columns.iter().map(ToString::to_string));
    let sizes = columns.iter().map(|column| {
        let all = table.rows.iter().flat_map(|row| of_column(row, column));
        format::largest(all.map(|figure| figure.number))
    });
    let sizes: Vec<f64> = sizes.collect();
    let rows = table.rows.iter().filter_map(|row| {
        let cells = columns.iter().zip(&sizes).map(|(column, size)| {
            of_column(row, column).find_map(|figure| format::number(figure.number, figure.unit, *size))
        });
        let cells: Vec<Option<_>> = cells.collect();
        let has_data = cells.iter().any(Option::is_some);
        let cells = cells
            .into_iter()
            .map(|cell| cell.map(Cell::from).unwrap_or_default());
        has_data.then(|| name_cells(&row.group, names).into_iter().chain(cells).collect())
    });
    Grid {
        head,
        names: named,
        rows: rows.collect(),
    }
}

fn of_column<'a>(row: &'a Row, column: &'a str) -> impl Iterator<Item = &'a Figure> {
    row.figures.iter().filter(move |figure| figure.name == column)
}

/// Counts of verdicts, ω and what is to know of it.
pub(super) fn verdicts(rows: &[&Verdicts], names: Names) -> Option<Grid> {
    let has_judges = rows.iter().any(|row| row.judge != rows[0].judge);
    let mut head = name_head(names);
    if has_judges {
        head.push("judge".into());
    }
    let named = head.len();
    let has_unread = rows.iter().any(|row| row.tally.unread > 0);
    head.extend(VERDICT_COLUMNS.map(String::from));
    let rows = rows.iter().map(|row| {
        let mut cells = name_cells(&row.group, names);
        if has_judges {
            cells.push(row.judge.clone().into());
        }
        let tally = row.tally;
        let counts = [tally.count(), tally.wins, tally.ties, tally.losses];
        cells.extend(counts.map(|count| Cell::from(grouped(count))));
        cells.push(rate(row));
        let p = row
            .p
            .filter(|_| tally.wins + tally.losses > 0)
            .and_then(format::p);
        cells.push(p.unwrap_or_default().into());
        cells.push(row.contradictions.map(grouped).unwrap_or_default().into());
        let unread = has_unread.then(|| grouped(tally.unread));
        cells.push(unread.unwrap_or_default().into());
        cells
    });
    let mut grid = Grid {
        head,
        names: named,
        rows: rows.collect(),
    };
    grid.drop_empty_columns();
    (!grid.rows.is_empty()).then_some(grid)
}

/// ω, with its interval where there is one.
fn rate(row: &Verdicts) -> Cell {
    let estimated = row.win_rate.map(Number::from);
    let told = row.tally.win_rate().map(Number::from);
    let mut rates = [estimated, told].into_iter().flatten();
    let rate = rates.find_map(|rate| format::number(rate, Unit::Share, 1.0));
    rate.map(Cell::from).unwrap_or_default()
}

/// Differences of scores.
pub(super) fn differences(rows: &[ScoreRow<'_>], names: Names) -> Option<Grid> {
    let mut head = name_head(names);
    let named = head.len();
    head.extend(["pairs", "difference"].map(String::from));
    let size = format::largest(rows.iter().map(|row| row.gain.into()));
    let rows = rows.iter().filter_map(|row| {
        let mut cells = name_cells(row.group, names);
        cells.push(grouped(row.count).into());
        cells.push(format::number(row.gain.into(), Unit::Plain, size)?.into());
        Some(cells)
    });
    let grid = Grid {
        head,
        names: named,
        rows: rows.collect(),
    };
    (!grid.rows.is_empty()).then_some(grid)
}

impl Grid {
    /// Drops columns that are empty in all rows.
    fn drop_empty_columns(&mut self) {
        for column in (self.names..self.head.len()).rev() {
            let mut cells = self.rows.iter().filter_map(|row| row.get(column));
            if cells.all(|cell| cell.text.is_empty()) {
                self.head.remove(column);
                self.rows.iter_mut().for_each(|row| drop(row.remove(column)));
            }
        }
    }
}

impl Stack {
    /// ω and its interval in a line.
    pub(in super::super) fn rate_text(&self) -> String {
        let rate = self.rate.and_then(|rate| format::signed(rate, Unit::Share, 1.0));
        rate.map(|rate| format!("ω {rate}")).unwrap_or_default()
    }
}
