//! What Prometheus reads at `/metrics`.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::config::Mode;
use crate::engine::EngineLoad;
use crate::outcome::Outcome;

const SECONDS: [f64; 14] = [
    0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 120.0,
];
const RATIOS: [f64; 11] = [0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9];

/// A word as a label's value.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Word(&'static str);

impl prometheus_client::encoding::EncodeLabelValue for Word {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        self.0.encode(encoder)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: Word,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ModeLabel {
    mode: Word,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: Word,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabel {
    endpoint: Word,
    status: u16,
}

type Histograms = Family<ModeLabel, Histogram, fn() -> Histogram>;

/// All metrics of a service.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<RequestLabel, Counter>,
    corrections: Family<OutcomeLabel, Counter>,
    edit_ratio: Histogram,
    added_latency: Histograms,
    first_token: Histograms,
    draft_proposed: Counter,
    draft_accepted: Counter,
    upstream_errors: Family<KindLabel, Counter>,
    shadow_rows: Counter,
    background_dropped: Counter,
    in_flight: Gauge,
    running: Gauge,
    waiting: Gauge,
    kv_bytes: Gauge,
    resident_bytes: Gauge<f64, AtomicU64>,
}

fn seconds() -> Histogram {
    Histogram::new(SECONDS)
}

impl Metrics {
    pub fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::default(),
            requests: Family::default(),
            corrections: Family::default(),
            edit_ratio: Histogram::new(RATIOS),
            added_latency: Family::new_with_constructor(seconds),
            first_token: Family::new_with_constructor(seconds),
            draft_proposed: Counter::default(),
            draft_accepted: Counter::default(),
            upstream_errors: Family::default(),
            shadow_rows: Counter::default(),
            background_dropped: Counter::default(),
            in_flight: Gauge::default(),
            running: Gauge::default(),
            waiting: Gauge::default(),
            kv_bytes: Gauge::default(),
            resident_bytes: Gauge::default(),
        };
        metrics.register();
        metrics
    }

    fn register(&mut self) {
        let registry = self.registry.sub_registry_with_prefix("aligner");
        registry.register(
            "requests",
            "Requests by endpoint and status",
            self.requests.clone(),
        );
        registry.register(
            "corrections",
            "Answers by what became of them",
            self.corrections.clone(),
        );
        registry.register(
            "edit_ratio",
            "Share of words that a correction changed",
            self.edit_ratio.clone(),
        );
        registry.register(
            "added_latency_seconds",
            "Time from the upstream's answer to the end of its correction",
            self.added_latency.clone(),
        );
        registry.register(
            "time_to_first_token_seconds",
            "Time from the upstream's answer to the first text of its correction",
            self.first_token.clone(),
        );
        registry.register(
            "draft_proposed_tokens",
            "Tokens that were drafted",
            self.draft_proposed.clone(),
        );
        registry.register(
            "draft_accepted_tokens",
            "Drafted tokens that were right",
            self.draft_accepted.clone(),
        );
        registry.register(
            "upstream_errors",
            "Failures of the upstream",
            self.upstream_errors.clone(),
        );
        registry.register(
            "shadow_rows",
            "Rows written for later training",
            self.shadow_rows.clone(),
        );
        registry.register(
            "background_dropped",
            "Corrections behind answers that were not made or recorded because too many waited",
            self.background_dropped.clone(),
        );
        registry.register(
            "requests_in_flight",
            "Requests that are being served",
            self.in_flight.clone(),
        );
        registry.register(
            "corrections_running",
            "Corrections that are computed",
            self.running.clone(),
        );
        registry.register(
            "corrections_waiting",
            "Corrections that wait for a place",
            self.waiting.clone(),
        );
        registry.register(
            "kv_cache_bytes",
            "Memory reserved for keys and values",
            self.kv_bytes.clone(),
        );
        self.registry.register(
            "process_resident_memory_bytes",
            "Memory of the process",
            self.resident_bytes.clone(),
        );
    }

    pub fn request(&self, endpoint: &'static str, status: u16) {
        let endpoint = Word(endpoint);
        self.requests
            .get_or_create(&RequestLabel { endpoint, status })
            .inc();
    }

    pub fn outcome(&self, outcome: Outcome) {
        let outcome = Word(outcome.as_str());
        self.corrections.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    pub fn edit_ratio(&self, ratio: f64) {
        self.edit_ratio.observe(ratio);
    }

    pub fn added(&self, mode: Mode, seconds: f64, first_token: Option<f64>) {
        let label = ModeLabel {
            mode: Word(mode.as_str()),
        };
        self.added_latency.get_or_create(&label).observe(seconds);
        if let Some(seconds) = first_token {
            self.first_token.get_or_create(&label).observe(seconds);
        }
    }

    pub fn drafts(&self, usage: &aligner_infer::Usage) {
        self.draft_proposed.inc_by(usage.draft_proposed as u64);
        self.draft_accepted.inc_by(usage.draft_accepted as u64);
    }

    pub fn upstream_error(&self, kind: &'static str) {
        self.upstream_errors
            .get_or_create(&KindLabel { kind: Word(kind) })
            .inc();
    }

    pub fn shadow_row(&self) {
        self.shadow_rows.inc();
    }

    pub fn dropped(&self) {
        self.background_dropped.inc();
    }

    /// Counts a request for as long as what is returned lives.
    pub fn in_flight(&self) -> InFlight {
        self.in_flight.inc();
        InFlight(self.in_flight.clone())
    }

    /// The text of `/metrics`.
    pub fn render(&self, load: EngineLoad) -> String {
        self.running.set(load.running as i64);
        self.waiting.set(load.waiting as i64);
        self.kv_bytes.set(load.kv_bytes as i64);
        self.resident_bytes.set(resident_bytes().unwrap_or(0) as f64);
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

/// See [`Metrics::in_flight`].
#[derive(Debug)]
pub(crate) struct InFlight(Gauge);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Memory of this process, where the system tells.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_dashboards_ask_for() {
        let metrics = Metrics::new();
        metrics.outcome(Outcome::Corrected);
        metrics.edit_ratio(0.2);
        metrics.added(Mode::Buffer, 0.3, Some(0.1));
        metrics.upstream_error("timeout");
        metrics.request("chat", 200);
        let text = metrics.render(EngineLoad::default());
        for line in [
            "aligner_corrections_total{outcome=\"corrected\"} 1",
            "aligner_edit_ratio_count 1",
            "aligner_added_latency_seconds_count{mode=\"buffer\"} 1",
            "aligner_draft_proposed_tokens_total 0",
            "aligner_draft_accepted_tokens_total 0",
            "aligner_upstream_errors_total{kind=\"timeout\"} 1",
            "aligner_requests_total{endpoint=\"chat\",status=\"200\"} 1",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        // The dashboard asks for nothing else.
        let dashboard = include_str!("../../../deploy/grafana.json");
        let words = dashboard.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
        let asked: Vec<&str> = words.filter(|word| word.starts_with("aligner_")).collect();
        assert!(asked.len() > 10);
        for name in asked {
            assert!(text.contains(name), "{name}\n{text}");
        }
    }
}
