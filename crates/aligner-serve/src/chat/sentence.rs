//! Each sentence is corrected and released when the upstream has written it.

use std::time::{Duration, Instant};

use aligner_infer::{Usage, diff, edit_ratio};
use axum::body::Body;
use axum::http::Response;
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::mpsc::{Receiver, Sender, channel, unbounded_channel};

use super::buffer::{add, send};
use super::{Exchange, UpstreamFailure};
use crate::api_error::ApiError;
use crate::guard::Guarded;
use crate::http_client::Answer;
use crate::openai::{ChunkHead, total_usage};
use crate::outcome::Outcome;
use crate::ruling::{Case, Ruling, Served, Wishes, rule};
use crate::sentences::{Segment, Segmenter};
use crate::sse::{self, SseParser};

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
            let (items, received) = channel(WAITING);
            let most = exchange
                .settings
                .upstream
                .as_ref()
                .map_or(0, |upstream| upstream.max_answer_bytes);
            let read = Reader::new(&exchange, items).read(answer, most);
            let write = Writer::new(&exchange, frames).write(received);
            tokio::join!(read, write);
        })),
        Err(failure) => exchange.upstream_failed(failure),
    }
}

/// What the reader hands to the writer, in the order in which it is released.
enum Item {
    Head(ChunkHead),
    Segment(Segment),
    /// A chunk that is handed on as it is: it calls tools.
    Raw(Value),
    /// Its reason, and when the upstream had written everything.
    Finish(Value, Instant),
    Usage(Value),
    Failed(UpstreamFailure),
}

/// Reads the upstream's stream.
struct Reader<'a> {
    exchange: &'a Exchange,
    items: Sender<Item>,
    segmenter: Segmenter,
    has_head: bool,
    finish_reason: Value,
}

impl<'a> Reader<'a> {
    fn new(exchange: &'a Exchange, items: Sender<Item>) -> Self {
        Self {
            exchange,
            items,
            segmenter: Segmenter::default(),
            has_head: false,
            finish_reason: Value::Null,
        }
    }

    async fn read(mut self, answer: Answer, most: usize) {
        if let Err(failure) = self.read_all(answer, most).await {
            let _ = self.items.send(Item::Failed(failure)).await;
            return;
        }
        let ended = Instant::now();
        if let Some(segment) = std::mem::take(&mut self.segmenter).finish() {
            let _ = self.items.send(Item::Segment(segment)).await;
        }
        let _ = self.items.send(Item::Finish(self.finish_reason, ended)).await;
    }

    async fn read_all(&mut self, mut answer: Answer, most: usize) -> Result<(), UpstreamFailure> {
        let (mut parser, mut heard, mut done) = (SseParser::default(), 0, false);
        while let Some(bytes) = answer.next().await.map_err(UpstreamFailure::Http)? {
            heard += bytes.len();
            if heard > most {
                let error = crate::http_client::HttpError::TooLarge(most);
                return Err(UpstreamFailure::Http(error));
            }
            let mut events = Vec::new();
            parser
                .feed(&bytes, |event| events.push(event))
                .map_err(|error| UpstreamFailure::Malformed(error.to_string()))?;
            for event in events {
                done |= event.trim() == "[DONE]";
                if !done {
                    self.take(&event).await?;
                }
            }
        }
        if !done && self.finish_reason.is_null() {
            return Err(UpstreamFailure::Malformed("its stream broke off".into()));
        }
        Ok(())
    }

    async fn take(&mut self, event: &str) -> Result<(), UpstreamFailure> {
        let chunk: Value = serde_json::from_str(event)
            .map_err(|error| UpstreamFailure::Malformed(format!("an event is no JSON: {error}")))?;
        if let Some(error) = chunk.get("error").filter(|error| !error.is_null()) {
            let message = error["message"]
                .as_str()
                .unwrap_or("it reports an error in its stream");
            return Err(UpstreamFailure::Malformed(message.to_string()));
        }
        let shape = self.exchange.asked.shape;
        let mut items = Vec::new();
        if !std::mem::replace(&mut self.has_head, true) {
            items.push(Item::Head(ChunkHead::of(shape, &chunk)));
        }
        if let Some(choice) = chunk["choices"].get(0) {
            let (text, calls) = shape.delta(choice);
            items.extend(self.segmenter.push(text).into_iter().map(Item::Segment));
            if !choice["finish_reason"].is_null() {
                self.finish_reason = choice["finish_reason"].clone();
            }
            if calls {
                items.push(Item::Raw(chunk.clone()));
            }
        }
        if chunk["usage"].is_object() {
            items.push(Item::Usage(chunk["usage"].clone()));
        }
        for item in items {
            // A writer that is gone has told its reader why.
            let _ = self.items.send(item).await;
        }
        Ok(())
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
    first_text: Option<Duration>,
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
            first_text: None,
        }
    }

    async fn write(mut self, mut items: Receiver<Item>) {
        if let Err(error) = self.write_all(&mut items).await {
            send(&self.frames, &error.body()).await;
        }
        let _ = self.frames.send(sse::done()).await;
    }

    async fn write_all(&mut self, items: &mut Receiver<Item>) -> Result<(), ApiError> {
        while let Some(item) = items.recv().await {
            match item {
                Item::Head(head) => {
                    if let Some(chunk) = head.role(0) {
                        send(&self.frames, &chunk).await;
                    }
                    self.head = Some(head);
                }
                Item::Segment(segment) => self.segment(segment).await?,
                Item::Raw(chunk) => {
                    self.outcomes.push(Outcome::PassedToolCalls);
                    send(&self.frames, &chunk).await;
                }
                Item::Usage(usage) => self.upstream_usage = usage,
                Item::Finish(reason, ended) => self.finish(reason, ended).await,
                Item::Failed(failure) => return Err(self.failed(failure)),
            }
        }
        Ok(())
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

    async fn segment(&mut self, segment: Segment) -> Result<(), ApiError> {
        let Segment { text, gap, is_code } = segment;
        self.original.push_str(&text);
        self.original.push_str(&gap);
        if is_code {
            self.outcomes.push(Outcome::PassedCode);
            self.release(&text).await;
        } else {
            let ruling = self.correct(&text).await?;
            self.outcomes.push(ruling.outcome);
            add(&mut self.usage, ruling.usage);
            self.served.push_str(&ruling.text);
        }
        self.release(&gap).await;
        Ok(())
    }

    async fn release(&mut self, text: &str) {
        self.served.push_str(text);
        if let Some(head) = &self.head
            && !text.is_empty()
        {
            send(&self.frames, &head.text(0, text)).await;
        }
    }

    async fn correct(&mut self, sentence: &str) -> Result<Ruling, ApiError> {
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
            wishes: Wishes::default(),
        };
        let (live, mut texts) = unbounded_channel::<String>();
        let ruled = async move { rule(service, settings, case, Some(&live)).await };
        let written = async {
            while let Some(text) = texts.recv().await {
                self.first_text.get_or_insert(self.exchange.started.elapsed());
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
        let edits = diff(&self.original, &self.served);
        let ruling = Ruling {
            outcome,
            served: match self.outcomes.contains(&Outcome::Corrected) {
                true => Served::Correction,
                false => Served::Original,
            },
            text: std::mem::take(&mut self.served),
            edit_ratio: Some(edit_ratio(&edits)),
            edits: Some(edits),
            added: ended.elapsed(),
            first_token: self.first_text,
            usage: self.usage,
            timings: None,
            reason: None,
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
