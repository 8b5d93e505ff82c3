//! One answer: guards, correction, gate and policies, and what is served in the end.

use std::time::{Duration, Instant};

use aligner_data::Turn;
use aligner_infer::{Edit, FinishReason, Usage, diff, edit_ratio, is_copy};
use serde_json::{Map, Value, json};
use tokio::sync::mpsc::UnboundedSender;

use crate::api_error::ApiError;
use crate::config::{Action, Mode, secs};
use crate::engine::{EngineError, Event, Job};
use crate::gate::Gated;
use crate::guard::Guarded;
use crate::openai::usage_of;
use crate::outcome::Outcome;
use crate::random::fresh_seed;
use crate::service::{Service, Settings};

/// Words from which changes are not looked for: the search takes time with the square of what differs, in which others wait.
const MOST_WORDS: usize = 5_000;

/// An answer, and how it is corrected.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Case<'a> {
    pub mode: Mode,
    pub question: &'a str,
    pub chat_history: &'a [Turn],
    pub guarded: Guarded<'a>,
    /// What of the same answer was served before, where it is served piece by piece.
    pub before: &'a str,
    /// What must not be written: a correction ends before the first of these.
    pub stops: &'a [String],
    /// Settings of the request that differ from the configured ones.
    pub wishes: Wishes<'a>,
}

/// What a request may say of how its correction is made.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Wishes<'a> {
    pub max_new_tokens: Option<usize>,
    pub temperature: Option<f32>,
    pub top_p: Option<f32>,
    /// Absent where the request names none: each correction gets one of its own then.
    pub seed: Option<u64>,
    pub prediction: Option<&'a str>,
}

/// Which text is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Served {
    Correction,
    Original,
    Block,
}

impl Served {
    fn as_str(self) -> &'static str {
        match self {
            Self::Correction => "correction",
            Self::Original => "original",
            Self::Block => "block",
        }
    }
}

/// What became of an answer.
#[derive(Debug, Clone)]
pub(crate) struct Ruling {
    pub outcome: Outcome,
    pub served: Served,
    /// What is served.
    pub text: String,
    pub edits: Option<Vec<Edit>>,
    pub edit_ratio: Option<f64>,
    /// From the upstream's answer to the end.
    pub added: Duration,
    pub first_token: Option<Duration>,
    pub usage: Usage,
    pub timings: Option<aligner_infer::Timings>,
    /// Why the correction is not served, where it is not.
    pub reason: Option<String>,
    /// Whether it ended where one of the request's stop strings would have begun.
    pub is_stopped: bool,
}

impl Ruling {
    fn untouched(outcome: Outcome, answer: &str) -> Self {
        Self {
            outcome,
            served: Served::Original,
            text: answer.to_string(),
            edits: None,
            edit_ratio: None,
            added: Duration::ZERO,
            first_token: None,
            usage: Usage::default(),
            timings: None,
            reason: None,
            is_stopped: false,
        }
    }

    /// What a client is told of it, `edits` when asked for.
    pub fn report(&self, with_edits: bool) -> Map<String, Value> {
        let mut report = Map::new();
        let mut put = |name: &str, value: Value| report.insert(name.to_string(), value);
        put("outcome", self.outcome.as_str().into());
        put("served", self.served.as_str().into());
        put("edit_ratio", json!(self.edit_ratio));
        put("added_ms", millis(self.added).into());
        put("first_token_ms", json!(self.first_token.map(millis)));
        put("usage", usage_of(self.usage));
        if let Some(timings) = &self.timings {
            put("timings", json!(timings));
        }
        if let Some(reason) = &self.reason {
            put("reason", reason.as_str().into());
        }
        if with_edits {
            put("edits", json!(self.edits));
        }
        report
    }

    /// The `finish_reason` of what is served.
    pub fn finish_reason(&self, upstream: &Value) -> Value {
        match self.served {
            Served::Block => "content_filter".into(),
            Served::Correction => "stop".into(),
            Served::Original => upstream.clone(),
        }
    }
}

pub(crate) fn millis(time: Duration) -> u64 {
    time.as_millis() as u64
}

/// Corrects one answer. What is served is sent to `live` as soon as it is certain enough; when this returns a ruling, all of its
/// text has been sent.
#[tracing::instrument(
    name = "correction",
    skip_all,
    fields(aligner.mode = case.mode.as_str(), aligner.outcome = tracing::field::Empty, aligner.edit_ratio = tracing::field::Empty)
)]
pub(crate) async fn rule(
    service: &Service,
    settings: &Settings,
    case: Case<'_>,
    live: Option<&UnboundedSender<String>>,
) -> Result<Ruling, ApiError> {
    let ruled = match settings.config.guards.passes(case.guarded) {
        Some(outcome) => {
            let ruling = Ruling::untouched(outcome, case.guarded.answer);
            send(live, &ruling.text);
            Ok(ruling)
        }
        None => {
            let mut attempt = Attempt::new(service, settings, case, live);
            let end = attempt.run().await;
            attempt.decide(end)
        }
    };
    let outcome = match &ruled {
        Ok(ruling) => ruling.outcome,
        Err((outcome, _)) => *outcome,
    };
    let (metrics, span) = (service.metrics(), tracing::Span::current());
    metrics.outcome(outcome);
    span.record("aligner.outcome", outcome.as_str());
    if let Ok(ruling) = &ruled {
        if let Some(ratio) = ruling.edit_ratio {
            metrics.edit_ratio(ratio);
            span.record("aligner.edit_ratio", ratio);
        }
        if ruling.usage.prompt_tokens > 0 {
            let first = ruling.first_token.map(|time| time.as_secs_f64());
            metrics.added(case.mode, ruling.added.as_secs_f64(), first);
            metrics.drafts(&ruling.usage);
        }
    }
    ruled.map_err(|(_, error)| error)
}

/// What a slow reader has not taken waits for it: there are no more than the new tokens that a correction may have, and to wait here
/// would count as the Aligner's time.
fn send(live: Option<&UnboundedSender<String>>, text: &str) {
    if let Some(live) = live
        && !text.is_empty()
    {
        // Nobody listens any more: whoever began this notices.
        let _ = live.send(text.to_string());
    }
}

/// Why a correction is not served.
struct Failure {
    outcome: Outcome,
    action: Action,
    reason: String,
}

/// A correction that is being made.
struct Attempt<'a> {
    service: &'a Service,
    settings: &'a Settings,
    case: Case<'a>,
    live: Option<&'a UnboundedSender<String>>,
    started: Instant,
    text: String,
    first_token: Option<Duration>,
    /// Characters at which the gate looks next: it reads all there is, so ever less often.
    look_at: usize,
    usage: Usage,
    timings: Option<aligner_infer::Timings>,
    /// Bytes of the text that were sent.
    released: usize,
    /// Whether a stop string was written: the text ends before it.
    is_stopped: bool,
}

impl<'a> Attempt<'a> {
    fn new(
        service: &'a Service,
        settings: &'a Settings,
        case: Case<'a>,
        live: Option<&'a UnboundedSender<String>>,
    ) -> Self {
        Self {
            service,
            settings,
            case,
            live,
            started: Instant::now(),
            text: String::new(),
            first_token: None,
            look_at: 64,
            usage: Usage::default(),
            timings: None,
            released: 0,
            is_stopped: false,
        }
    }

    fn job(&self) -> Job {
        let (config, wishes) = (&self.settings.config.correction, self.case.wishes);
        let most = config.max_new_tokens;
        Job {
            question: self.case.question.to_string(),
            answer: self.case.guarded.answer.to_string(),
            chat_history: self.case.chat_history.to_vec(),
            max_new_tokens: wishes.max_new_tokens.map_or(most, |wish| wish.min(most)),
            temperature: wishes.temperature.unwrap_or(config.temperature),
            top_p: wishes.top_p.unwrap_or(1.0),
            seed: wishes.seed.unwrap_or_else(fresh_seed),
            prediction: wishes.prediction.map(str::to_string),
        }
    }

    async fn run(&mut self) -> Result<(), Failure> {
        let policy = &self.settings.config.policy;
        let limit = secs(policy.aligner_timeout_secs);
        let made = async {
            let reason = self.generate().await?;
            self.look(Some(reason == FinishReason::Stop))?;
            self.weigh().await
        };
        match tokio::time::timeout(limit, made).await {
            Ok(end) => end,
            Err(_) => Err(Failure {
                outcome: Outcome::AlignerTimeout,
                action: policy.aligner_timeout,
                reason: format!("no correction within {} s", policy.aligner_timeout_secs),
            }),
        }
    }

    async fn generate(&mut self) -> Result<FinishReason, Failure> {
        let policy = &self.settings.config.policy;
        let mut running = self.service.engine().start(self.job());
        loop {
            match running.next().await {
                Ok(Event::Text(_)) if self.is_stopped => {}
                Ok(Event::Text(text)) => {
                    self.take(&text)?;
                    if self.is_stopped {
                        // Not dropped: its end says how many tokens it took.
                        running.stop();
                    }
                }
                Ok(Event::Done(finished)) => {
                    let end = first_stop(&finished.text, self.case.stops);
                    self.is_stopped |= end.is_some();
                    self.text = finished.text;
                    self.text.truncate(end.unwrap_or(self.text.len()));
                    self.usage = finished.usage;
                    self.timings = Some(finished.timings);
                    return Ok(match self.is_stopped {
                        true => FinishReason::Stop,
                        false => finished.finish_reason,
                    });
                }
                Err(_) if self.is_stopped => return Ok(FinishReason::Stop),
                Err(error) => {
                    return Err(Failure {
                        outcome: match error {
                            EngineError::Refused(_) => Outcome::PassedLength,
                            EngineError::Failed(_) => Outcome::AlignerFailed,
                        },
                        action: policy.aligner_fails,
                        reason: error.to_string(),
                    });
                }
            }
        }
    }

    fn take(&mut self, text: &str) -> Result<(), Failure> {
        if self.first_token.is_none() {
            self.first_token = Some(self.started.elapsed());
        }
        let unseen = unseen_by_stops(&self.text, self.case.stops);
        self.text.push_str(text);
        if let Some(end) = first_stop(&self.text[unseen..], self.case.stops) {
            self.text.truncate(unseen + end);
            self.is_stopped = true;
        }
        if self.text.len() >= self.look_at {
            self.look_at = self.text.len() + self.text.len() / 8;
            self.look(None)?;
        }
        let holds = self.settings.config.gate.holds(self.service.rewards().is_set());
        if self.live.is_some() && !holds {
            let certain = self.released + certain(&self.text[self.released..], self.case.stops);
            send(self.live, &self.text[self.released..certain]);
            self.released = certain;
        }
        Ok(())
    }

    /// Asks the gate.
    fn look(&self, ended: Option<bool>) -> Result<(), Failure> {
        let found = self.settings.config.gate.finds(Gated {
            question: self.case.question,
            answer: self.case.guarded.answer,
            correction: &self.text,
            ended,
        });
        found.map_or(Ok(()), |outcome| Err(self.worse(outcome)))
    }

    /// Asks the reward model, where there is one and the correction is another text.
    async fn weigh(&self) -> Result<(), Failure> {
        let (answer, config) = (self.case.guarded.answer, &self.settings.config);
        if !config.gate.enabled || is_copy(answer, &self.text) {
            return Ok(());
        }
        let rewards = self.service.rewards();
        // Models that score answers know whole ones: a sentence is weighed behind those before it.
        let whole = |text: &str| format!("{}{text}", self.case.before);
        let (answer, correction) = (whole(answer), whole(&self.text));
        let gain = rewards.gain(self.case.question, self.case.chat_history, &answer, &correction);
        match gain.await {
            None => Ok(()),
            Some(Ok(gain)) if gain >= -config.gate.max_reward_loss => Ok(()),
            Some(Ok(_)) => Err(self.worse(Outcome::GatedReward)),
            Some(Err(error)) => Err(Failure {
                outcome: Outcome::AlignerFailed,
                action: config.policy.aligner_fails,
                reason: format!("the reward check failed: {error}"),
            }),
        }
    }

    fn worse(&self, outcome: Outcome) -> Failure {
        Failure {
            outcome,
            action: self.settings.config.policy.worse,
            reason: "the correction was held for worse than the answer".into(),
        }
    }

    fn decide(self, ended: Result<(), Failure>) -> Result<Ruling, (Outcome, ApiError)> {
        let answer = self.case.guarded.answer;
        let copied = is_copy(answer, &self.text);
        let (outcome, served, text, reason) = match ended {
            Ok(()) if copied => (Outcome::Unchanged, Served::Correction, self.text.clone(), None),
            Ok(()) => (Outcome::Corrected, Served::Correction, self.text.clone(), None),
            // What was released cannot be taken back: an answer of two halves would be neither.
            Err(failure) if self.released > 0 => {
                return Err(self.refusal(failure, ", after a part of it was sent"));
            }
            Err(failure) => match failure.action {
                Action::Error => return Err(self.refusal(failure, "")),
                Action::Original => (
                    failure.outcome,
                    Served::Original,
                    answer.to_string(),
                    Some(failure.reason),
                ),
                Action::Block => {
                    let text = self.settings.config.policy.block_text.clone();
                    (failure.outcome, Served::Block, text, Some(failure.reason))
                }
            },
        };
        send(self.live, text.get(self.released..).unwrap_or_default());
        let edits = (served == Served::Correction)
            .then(|| changes(answer, &text))
            .flatten();
        Ok(Ruling {
            outcome,
            served,
            edit_ratio: edits.as_deref().map(edit_ratio),
            edits,
            text,
            added: self.started.elapsed(),
            first_token: self.first_token,
            usage: self.usage,
            timings: self.timings,
            reason,
            is_stopped: self.is_stopped && served == Served::Correction,
        })
    }

    fn refusal(&self, failure: Failure, when: &str) -> (Outcome, ApiError) {
        let message = format!("{}: {}{when}", failure.outcome.as_str(), failure.reason);
        (failure.outcome, ApiError::correction(failure.outcome, message))
    }
}

/// Where a stop string may begin that ends in what is yet to be written behind a text: so that not all of it is searched with each piece.
fn unseen_by_stops(text: &str, stops: &[String]) -> usize {
    let longest = stops.iter().map(String::len).max().unwrap_or(0);
    text.floor_char_boundary(text.len().saturating_sub(longest))
}

/// Where the first of the strings at which a text ends begins.
fn first_stop(text: &str, stops: &[String]) -> Option<usize> {
    let stops = stops.iter().filter(|stop| !stop.is_empty());
    stops.filter_map(|stop| text.find(stop.as_str())).min()
}

/// Bytes of a text that is being written that are before any stop, whatever comes: its end may be the beginning of one.
fn certain(text: &str, stops: &[String]) -> usize {
    if let Some(end) = first_stop(text, stops) {
        return end;
    }
    let begins_stop = |at: &usize| stops.iter().any(|stop| stop.starts_with(&text[*at..]));
    let longest = stops.iter().map(String::len).max().unwrap_or(0);
    let mut ends = text.char_indices().rev().map(|(at, _)| at);
    let possible = ends.by_ref().take_while(|at| text.len() - at < longest.max(1));
    possible.filter(begins_stop).min().unwrap_or(text.len())
}

/// What a correction changed, of texts that are not too long to tell.
pub(crate) fn changes(answer: &str, correction: &str) -> Option<Vec<Edit>> {
    let words = |text: &str| text.split_whitespace().count();
    (words(answer).max(words(correction)) <= MOST_WORDS).then(|| diff(answer, correction))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_become_a_stop_is_held_back() {
        let stops = ["\n\nQ:".to_string(), "END".into(), String::new()];
        for (text, want) in [
            ("a text", 6),
            ("a\n", 1),
            ("a\n\nQ", 1),
            ("a\n\nR", 4),
            ("aE", 1),
            ("aEN", 1),
            ("aEND b", 1),
            ("ü", 2),
            ("", 0),
        ] {
            assert_eq!(certain(text, &stops), want, "{text:?}");
        }
        assert_eq!(certain("a text", &[]), 6);
        assert_eq!(first_stop("one END two", &stops), Some(4));
        // However a text comes in pieces, a stop is found where it begins in all of it.
        for text in ["ééééEND", "one ENEND", "é~~END", "aaaa"] {
            let mut written = String::new();
            let found = text.chars().find_map(|piece| {
                let unseen = unseen_by_stops(&written, &stops);
                written.push(piece);
                first_stop(&written[unseen..], &stops).map(|end| unseen + end)
            });
            assert_eq!(found, first_stop(text, &stops), "{text:?}");
        }
    }
}
