//! `POST /v1/corrections`: a question and an answer, or many, without an upstream.

use aligner_data::Turn;
use axum::body::Body;
use axum::http::{HeaderValue, Response};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::sync::mpsc::{Sender, channel, unbounded_channel};
use tokio_stream::wrappers::ReceiverStream;

use tracing::Instrument;

use crate::api_error::ApiError;
use crate::chat::{event_stream, json_response, mark, unix_time};
use crate::config::Mode;
use crate::guard::Guarded;
use crate::random::seed_of;
use crate::ruling::{Case, Ruling, Served, Wishes, millis, rule};
use crate::service::Service;
use crate::sse;

/// Answers of one request at most.
const MOST_INPUTS: usize = 256;

/// An answer that is to be corrected.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    question: String,
    answer: String,
    #[serde(default)]
    chat_history: Vec<Turn>,
    prediction: Option<Prediction>,
}

/// What the correction will perhaps be: a string, or as chat completions have it.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum Prediction {
    Text(String),
    Content { content: String },
}

impl Prediction {
    fn text(&self) -> &str {
        match self {
            Self::Text(text) | Self::Content { content: text } => text,
        }
    }
}

/// How all of them are corrected.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Options {
    model: Option<String>,
    stream: bool,
    edits: bool,
    max_tokens: Option<usize>,
    temperature: Option<f32>,
    top_p: Option<f32>,
    seed: Option<u64>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            model: None,
            stream: false,
            edits: true,
            max_tokens: None,
            temperature: None,
            top_p: None,
            seed: None,
        }
    }
}

/// A request that was understood.
struct Asked {
    inputs: Vec<Input>,
    is_batch: bool,
    options: Options,
}

/// Fields of an input; all others are options.
const OF_INPUT: [&str; 4] = ["question", "answer", "chat_history", "prediction"];

impl Asked {
    fn read(body: &[u8]) -> Result<Self, ApiError> {
        let body: Value = serde_json::from_slice(body)
            .map_err(|error| ApiError::invalid("", format!("the body is no JSON: {error}")))?;
        let Value::Object(mut body) = body else {
            return Err(ApiError::invalid("", "the body is no JSON object"));
        };
        let of =
            |param: &str, error: serde_json::Error| ApiError::invalid(param, format!("{param}: {error}"));
        let (inputs, is_batch) = match body.remove("inputs") {
            Some(inputs) => {
                let inputs: Vec<Input> =
                    serde_json::from_value(inputs).map_err(|error| of("inputs", error))?;
                (inputs, true)
            }
            None => {
                let input: Map<String, Value> = OF_INPUT
                    .iter()
                    .filter_map(|&name| Some((name.to_string(), body.remove(name)?)))
                    .collect();
                let input = serde_json::from_value(Value::Object(input))
                    .map_err(|error| ApiError::invalid("", error.to_string()))?;
                (vec![input], false)
            }
        };
        let options: Options = serde_json::from_value(Value::Object(body))
            .map_err(|error| ApiError::invalid("", error.to_string()))?;
        let asked = Self {
            inputs,
            is_batch,
            options,
        };
        asked.check()?;
        Ok(asked)
    }

    fn check(&self) -> Result<(), ApiError> {
        let Options {
            temperature,
            top_p,
            max_tokens,
            stream,
            ..
        } = self.options;
        if self.inputs.len() > MOST_INPUTS {
            let message = format!("inputs: {} answers, {MOST_INPUTS} at most", self.inputs.len());
            return Err(ApiError::invalid("inputs", message));
        }
        if stream && self.is_batch {
            return Err(ApiError::invalid("stream", "stream: a batch has no stream"));
        }
        if temperature.is_some_and(|value| !(0.0..=2.0).contains(&value)) {
            return Err(ApiError::invalid(
                "temperature",
                "temperature: it must be from 0 to 2",
            ));
        }
        if top_p.is_some_and(|value| !(value > 0.0 && value <= 1.0)) {
            return Err(ApiError::invalid(
                "top_p",
                "top_p: it must be above 0 and at most 1",
            ));
        }
        if max_tokens == Some(0) {
            return Err(ApiError::invalid(
                "max_tokens",
                "max_tokens: it must be at least 1",
            ));
        }
        Ok(())
    }

    fn case<'a>(&'a self, index: usize, input: &'a Input) -> Case<'a> {
        let options = &self.options;
        Case {
            mode: Mode::Buffer,
            question: &input.question,
            chat_history: &input.chat_history,
            guarded: Guarded {
                answer: &input.answer,
                ..Guarded::default()
            },
            before: "",
            stops: &[],
            wishes: Wishes {
                max_new_tokens: options.max_tokens,
                temperature: options.temperature,
                top_p: options.top_p,
                seed: seed_of(options.seed, index as u64),
                prediction: input.prediction.as_ref().map(Prediction::text),
            },
        }
    }
}

/// For the fuzz target.
pub(crate) fn read_and_drop(bytes: &[u8]) {
    let _ = Asked::read(bytes);
}

/// Answers a request.
pub(crate) async fn correct(
    service: Service,
    request_id: String,
    body: Bytes,
) -> Result<Response<Body>, ApiError> {
    let asked = Asked::read(&body)?;
    // What another model was asked for is another service's.
    if let Some(model) = &asked.options.model
        && model != service.engine().model()
    {
        let known = service.engine().model().to_string();
        let message = format!("model: there is no {model:?} here; this service corrects with {known:?}");
        return Err(ApiError::invalid("model", message));
    }
    if asked.options.stream {
        return Ok(stream(service, request_id, asked));
    }
    let settings = service.settings();
    let rulings = asked
        .inputs
        .iter()
        .enumerate()
        .map(|(index, input)| rule(&service, &settings, asked.case(index, input), None));
    let rulings = futures_util::future::join_all(rulings).await;
    if !asked.is_batch {
        let Some(ruling) = rulings.into_iter().next() else {
            return Err(ApiError::invalid("", "no answer to correct"));
        };
        let ruling = ruling?;
        let mut response = json_response(&object(&service, &request_id, &ruling, asked.options.edits));
        let headers = response.headers_mut();
        mark(headers, Mode::Buffer, Some(ruling.outcome));
        headers.insert("x-aligner-added-ms", HeaderValue::from(millis(ruling.added)));
        if let Some(Ok(ratio)) = ruling
            .edit_ratio
            .map(|ratio| HeaderValue::from_str(&format!("{ratio:.4}")))
        {
            headers.insert("x-aligner-edit-ratio", ratio);
        }
        return Ok(response);
    }
    // One that fails does not take the others with it.
    let data: Vec<Value> = rulings
        .into_iter()
        .map(|ruling| match ruling {
            Ok(ruling) => object(&service, &request_id, &ruling, asked.options.edits),
            Err(error) => error.body(),
        })
        .collect();
    Ok(json_response(&json!({"object": "list", "data": data})))
}

/// A correction as clients read it.
fn object(service: &Service, request_id: &str, ruling: &Ruling, edits: bool) -> Value {
    let mut object = Map::new();
    object.insert("id".into(), format!("corr-{request_id}").into());
    object.insert("object".into(), "correction".into());
    object.insert("created".into(), unix_time().into());
    object.insert("model".into(), service.engine().model().into());
    object.insert("correction".into(), ruling.text.as_str().into());
    object.append(&mut ruling.report(edits));
    let reason = match ruling.served {
        Served::Block => "content_filter",
        Served::Correction | Served::Original => "stop",
    };
    object.insert("finish_reason".into(), reason.into());
    Value::Object(object)
}

fn stream(service: Service, request_id: String, asked: Asked) -> Response<Body> {
    let (frames, body) = channel::<Bytes>(64);
    let gone = frames.clone();
    let task = async move {
        tokio::select! {
            () = write(service, request_id, asked, frames) => {}
            // Nobody reads any more: the correction is dropped, which ends it.
            () = gone.closed() => {}
        }
    };
    tokio::spawn(task.in_current_span());
    let body = tokio_stream::StreamExt::map(ReceiverStream::new(body), Ok::<Bytes, std::convert::Infallible>);
    let mut response = event_stream(Body::from_stream(body));
    mark(response.headers_mut(), Mode::Buffer, None);
    response
}

async fn write(service: Service, request_id: String, asked: Asked, frames: Sender<Bytes>) {
    let settings = service.settings();
    let id = format!("corr-{request_id}");
    for (index, input) in asked.inputs.iter().enumerate() {
        let (live, mut texts) = unbounded_channel::<String>();
        let case = asked.case(index, input);
        let (of_rule, settings) = (&service, &settings);
        let ruled = async move { rule(of_rule, settings, case, Some(&live)).await };
        let written = async {
            while let Some(text) = texts.recv().await {
                let chunk = json!({"id": id, "object": "correction.chunk", "delta": text});
                let _ = frames.send(sse::frame(&chunk)).await;
            }
        };
        let (ruled, ()) = tokio::join!(ruled, written);
        let last = match ruled {
            Ok(ruling) => object(&service, &request_id, &ruling, asked.options.edits),
            Err(error) => error.body(),
        };
        let _ = frames.send(sse::frame(&last)).await;
    }
    let _ = frames.send(sse::done()).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(body: Value) -> ApiError {
        match Asked::read(body.to_string().as_bytes()) {
            Ok(_) => panic!("{body} was taken"),
            Err(error) => error,
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert!(refused(json!({"question": "q"})).message.contains("answer"));
        let error = refused(json!({"question": "q", "answer": "a", "tempreature": 1}));
        assert!(error.message.contains("tempreature"), "{}", error.message);
        let error = refused(json!({"question": "q", "answer": "a", "temperature": 3}));
        assert_eq!(error.param.as_deref(), Some("temperature"));
        let error = refused(json!({"inputs": [{"question": "q", "answer": "a"}], "stream": true}));
        assert_eq!(error.param.as_deref(), Some("stream"));
        assert!(refused(json!([1])).message.contains("object"));
    }

    #[test]
    fn a_prediction_comes_in_two_shapes() {
        for prediction in [json!("text"), json!({"type": "content", "content": "text"})] {
            let body = json!({"question": "q", "answer": "a", "prediction": prediction});
            let asked = Asked::read(body.to_string().as_bytes()).unwrap_or_else(|error| panic!("{error:?}"));
            assert_eq!(asked.case(0, &asked.inputs[0]).wishes.prediction, Some("text"));
        }
    }
}
