//! Chat completions and completions, as far as a correction has to know them. Everything else in a request passes untouched.

use aligner_data::Turn;
use aligner_infer::Usage;
use serde_json::{Map, Value, json};

use crate::api_error::ApiError;
use crate::config::Mode;
use crate::guard::Guarded;

/// Stop strings of a request, and how long each may be. OpenAI takes four.
const MAX_STOPS: usize = 16;
const MAX_STOP_BYTES: usize = 256;

/// Which of the two shapes a request has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    Chat,
    Completion,
}

/// What a client asked for, beyond what the upstream is told.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub shape: Shape,
    /// What the upstream is told, without the `aligner` object.
    pub body: Map<String, Value>,
    pub stream: bool,
    pub include_usage: bool,
    pub wants_json: bool,
    pub question: String,
    pub chat_history: Vec<Turn>,
    /// Strings before which an answer ends.
    pub stops: Vec<String>,
    /// Seed of the answer, and of its correction.
    pub seed: Option<u64>,
    pub extension: Extension,
}

/// The `aligner` object of a request.
#[derive(Debug, Clone, Default, PartialEq, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Extension {
    pub mode: Option<Mode>,
    pub include_original: bool,
    pub edits: bool,
}

impl Asked {
    /// Reads a request's body.
    pub fn read(shape: Shape, body: &[u8]) -> Result<Self, ApiError> {
        let body: Value = serde_json::from_slice(body)
            .map_err(|error| ApiError::invalid("", format!("the body is no JSON: {error}")))?;
        let Value::Object(mut body) = body else {
            return Err(ApiError::invalid("", "the body is no JSON object"));
        };
        let extension = match body.remove("aligner") {
            None => Extension::default(),
            Some(value) => serde_json::from_value(value)
                .map_err(|error| ApiError::invalid("aligner", format!("aligner: {error}")))?,
        };
        let flag = |value: Option<&Value>| value.and_then(Value::as_bool).unwrap_or(false);
        let (question, chat_history) = match shape {
            Shape::Chat => conversation(&body)?,
            Shape::Completion => (prompt(&body)?, Vec::new()),
        };
        let format = body.get("response_format").map(|format| &format["type"]);
        Ok(Self {
            shape,
            stream: flag(body.get("stream")),
            include_usage: flag(
                body.get("stream_options")
                    .map(|options| &options["include_usage"]),
            ),
            wants_json: format
                .and_then(Value::as_str)
                .is_some_and(|kind| kind.starts_with("json")),
            stops: stops(&body)?,
            seed: body.get("seed").and_then(seed),
            question,
            chat_history,
            extension,
            body,
        })
    }

    /// The body for the upstream, streaming or not.
    pub fn upstream_body(&self, stream: bool) -> Vec<u8> {
        let mut body = self.body.clone();
        if stream != self.stream {
            body.insert("stream".into(), stream.into());
            if !stream {
                body.remove("stream_options");
            }
        }
        Value::Object(body).to_string().into_bytes()
    }
}

/// Any integer; what else there may be is for the upstream to refuse.
fn seed(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_i64().map(i64::unsigned_abs))
}

/// The strings before which an answer ends. Each is looked for in every text that is written, so there may not be many.
fn stops(body: &Map<String, Value>) -> Result<Vec<String>, ApiError> {
    let stops: Vec<String> = match body.get("stop") {
        Some(Value::String(stop)) => vec![stop.clone()],
        Some(Value::Array(stops)) => {
            let texts = stops.iter().filter_map(Value::as_str);
            texts.map(str::to_string).collect()
        }
        _ => Vec::new(),
    };
    let is_long = |stop: &String| stop.len() > MAX_STOP_BYTES;
    if stops.len() > MAX_STOPS || stops.iter().any(is_long) {
        let reason = format!("`stop` takes at most {MAX_STOPS} strings of {MAX_STOP_BYTES} bytes each");
        return Err(ApiError::invalid("stop", reason));
    }
    Ok(stops)
}

impl Asked {
    /// The body for an upstream that goes on, streaming, from what an assistant has begun to say: the last message, and the fields by
    /// which vLLM takes it so; llama.cpp's server does without.
    pub fn upstream_body_from(&self, begun: &str) -> Vec<u8> {
        let mut body = self.body.clone();
        if let Some(messages) = body.get_mut("messages").and_then(Value::as_array_mut) {
            messages.push(json!({"role": "assistant", "content": begun}));
        }
        body.insert("stream".into(), true.into());
        body.insert("add_generation_prompt".into(), false.into());
        body.insert("continue_final_message".into(), true.into());
        Value::Object(body).to_string().into_bytes()
    }
}

/// The last thing a user said, and the turns before it. System prompts are for the upstream alone: an Aligner is trained on
/// questions and answers.
fn conversation(body: &Map<String, Value>) -> Result<(String, Vec<Turn>), ApiError> {
    let messages = body.get("messages").and_then(Value::as_array);
    let messages = messages.ok_or_else(|| ApiError::invalid("messages", "messages: an array is missing"))?;
    let (mut question, mut turns) = (String::new(), Vec::new());
    let mut answered = false;
    for (index, message) in messages.iter().enumerate() {
        let role = message["role"].as_str().ok_or_else(|| {
            let message = format!("messages[{index}].role: a string is missing");
            ApiError::invalid("messages", message)
        })?;
        let text = text_of(&message["content"]);
        match role {
            "user" if question.is_empty() || answered => {
                question = text;
                answered = false;
            }
            "user" => {
                question.push_str("\n\n");
                question.push_str(&text);
            }
            // What an assistant says last is the beginning of the answer that is asked for.
            "assistant" if !question.is_empty() && !answered && index + 1 < messages.len() => {
                turns.push(Turn {
                    question: question.clone(),
                    answer: text,
                });
                answered = true;
            }
            _ => {}
        }
    }
    Ok((question, turns))
}

/// A message's text: a string, or the parts of an array that are text.
fn text_of(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => {
            let texts: Vec<&str> = parts.iter().filter_map(|part| part["text"].as_str()).collect();
            texts.join("\n")
        }
        _ => String::new(),
    }
}

fn prompt(body: &Map<String, Value>) -> Result<String, ApiError> {
    match body.get("prompt") {
        Some(Value::String(prompt)) => Ok(prompt.clone()),
        Some(Value::Array(prompts)) if prompts.len() == 1 && prompts[0].is_string() => {
            Ok(text_of(&prompts[0]))
        }
        // Tokens, or several prompts: the answers have no one question.
        Some(Value::Array(_)) => Ok(String::new()),
        _ => Err(ApiError::invalid(
            "prompt",
            "prompt: a string or an array is missing",
        )),
    }
}

impl Shape {
    pub fn path(self) -> &'static str {
        match self {
            Self::Chat => "/chat/completions",
            Self::Completion => "/completions",
        }
    }

    pub fn endpoint(self) -> &'static str {
        match self {
            Self::Chat => "chat_completions",
            Self::Completion => "completions",
        }
    }

    /// What of a choice the guards look at.
    pub fn guarded(self, choice: &Value, wants_json: bool) -> Guarded<'_> {
        let message = &choice["message"];
        let is_there = |value: &Value| match value {
            Value::Null => false,
            Value::Array(items) => !items.is_empty(),
            _ => true,
        };
        Guarded {
            answer: match self {
                Self::Chat => message["content"].as_str().unwrap_or_default(),
                Self::Completion => choice["text"].as_str().unwrap_or_default(),
            },
            calls_tools: is_there(&message["tool_calls"]) || is_there(&message["function_call"]),
            wants_json,
        }
    }

    /// Puts a text in the place of a choice's answer.
    pub fn replace(self, choice: &mut Value, text: &str) {
        match self {
            Self::Chat => choice["message"]["content"] = text.into(),
            Self::Completion => choice["text"] = text.into(),
        }
    }

    /// What a choice's stream adds: its text, and whether it calls tools.
    pub fn delta(self, choice: &Value) -> (&str, bool) {
        match self {
            Self::Chat => {
                let delta = &choice["delta"];
                let calls = !delta["tool_calls"].is_null() || !delta["function_call"].is_null();
                (delta["content"].as_str().unwrap_or_default(), calls)
            }
            Self::Completion => (choice["text"].as_str().unwrap_or_default(), false),
        }
    }
}

/// What all chunks of a stream share.
#[derive(Debug, Clone)]
pub(crate) struct ChunkHead {
    pub shape: Shape,
    pub id: Value,
    pub created: Value,
    pub model: Value,
}

impl ChunkHead {
    /// That of an upstream's response or chunk.
    pub fn of(shape: Shape, response: &Value) -> Self {
        Self {
            shape,
            id: response["id"].clone(),
            created: response["created"].clone(),
            model: response["model"].clone(),
        }
    }

    fn chunk(&self, choices: Value) -> Value {
        let object = match self.shape {
            Shape::Chat => "chat.completion.chunk",
            Shape::Completion => "text_completion",
        };
        json!({
            "id": self.id, "object": object, "created": self.created, "model": self.model, "choices": choices,
        })
    }

    /// The first chunk of a choice: who speaks.
    pub fn role(&self, index: u64) -> Option<Value> {
        let choice =
            json!([{"index": index, "delta": {"role": "assistant", "content": ""}, "finish_reason": null}]);
        (self.shape == Shape::Chat).then(|| self.chunk(choice))
    }

    /// More text.
    pub fn text(&self, index: u64, text: &str) -> Value {
        self.choice(index, json!({ "content": text }), text, Value::Null)
    }

    /// The end of a choice.
    pub fn end(&self, index: u64, finish_reason: Value) -> Value {
        self.choice(index, json!({}), "", finish_reason)
    }

    fn choice(&self, index: u64, delta: Value, text: &str, finish_reason: Value) -> Value {
        self.chunk(match self.shape {
            Shape::Chat => json!([{"index": index, "delta": delta, "finish_reason": finish_reason}]),
            Shape::Completion => json!([{"index": index, "text": text, "finish_reason": finish_reason}]),
        })
    }

    /// Token counts, behind everything else.
    pub fn usage(&self, usage: Value) -> Value {
        let mut chunk = self.chunk(json!([]));
        chunk["usage"] = usage;
        chunk
    }
}

/// The upstream's counts and the Aligner's together; the Aligner's by themselves under `aligner`.
pub(crate) fn total_usage(upstream: &Value, aligner: Usage) -> Value {
    let mut total = match upstream {
        Value::Object(usage) => usage.clone(),
        _ => Map::new(),
    };
    let mut add = |name: &str, tokens: usize| {
        let before = total.get(name).and_then(Value::as_u64).unwrap_or(0);
        total.insert(name.into(), (before + tokens as u64).into());
    };
    add("prompt_tokens", aligner.prompt_tokens);
    add("completion_tokens", aligner.completion_tokens);
    add("total_tokens", aligner.prompt_tokens + aligner.completion_tokens);
    total.insert("aligner".into(), usage_of(aligner));
    Value::Object(total)
}

/// The Aligner's counts.
pub(crate) fn usage_of(usage: Usage) -> Value {
    json!({
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "draft_proposed": usage.draft_proposed,
        "draft_accepted": usage.draft_accepted,
        "completion_tokens_details": {
            "accepted_prediction_tokens": usage.draft_accepted,
            "rejected_prediction_tokens": usage.draft_proposed - usage.draft_accepted.min(usage.draft_proposed),
        },
    })
}

#[cfg(test)]
mod tests;
