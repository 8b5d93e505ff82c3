//! A correction as a heat map: each token in the colour of its probability.

use std::fmt::Write;

use crate::kit::number::grouped;
use crate::kit::{Escaped, page};

const STYLE: &str = include_str!("tokens.css");
/// Tokens that have a row of their own.
const MOST_ROWS: usize = 2000;

/// How likely a token is, as one of six steps; 0 is nearly certain.
///
/// ```
/// use aligner_report::tokens::Likelihood;
/// assert_eq!(Likelihood::of(-0.01), Likelihood(0));
/// assert_eq!(Likelihood::of(0.3f64.ln()).name(), "20 to 50 %");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Likelihood(pub usize);

impl Likelihood {
    /// All of them.
    pub const ALL: [Self; 6] = [Self(0), Self(1), Self(2), Self(3), Self(4), Self(5)];
    /// The lowest probability of each but the last.
    const BOUNDS: [f64; 5] = [0.9, 0.5, 0.2, 0.05, 0.01];

    /// Of a log-probability, in nats.
    pub fn of(logprob: f64) -> Self {
        let probability = logprob.exp();
        let bound = Self::BOUNDS.iter().position(|&bound| probability >= bound);
        Self(bound.unwrap_or(Self::BOUNDS.len()))
    }

    /// Its name in a legend.
    pub fn name(self) -> &'static str {
        const NAMES: [&str; 6] = [
            "90 % and more",
            "50 to 90 %",
            "20 to 50 %",
            "5 to 20 %",
            "1 to 5 %",
            "less",
        ];
        NAMES.get(self.0).copied().unwrap_or(NAMES[5])
    }
}

/// A probability for people, of a log-probability in nats: `97 %`, `0.3 %`, `2e-5`.
pub fn probability(logprob: f64) -> String {
    let percent = 100.0 * logprob.exp();
    match percent {
        // Rounded to 100 it would look certain.
        99.95.. => "> 99.9 %".into(),
        99.5.. => format!("{percent:.1} %"),
        9.5.. => format!("{percent:.0} %"),
        0.1.. => format!("{percent:.1} %"),
        _ => format!("{:.0e}", percent / 100.0),
    }
}

/// A token of the correction, or several that make one character.
#[derive(Debug, Clone, PartialEq)]
pub struct Cell<'a> {
    /// What it adds to the text.
    pub text: &'a str,
    /// How many tokens it is.
    pub tokens: usize,
    /// How many of them are not the model's first choice in their places.
    pub not_first: usize,
    /// Its log-probability, in nats; of several together.
    pub logprob: f64,
    /// Whether the answer has its word there too.
    pub kept: bool,
    /// Whether it ends the correction.
    pub is_end: bool,
    /// What could be in its place, with log-probabilities.
    pub alternatives: Vec<(&'a str, f64)>,
}

/// A correction to be drawn.
#[derive(Debug, Clone, PartialEq)]
pub struct Heat<'a> {
    /// What was asked.
    pub question: &'a str,
    /// What was answered.
    pub answer: &'a str,
    /// The model's name.
    pub model: &'a str,
    /// The correction's tokens.
    pub cells: Vec<Cell<'a>>,
}

impl Heat<'_> {
    /// A page that stands alone: it has no script and refers to nothing.
    pub fn page(&self) -> String {
        let mut body = format!(
            "<header><p class=\"kind\">A correction, token by token</p><h1>{}</h1></header>\n",
            Escaped(self.model)
        );
        for (title, text) in [("Question", self.question), ("Answer", self.answer)] {
            let _ = writeln!(body, "<h2>{title}</h2><p class=\"given\">{}</p>", Escaped(text));
        }
        body += "<h2>Correction</h2>\n<p class=\"heat\">";
        self.cells.iter().for_each(|cell| cell.write(&mut body));
        body += "</p>\n";
        body += &key();
        body += &self.numbers();
        body += &self.lists();
        page("A correction, token by token", STYLE, &body)
    }

    fn tokens(&self) -> usize {
        self.cells.iter().map(|cell| cell.tokens).sum()
    }

    fn numbers(&self) -> String {
        let sum: f64 = self.cells.iter().map(|cell| cell.logprob).sum();
        let tokens = self.tokens();
        let not_first: usize = self.cells.iter().map(|cell| cell.not_first).sum();
        let perplexity = (-sum / tokens.max(1) as f64).exp();
        let tiles = [
            ("Tokens", grouped(tokens as u64)),
            ("Log-probability, nats", format!("{sum:.2}")),
            ("Perplexity", format!("{perplexity:.2}")),
            ("Not the model's first choice", grouped(not_first as u64)),
        ];
        let mut html = String::from("<dl class=\"tiles\">");
        for (name, value) in tiles {
            let _ = write!(html, "<div><dt>{name}</dt><dd>{value}</dd></div>");
        }
        html + "</dl>\n"
    }

    fn lists(&self) -> String {
        let doubtful: Vec<&Cell<'_>> = self
            .cells
            .iter()
            .filter(|cell| cell.logprob.exp() < 0.5)
            .collect();
        let mut html = String::new();
        if !doubtful.is_empty() {
            html += "<h2>Below 50 %</h2>\n";
            html += &table(&doubtful);
        }
        let all: Vec<&Cell<'_>> = self.cells.iter().collect();
        let _ = writeln!(
            html,
            "<details><summary>All {} tokens</summary>{}</details>",
            grouped(self.tokens() as u64),
            table(&all)
        );
        html
    }
}

impl Cell<'_> {
    fn write(&self, html: &mut String) {
        let Likelihood(step) = Likelihood::of(self.logprob);
        let new = if self.kept || self.is_end { "" } else { " new" };
        let title = self.title();
        let title = Escaped(&title);
        if self.is_end {
            let _ = write!(html, "<b class=\"p{step} end\" title=\"{title}\">end</b>");
            return;
        }
        // A line that ends is seen as a sign of its own, or its colour could not be.
        for (index, line) in self.text.split('\n').enumerate() {
            if index > 0 {
                let _ = writeln!(html, "<b class=\"p{step} break\" title=\"{title}\">↵</b>");
            }
            // White space between a word that was kept and one that was not belongs to neither.
            let (gap, word) = line.split_at(line.len() - line.trim_start().len());
            let (gap, word) = (Escaped(gap), Escaped(word));
            if !line.is_empty() {
                let _ = write!(
                    html,
                    "<b class=\"p{step}{new}\" title=\"{title}\">{gap}<u>{word}</u></b>"
                );
            }
        }
    }

    fn title(&self) -> String {
        let mut title = probability(self.logprob);
        for (index, (text, logprob)) in self.alternatives.iter().enumerate() {
            let lead = if index == 0 { " · most probable: " } else { ", " };
            let _ = write!(title, "{lead}{} {}", quoted(text), probability(*logprob));
        }
        title
    }

    fn state(&self) -> &'static str {
        match (self.is_end, self.kept) {
            (true, _) => "end",
            (false, true) => "kept",
            (false, false) => "new",
        }
    }
}

fn key() -> String {
    let mut html = String::from("<p class=\"key\">");
    for step in Likelihood::ALL {
        let _ = write!(html, "<span><i class=\"p{}\"></i>{}</span>", step.0, step.name());
    }
    html + "<span><span class=\"new\">underlined</span>: not in the answer</span></p>\n"
}

fn table(cells: &[&Cell<'_>]) -> String {
    let mut html = String::from(
        "<div class=\"wide\"><table class=\"list\"><thead><tr><th>Probability</th><th>Token</th><th></th><th>Most probable in its \
         place</th></tr></thead><tbody>\n",
    );
    for cell in cells.iter().take(MOST_ROWS) {
        let name = if cell.is_end {
            "end".into()
        } else {
            quoted(cell.text)
        };
        let _ = write!(
            html,
            "<tr><td>{}</td><td><code>{}</code></td><td class=\"state\">{}</td><td>",
            probability(cell.logprob),
            Escaped(&name),
            cell.state()
        );
        for (index, (text, logprob)) in cell.alternatives.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            let _ = write!(
                html,
                "{comma}<code>{}</code> {}",
                Escaped(&quoted(text)),
                probability(*logprob)
            );
        }
        html += "</td></tr>\n";
    }
    html += "</tbody></table></div>";
    if cells.len() > MOST_ROWS {
        let _ = write!(
            html,
            "<p class=\"about\">and {} more</p>",
            grouped(cells[MOST_ROWS..].iter().map(|cell| cell.tokens as u64).sum())
        );
    }
    html
}

/// A text whose white space can be seen.
pub fn quoted(text: &str) -> String {
    text.replace('\n', "↵").replace('\t', "⇥").replace(' ', "␣")
}
