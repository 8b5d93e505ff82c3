//! The upstream's answer as a whole, then its correction.

use axum::body::Body;
use axum::http::{HeaderValue, Response};
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::mpsc::{Sender, unbounded_channel};

use aligner_infer::Usage;

use super::{Exchange, json_response, mark};
use crate::api_error::ApiError;
use crate::openai::{ChunkHead, total_usage};
use crate::ruling::{Ruling, millis, rule};
use crate::sse;

/// Answers in one piece; all choices are corrected side by side.
pub(super) async fn whole(exchange: Exchange) -> Result<Response<Body>, ApiError> {
    let mut response = match exchange.ask_whole().await {
        Ok(response) => response,
        Err(failure) => return exchange.upstream_failed(failure),
    };
    let choices = response["choices"].as_array().cloned().unwrap_or_default();
    let cases = choices
        .iter()
        .map(|choice| rule(&exchange.service, &exchange.settings, exchange.case(choice), None));
    let rulings: Result<Vec<Ruling>, ApiError> =
        futures_util::future::join_all(cases).await.into_iter().collect();
    let rulings = rulings?;
    let mut usage = Usage::default();
    for (index, (ruling, choice)) in rulings.iter().zip(&choices).enumerate() {
        let original = exchange.case(choice).guarded.answer;
        exchange.shadow(ruling, original, &response["model"]);
        add(&mut usage, ruling.usage);
        let report = Value::Object(exchange.report(ruling, original));
        let place = &mut response["choices"][index];
        // An answer that passes through keeps its shape: one that calls tools has no text to replace.
        if ruling.text != original {
            exchange.asked.shape.replace(place, &ruling.text);
        }
        place["finish_reason"] = ruling.finish_reason(&choice["finish_reason"]);
        if rulings.len() > 1 {
            place["aligner"] = report.clone();
        }
        if index == 0 {
            response["aligner"] = report;
        }
    }
    response["usage"] = total_usage(&response["usage"], usage);
    let mut answer = json_response(&response);
    mark(
        answer.headers_mut(),
        exchange.mode,
        rulings.first().map(|ruling| ruling.outcome),
    );
    if let Some(ruling) = rulings.first() {
        let headers = answer.headers_mut();
        headers.insert("x-aligner-added-ms", HeaderValue::from(millis(ruling.added)));
        if let Some(Ok(ratio)) = ruling
            .edit_ratio
            .map(|ratio| HeaderValue::from_str(&format!("{ratio:.4}")))
        {
            headers.insert("x-aligner-edit-ratio", ratio);
        }
    }
    Ok(answer)
}

pub(super) fn add(total: &mut Usage, usage: Usage) {
    total.prompt_tokens += usage.prompt_tokens;
    total.completion_tokens += usage.completion_tokens;
    total.draft_proposed += usage.draft_proposed;
    total.draft_accepted += usage.draft_accepted;
}

/// Answers as a stream, one choice behind the other.
pub(super) async fn stream(exchange: Exchange) -> Result<Response<Body>, ApiError> {
    match exchange.ask_whole().await {
        Ok(response) => Ok(exchange.streaming(|exchange, frames| write(exchange, response, frames))),
        Err(failure) => exchange.upstream_failed(failure),
    }
}

async fn write(exchange: Exchange, response: Value, frames: Sender<Bytes>) {
    let head = ChunkHead::of(exchange.asked.shape, &response);
    let mut usage = Usage::default();
    for (index, choice) in response["choices"].as_array().into_iter().flatten().enumerate() {
        match write_choice(&exchange, &head, (index as u64, choice), &frames).await {
            Ok(ruling) => {
                exchange.shadow(&ruling, exchange.case(choice).guarded.answer, &response["model"]);
                add(&mut usage, ruling.usage);
            }
            Err(error) => {
                send(&frames, &error.body()).await;
                let _ = frames.send(sse::done()).await;
                return;
            }
        }
    }
    if exchange.asked.include_usage {
        send(&frames, &head.usage(total_usage(&response["usage"], usage))).await;
    }
    let _ = frames.send(sse::done()).await;
}

/// A reader that is gone is noticed by whoever began the stream.
pub(super) async fn send(frames: &Sender<Bytes>, value: &Value) {
    let _ = frames.send(sse::frame(value)).await;
}

async fn write_choice(
    exchange: &Exchange,
    head: &ChunkHead,
    (index, choice): (u64, &Value),
    frames: &Sender<Bytes>,
) -> Result<Ruling, ApiError> {
    let case = exchange.case(choice);
    let original = case.guarded.answer;
    let mut first = head.role(index).unwrap_or_else(|| head.text(index, ""));
    if exchange.asked.extension.include_original {
        first["aligner"] = json!({ "original": original });
    }
    send(frames, &first).await;
    if case.guarded.calls_tools {
        let mut chunk = head.text(index, "");
        chunk["choices"][0]["delta"] = tool_calls(&choice["message"]);
        send(frames, &chunk).await;
    }
    let (live, mut texts) = unbounded_channel::<String>();
    let ruled = async move { rule(&exchange.service, &exchange.settings, case, Some(&live)).await };
    let written = async {
        while let Some(text) = texts.recv().await {
            send(frames, &head.text(index, &text)).await;
        }
    };
    let (ruling, ()) = tokio::join!(ruled, written);
    let ruling = ruling?;
    let mut end = head.end(index, ruling.finish_reason(&choice["finish_reason"]));
    end["aligner"] = Value::Object(exchange.report(&ruling, original));
    send(frames, &end).await;
    Ok(ruling)
}

/// Calls of tools as a delta: each has its place in the list.
fn tool_calls(message: &Value) -> Value {
    let mut delta = json!({});
    if let Some(calls) = message["tool_calls"].as_array() {
        let with_index = |(index, call): (usize, &Value)| {
            let mut call = call.clone();
            if let Some(call) = call.as_object_mut() {
                call.insert("index".into(), index.into());
            }
            call
        };
        delta["tool_calls"] = calls.iter().enumerate().map(with_index).collect();
    }
    if !message["function_call"].is_null() {
        delta["function_call"] = message["function_call"].clone();
    }
    delta
}
