//! Each sentence is corrected and released when the upstream has written it.

use std::time::{Duration, Instant};

use aligner_infer::{Usage, edit_ratio};
use axum::body::Body;
use axum::http::Response;
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::mpsc::{Receiver, Sender, channel, unbounded_channel};

use super::buffer::{add, send};
use super::upstream_stream::{Item, Reader};
use super::{Exchange, UpstreamFailure};
use crate::api_error::ApiError;
use crate::guard::Guarded;
use crate::openai::{ChunkHead, Shape, total_usage};
use crate::outcome::Outcome;
use crate::random::seed_of;
use crate::ruling::{Case, Ruling, Served, Wishes, changes, rule};
use crate::sentences::Segment;
use crate::sse;

/// Sentences that wait for their correction; the upstream is held back by more.
const WAITING: usize = 256;

/// Answers as a stream. Several choices have several texts at once: they are answered as in `buffer`.
pub(super) async fn stream(exchange: Exchange) -> Result<Response<Body>, ApiError> {
    let several = exchange.asked.body.get("n").and_then(Value::as_u64).unwrap_or(1) > 1;
    if several {
        return super::buffer::stream(exchange).await;
    }
    match exchange.ask(true).await {
        Ok(answer) => Ok(exchange.streaming(|exchange, frames| async move {
            let reader = Reader::new(&exchange, answer.into_body());
            let writer = Writer::new(&exchange, frames);
            // A prompt without a conversation has no message to go on from.
            match exchange.settings.config.sentence.feed_back && exchange.asked.shape == Shape::Chat {
                true => writer.feed_back(reader).await,
                false => side_by_side(reader, writer).await,
            }
        })),
        Err(failure) => exchange.upstream_failed(failure),
    }
}

/// The upstream writes while earlier sentences are corrected.
async fn side_by_side(mut reader: Reader<'_>, writer: Writer<'_>) {
    let (items, received) = channel(WAITING);
    let read = async move {
        while let Some(some) = reader.next().await {
            for item in some {
                if items.send(item).await.is_err() {
                    return;
                }
            }
        }
    };
    let write = writer.write(received);
    tokio::pin!(write);
    // A writer that has ended needs no more of the upstream.
    tokio::select! {
        () = &mut write => {}
        () = read => write.await,
    }
}

/// Corrects and releases.
struct Writer<'a> {
    exchange: &'a Exchange,
    frames: Sender<Bytes>,
    head: Option<ChunkHead>,
    original: String,
    served: String,
    outcomes: Vec<Outcome>,
    usage: Usage,
    upstream_usage: Value,
    /// Of the first sentence that was corrected.
    first_token: Option<Duration>,
    /// Whether a correction ended before a stop string, and with it the answer.
    is_stopped: bool,
}

impl<'a> Writer<'a> {
    fn new(exchange: &'a Exchange, frames: Sender<Bytes>) -> Self {
        Self {
            exchange,
            frames,
            head: None,
            original: String::new(),
            served: String::new(),
            outcomes: Vec::new(),
            usage: Usage::default(),
            upstream_usage: Value::Null,
            first_token: None,
            is_stopped: false,
        }
    }

    async fn write(mut self, mut items: Receiver<Item>) {
        let mut written = Ok(());
        while let (Ok(()), Some(item)) = (&written, items.recv().await) {
            written = self.take(item).await.map(drop);
            if self.is_stopped {
                self.finish("stop".into(), Instant::now()).await;
                break;
            }
        }
        self.close(written).await;
    }

    async fn close(self, written: Result<(), ApiError>) {
        if let Err(error) = written {
            send(&self.frames, &error.body()).await;
        }
        let _ = self.frames.send(sse::done()).await;
    }

    /// Where a sentence was changed, the upstream goes on from what was served instead of what it had written.
    async fn feed_back(mut self, reader: Reader<'_>) {
        let written = self.rounds(reader).await;
        self.close(written).await;
    }

    async fn rounds(&mut self, mut reader: Reader<'_>) -> Result<(), ApiError> {
        let mut left = self.exchange.settings.config.sentence.max_rounds;
        'round: loop {
            while let Some(items) = reader.next().await {
                for item in items {
                    let is_last = matches!(item, Item::Finish(..));
                    let changed = self.take(item).await?;
                    if self.is_stopped {
                        self.finish("stop".into(), Instant::now()).await;
                        return Ok(());
                    }
                    if changed && left > 0 && !is_last {
                        left -= 1;
                        let going_on = self.exchange.ask_on(&self.served).await;
                        let answer = going_on.map_err(|failure| self.failed(failure))?;
                        reader = Reader::new(self.exchange, answer.into_body());
                        continue 'round;
                    }
                }
            }
            return Ok(());
        }
    }

    /// Releases an item; says whether it was a sentence that was changed.
    async fn take(&mut self, item: Item) -> Result<bool, ApiError> {
        match item {
            Item::Head(_) if self.head.is_some() => {}
            Item::Head(head) => {
                if let Some(chunk) = head.role(0) {
                    send(&self.frames, &chunk).await;
                }
                self.head = Some(head);
            }
            Item::Segment(segment) => return self.segment(segment).await,
            Item::Raw(chunk) => {
                self.outcomes.push(Outcome::PassedToolCalls);
                send(&self.frames, &chunk).await;
            }
            Item::Usage(usage) => self.upstream_usage = usage,
            Item::Finish(reason, ended) => self.finish(reason, ended).await,
            Item::Failed(failure) => return Err(self.failed(failure)),
        }
        Ok(false)
    }

    /// What was released cannot be taken back: a stream that has begun ends with the error, whatever the policy.
    fn failed(&self, failure: UpstreamFailure) -> ApiError {
        let metrics = self.exchange.service.metrics();
        metrics.outcome(Outcome::UpstreamFailed);
        match failure {
            UpstreamFailure::Http(error) => {
                metrics.upstream_error(error.kind());
                ApiError::upstream(format!("the upstream failed: {error}"))
            }
            UpstreamFailure::Malformed(reason) => {
                metrics.upstream_error("malformed");
                ApiError::upstream(format!("the upstream failed: {reason}"))
            }
            UpstreamFailure::Status(status, ..) => {
                ApiError::upstream(format!("the upstream answered with status {status}"))
            }
        }
    }

    async fn segment(&mut self, segment: Segment) -> Result<bool, ApiError> {
        let mut changed = false;
        let Segment { text, gap, is_code } = segment;
        self.original.push_str(&text);
        self.original.push_str(&gap);
        if is_code {
            self.outcomes.push(Outcome::PassedCode);
            self.release(&text).await;
        } else {
            let ruling = self.correct(&text).await?;
            self.outcomes.push(ruling.outcome);
            self.first_token = self.first_token.or(ruling.first_token);
            add(&mut self.usage, ruling.usage);
            changed = ruling.text != text;
            self.served.push_str(&ruling.text);
            if ruling.is_stopped {
                self.is_stopped = true;
                return Ok(true);
            }
        }
        self.release(&gap).await;
        Ok(changed)
    }

    async fn release(&mut self, text: &str) {
        self.served.push_str(text);
        if let Some(head) = &self.head
            && !text.is_empty()
        {
            send(&self.frames, &head.text(0, text)).await;
        }
    }

    async fn correct(&self, sentence: &str) -> Result<Ruling, ApiError> {
        let Exchange {
            service,
            settings,
            asked,
            ..
        } = self.exchange;
        let case = Case {
            mode: self.exchange.mode,
            question: &asked.question,
            chat_history: &asked.chat_history,
            guarded: Guarded {
                answer: sentence,
                calls_tools: false,
                wants_json: asked.wants_json,
            },
            before: &self.served,
            stops: &asked.stops,
            wishes: Wishes {
                seed: seed_of(asked.seed, self.outcomes.len() as u64),
                ..Wishes::default()
            },
        };
        let (live, mut texts) = unbounded_channel::<String>();
        let ruled = async move { rule(service, settings, case, Some(&live)).await };
        let written = async {
            while let Some(text) = texts.recv().await {
                if let Some(head) = &self.head {
                    send(&self.frames, &head.text(0, &text)).await;
                }
            }
        };
        let (ruling, ()) = tokio::join!(ruled, written);
        ruling
    }

    /// The end, with what became of all sentences together.
    async fn finish(&mut self, reason: Value, ended: Instant) {
        let Some(head) = self.head.clone() else { return };
        let outcome = self.outcome();
        let edits = changes(&self.original, &self.served);
        let ruling = Ruling {
            outcome,
            served: match self.outcomes.contains(&Outcome::Corrected) {
                true => Served::Correction,
                false => Served::Original,
            },
            text: std::mem::take(&mut self.served),
            edit_ratio: edits.as_deref().map(edit_ratio),
            edits,
            added: ended.elapsed(),
            first_token: self.first_token,
            usage: self.usage,
            timings: None,
            reason: None,
            is_stopped: self.is_stopped,
        };
        self.exchange.shadow(&ruling, &self.original, &head.model);
        let mut end = head.end(0, reason);
        end["aligner"] = Value::Object(self.exchange.report(&ruling, &self.original));
        end["aligner"]["sentences"] = json!(self.outcomes);
        send(&self.frames, &end).await;
        if self.exchange.asked.include_usage {
            let usage = total_usage(&self.upstream_usage, self.usage);
            send(&self.frames, &head.usage(usage)).await;
        }
    }

    /// A failure of any sentence is told before the success of others.
    fn outcome(&self) -> Outcome {
        let is_failure = |outcome: &&Outcome| {
            !matches!(
                outcome,
                Outcome::Corrected
                    | Outcome::Unchanged
                    | Outcome::PassedCode
                    | Outcome::PassedJson
                    | Outcome::PassedEmpty
            )
        };
        let all = &self.outcomes;
        if let Some(&failure) = all.iter().find(is_failure) {
            return failure;
        }
        let first = [Outcome::Corrected, Outcome::Unchanged];
        let found = first.into_iter().find(|outcome| all.contains(outcome));
        found
            .or_else(|| all.first().copied())
            .unwrap_or(Outcome::PassedEmpty)
    }
}
