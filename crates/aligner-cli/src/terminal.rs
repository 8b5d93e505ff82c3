//! What people see: colours, lines, progress.

use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use aligner_infer::{Edit, EditOp};
use aligner_serve::Telemetry;
use anstyle::{AnsiColor, Style};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};

use crate::error::CliError;

/// How a command logs.
#[derive(Default)]
pub struct Log<'a> {
    /// Times that `-v` was given.
    pub verbose: u8,
    /// Whether it is a service, whose log is its account of what it served.
    pub service: bool,
    /// A JSON object a line, with the time.
    pub json: bool,
    /// Where spans go as well.
    pub telemetry: Option<&'a Telemetry>,
}

/// Sends the libraries' log to stderr; `RUST_LOG` overrides the level.
pub fn log_to_stderr(log: &Log<'_>) {
    let level = match log.verbose {
        0 if log.service => "warn,aligner_serve=info",
        0 => "warn",
        1 => "info",
        _ => "debug",
    };
    let asked = std::env::var(EnvFilter::DEFAULT_ENV).unwrap_or_default();
    let filter = EnvFilter::try_new(without_requests(&asked, level));
    let filter = filter.unwrap_or_else(|_| EnvFilter::new(without_requests("", level)));
    let lines = fmt::layer()
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal());
    let lines = match log.json {
        true => lines
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .boxed(),
        false => lines
            .without_time()
            .fmt_fields(fmt::format::DefaultFields::new())
            .boxed(),
    };
    let spans = log.telemetry.map(|telemetry| telemetry.layer());
    // Somebody who embeds this may have set a log of their own.
    let _ = tracing_subscriber::registry()
        .with(lines.with_filter(filter))
        .with(spans)
        .try_init();
}

/// A log filter that never shows requests as they are sent: they hold the Hub's token, and at `trace` the HTTP client dumps
/// them byte by byte.
fn without_requests(asked: &str, level: &str) -> String {
    let of_client = |part: &&str| part.trim_start().starts_with("ureq");
    let mut parts: Vec<&str> = asked.split(',').filter(|part| !of_client(part)).collect();
    if parts.iter().all(|part| part.trim().is_empty()) {
        parts = vec![level];
    }
    parts.extend(["ureq=info", "ureq_proto=info"]);
    parts.join(",")
}

/// Whether stdout takes colours.
pub fn stdout_is_coloured() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

/// A line for people.
pub fn say(text: impl Display) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// An error for people.
pub fn say_error(error: &CliError) {
    say(format!("error: {error}"));
}

/// Text in a style when `coloured`.
pub fn styled(text: &str, style: Style, coloured: bool) -> String {
    if coloured {
        format!("{}{text}{}", style.render(), style.render_reset())
    } else {
        text.to_string()
    }
}

/// Style of text that was taken out.
pub fn deleted() -> Style {
    Style::new().fg_color(Some(AnsiColor::Red.into())).strikethrough()
}

/// Style of text that was put in.
pub fn inserted() -> Style {
    Style::new().fg_color(Some(AnsiColor::Green.into()))
}

/// The changes of an answer in one line: coloured, or as `[-taken out-]{+put in+}`.
pub fn render_diff(edits: &[Edit], coloured: bool) -> String {
    let render = |edit: &Edit| match (edit.op, coloured) {
        (EditOp::Keep, _) => edit.text.clone(),
        (EditOp::Delete, true) => styled(&edit.text, deleted(), true),
        (EditOp::Insert, true) => styled(&edit.text, inserted(), true),
        (EditOp::Delete, false) => format!("[-{}-]", edit.text),
        (EditOp::Insert, false) => format!("{{+{}+}}", edit.text),
    };
    edits.iter().map(render).collect()
}

/// A bar on a terminal, nothing elsewhere.
pub fn progress(total: Option<u64>, what: &str) -> ProgressBar {
    bar(total, what, "{msg} {bar:30} {pos}/{len} {eta}")
}

/// The same for a file of so many bytes.
pub fn byte_progress(total: Option<u64>, what: &str) -> ProgressBar {
    bar(
        total,
        what,
        "{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
    )
}

fn bar(total: Option<u64>, what: &str, template: &str) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = match total {
        Some(total) => ProgressBar::new(total),
        None => ProgressBar::no_length(),
    };
    bar.set_draw_target(ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.with_message(what.to_string())
}

/// Lets a line through at most once a second.
#[derive(Debug, Default)]
pub struct Throttle(Option<Instant>);

impl Throttle {
    /// Whether a line may be printed now.
    pub fn allows(&mut self) -> bool {
        let now = Instant::now();
        let allowed = self.0.is_none_or(|last| now - last >= Duration::from_secs(1));
        if allowed {
            self.0 = Some(now);
        }
        allowed
    }
}
