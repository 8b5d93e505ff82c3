//! An upstream's stream, cut into what is corrected and what is not.

use std::collections::VecDeque;
use std::time::Instant;

use serde_json::Value;

use super::{Exchange, UpstreamFailure};
use crate::http_client::{Answer, HttpError};
use crate::openai::ChunkHead;
use crate::sentences::{Segment, Segmenter};
use crate::sse::SseParser;

/// A part of the stream, in the order in which it is released.
pub(super) enum Item {
    Head(ChunkHead),
    Segment(Segment),
    /// A chunk that is handed on as it is: it calls tools.
    Raw(Value),
    Usage(Value),
    /// The end: its reason, and when the upstream had written everything.
    Finish(Value, Instant),
    /// The end, where it is none.
    Failed(UpstreamFailure),
}

/// Reads the upstream's stream.
pub(super) struct Reader<'a> {
    exchange: &'a Exchange,
    /// Nothing once the end was given.
    answer: Option<Answer>,
    parser: SseParser,
    segmenter: Segmenter,
    heard: usize,
    done: bool,
    has_head: bool,
    finish_reason: Value,
}

impl<'a> Reader<'a> {
    pub fn new(exchange: &'a Exchange, answer: Answer) -> Self {
        Self {
            exchange,
            answer: Some(answer),
            parser: SseParser::default(),
            segmenter: Segmenter::default(),
            heard: 0,
            done: false,
            has_head: false,
            finish_reason: Value::Null,
        }
    }

    /// What came next, which may be nothing yet; `None` behind the end.
    pub async fn next(&mut self) -> Option<VecDeque<Item>> {
        let answer = self.answer.as_mut()?;
        let mut items = VecDeque::new();
        let read = match answer.next().await {
            Ok(Some(bytes)) => self.take(&bytes, &mut items),
            Ok(None) => {
                self.answer = None;
                self.end(&mut items)
            }
            Err(error) => Err(UpstreamFailure::Http(error)),
        };
        if let Err(failure) = read {
            self.answer = None;
            items.push_back(Item::Failed(failure));
        }
        Some(items)
    }

    fn end(&mut self, items: &mut VecDeque<Item>) -> Result<(), UpstreamFailure> {
        if !self.done && self.finish_reason.is_null() {
            return Err(UpstreamFailure::Malformed("its stream broke off".into()));
        }
        let ended = Instant::now();
        items.extend(std::mem::take(&mut self.segmenter).finish().map(Item::Segment));
        items.push_back(Item::Finish(self.finish_reason.take(), ended));
        Ok(())
    }

    fn take(&mut self, bytes: &[u8], items: &mut VecDeque<Item>) -> Result<(), UpstreamFailure> {
        self.heard += bytes.len();
        let upstream = self.exchange.settings.upstream.as_ref();
        let most = upstream.map_or(0, |upstream| upstream.max_answer_bytes);
        if self.heard > most {
            return Err(UpstreamFailure::Http(HttpError::TooLarge(most)));
        }
        let mut events = Vec::new();
        self.parser
            .feed(bytes, |event| events.push(event))
            .map_err(|error| UpstreamFailure::Malformed(error.to_string()))?;
        for event in events {
            self.done |= event.trim() == "[DONE]";
            if !self.done {
                self.event(&event, items)?;
            }
        }
        Ok(())
    }

    fn event(&mut self, event: &str, items: &mut VecDeque<Item>) -> Result<(), UpstreamFailure> {
        let chunk: Value = serde_json::from_str(event)
            .map_err(|error| UpstreamFailure::Malformed(format!("an event is no JSON: {error}")))?;
        if let Some(error) = chunk.get("error").filter(|error| !error.is_null()) {
            let message = error["message"].as_str();
            let message = message.unwrap_or("it reports an error in its stream");
            return Err(UpstreamFailure::Malformed(message.to_string()));
        }
        let shape = self.exchange.asked.shape;
        if !std::mem::replace(&mut self.has_head, true) {
            items.push_back(Item::Head(ChunkHead::of(shape, &chunk)));
        }
        if let Some(choice) = chunk["choices"].get(0) {
            let (text, calls) = shape.delta(choice);
            items.extend(self.segmenter.push(text).into_iter().map(Item::Segment));
            if !choice["finish_reason"].is_null() {
                self.finish_reason = choice["finish_reason"].clone();
            }
            if calls {
                items.push_back(Item::Raw(chunk.clone()));
            }
        }
        if chunk["usage"].is_object() {
            items.push_back(Item::Usage(chunk["usage"].clone()));
        }
        Ok(())
    }
}
