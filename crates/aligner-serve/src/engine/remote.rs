//! A model that another server runs: vLLM or llama.cpp with the exported model, behind `/v1/completions`.

use std::time::{Duration, Instant};

use aligner_data::PromptTemplate;
use aligner_infer::{FinishReason, Timings, Usage};
use axum::http::{HeaderMap, HeaderValue, Method, header};
use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use super::{Engine, EngineError, Event, Finished, Job, Running};
use crate::error::Result;
use crate::http_client::HttpClient;
use crate::sse::SseParser;

/// Corrects through an OpenAI-compatible server that holds the Aligner; the prompt is made here, of the same template.
#[derive(Debug, Clone)]
pub struct RemoteEngine {
    model: String,
    template: PromptTemplate,
    client: HttpClient,
    headers: HeaderMap,
}

impl RemoteEngine {
    /// An engine behind `url`, a base such as `http://gpu:8000/v1`; `model` is the name the server knows it by.
    ///
    /// # Errors
    /// When `url` is no HTTP URL, or the key is no header's value.
    pub fn new(
        url: &str,
        model: impl Into<String>,
        template: PromptTemplate,
        api_key: Option<&str>,
    ) -> Result<Self> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(key) = api_key {
            headers.insert(header::AUTHORIZATION, bearer("engine key", key)?);
        }
        Ok(Self {
            model: model.into(),
            template,
            client: HttpClient::new("engine", url, Duration::from_secs(120), Duration::from_secs(60))?,
            headers,
        })
    }

    fn body(&self, job: &Job) -> Value {
        json!({
            "model": self.model,
            "prompt": self.template.render(&job.question, &job.answer, &job.chat_history),
            "max_tokens": job.max_new_tokens,
            "temperature": job.temperature,
            "top_p": job.top_p,
            "seed": job.seed,
            "stream": true,
            "stream_options": {"include_usage": true},
        })
    }
}

/// `Bearer …`, marked so that no log shows it.
pub(crate) fn bearer(name: &'static str, key: &str) -> Result<HeaderValue> {
    let mut value = HeaderValue::from_str(&format!("Bearer {key}")).map_err(|_| {
        let reason = "has characters that no header may have".to_string();
        crate::ServeError::Setting { name, reason }
    })?;
    value.set_sensitive(true);
    Ok(value)
}

impl Engine for RemoteEngine {
    fn model(&self) -> &str {
        &self.model
    }

    fn start(&self, job: Job) -> Running {
        let (sender, events) = unbounded_channel();
        let engine = self.clone();
        let task = tokio::spawn(async move {
            let end = engine.run(&job, &sender).await;
            // Nobody listens any more: nothing is lost.
            let _ = sender.send(end.map(Event::Done));
        });
        Running::new(events, move || task.abort())
    }
}

impl RemoteEngine {
    async fn run(
        &self,
        job: &Job,
        sender: &UnboundedSender<Result<Event, EngineError>>,
    ) -> Result<Finished, EngineError> {
        let failed = |error: &dyn std::fmt::Display| {
            EngineError::Failed(format!("the engine at {}: {error}", self.client.base()))
        };
        let started = Instant::now();
        let body = self.body(job).to_string().into();
        let sent = self
            .client
            .send(Method::POST, "/completions", self.headers.clone(), body);
        let response = sent.await.map_err(|error| failed(&error))?;
        let (status, mut answer) = (response.status(), response.into_body());
        if !status.is_success() {
            let text = answer.whole(1 << 16).await.unwrap_or_default();
            let message = format!("status {status}: {}", String::from_utf8_lossy(&text));
            return Err(match status.is_client_error() {
                true => EngineError::Refused(format!("the engine refused the prompt: {message}")),
                false => failed(&message),
            });
        }
        let mut progress = Progress::default();
        let mut parser = SseParser::default();
        let mut prefill_seconds = None;
        while let Some(bytes) = answer.next().await.map_err(|error| failed(&error))? {
            let mut events = Vec::new();
            parser
                .feed(&bytes, |event| events.push(event))
                .map_err(|error| failed(&error))?;
            for event in events {
                let Some(text) = progress.take(&event).map_err(|error| failed(&error))? else {
                    continue;
                };
                prefill_seconds.get_or_insert(started.elapsed().as_secs_f64());
                if sender.send(Ok(Event::Text(text))).is_err() {
                    return Err(failed(&"nobody waits for it"));
                }
            }
        }
        let prefill_seconds = prefill_seconds.unwrap_or(started.elapsed().as_secs_f64());
        let timings = Timings {
            prefill_seconds,
            decode_seconds: started.elapsed().as_secs_f64() - prefill_seconds,
        };
        progress.finish(timings).map_err(|error| failed(&error))
    }
}

/// What a stream of completions has said so far.
#[derive(Debug, Default)]
struct Progress {
    text: String,
    finish_reason: Option<FinishReason>,
    usage: Usage,
    done: bool,
}

impl Progress {
    /// Takes an event; gives the text that it adds.
    fn take(&mut self, event: &str) -> Result<Option<String>, String> {
        if event.trim() == "[DONE]" {
            self.done = true;
            return Ok(None);
        }
        let event: Value =
            serde_json::from_str(event).map_err(|error| format!("an event is no JSON: {error}"))?;
        if let Some(error) = event.get("error").filter(|error| !error.is_null()) {
            return Err(format!("it reports {error}"));
        }
        if let Some(usage) = event.get("usage").filter(|usage| usage.is_object()) {
            let count = |name: &str| usage[name].as_u64().unwrap_or(0) as usize;
            self.usage.prompt_tokens = count("prompt_tokens");
            self.usage.completion_tokens = count("completion_tokens");
        }
        let choice = &event["choices"][0];
        match choice["finish_reason"].as_str() {
            Some("length") => self.finish_reason = Some(FinishReason::Length),
            Some(_) => self.finish_reason = Some(FinishReason::Stop),
            None => {}
        }
        let text = choice["text"].as_str().unwrap_or_default();
        self.text.push_str(text);
        Ok((!text.is_empty()).then(|| text.to_string()))
    }

    fn finish(self, timings: Timings) -> Result<Finished, String> {
        let Some(finish_reason) = self.finish_reason else {
            return Err("the stream ended before the correction did".into());
        };
        Ok(Finished {
            text: self.text,
            finish_reason,
            usage: self.usage,
            timings,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_that_breaks_off_is_no_correction() {
        let mut progress = Progress::default();
        let text = progress.take(r#"{"choices":[{"text":"The","finish_reason":null}]}"#);
        assert_eq!(text, Ok(Some("The".into())));
        assert!(progress.finish(Timings::default()).is_err());
    }

    #[test]
    fn errors_within_a_stream_are_told() {
        let mut progress = Progress::default();
        let told = progress.take(r#"{"error":{"message":"out of memory"}}"#);
        assert!(told.is_err_and(|error| error.contains("out of memory")));
        assert!(progress.take("not JSON").is_err());
    }
}
