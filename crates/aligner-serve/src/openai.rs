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
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Any JSON, with the names that requests have.
    fn any_json() -> impl Strategy<Value = Value> {
        let name = prop_oneof![
            Just("messages"),
            Just("role"),
            Just("content"),
            Just("prompt"),
            Just("aligner"),
            Just("mode"),
            Just("stream"),
            Just("text"),
            Just("type"),
            Just("response_format"),
            Just("n"),
            Just("stream_options"),
        ];
        let word = prop_oneof![
            Just("user"),
            Just("assistant"),
            Just("buffer"),
            Just("json_object"),
            Just("\u{0}")
        ];
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            word.prop_map(Value::from),
            "\\PC{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(5, 64, 6, move |inner| {
            let fields = proptest::collection::vec((name.clone(), inner.clone()), 0..6);
            prop_oneof![
                proptest::collection::vec(inner, 0..6).prop_map(Value::from),
                fields.prop_map(|fields| fields
                    .into_iter()
                    .map(|(name, value)| (name.to_string(), value))
                    .collect()),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_request_is_read_or_refused(value in any_json(), cut in 0usize..200) {
            let text = value.to_string();
            for shape in [Shape::Chat, Shape::Completion] {
                if let Ok(asked) = Asked::read(shape, text.as_bytes()) {
                    // What the upstream is told is what was asked, but for our own field and the way it streams.
                    let told: Value = serde_json::from_slice(&asked.upstream_body(asked.stream)).expect("JSON");
                    let mut want = value.clone();
                    want.as_object_mut().expect("an object").remove("aligner");
                    prop_assert_eq!(told, want);
                }
                let _ = Asked::read(shape, &text.as_bytes()[..cut.min(text.len())]);
                let _ = shape.guarded(&value, false);
                let _ = shape.delta(&value);
            }
        }
    }

    fn asked(body: Value) -> Asked {
        Asked::read(Shape::Chat, body.to_string().as_bytes()).expect("a request")
    }

    #[test]
    fn the_last_question_and_the_turns_before_it_are_found() {
        let asked = asked(json!({"messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello!"},
            {"role": "user", "content": [{"type": "text", "text": "Is it"}, {"type": "image_url"}]},
            {"role": "tool", "content": "42"},
            {"role": "user", "content": "raining?"},
        ]}));
        assert_eq!(asked.question, "Is it\n\nraining?");
        assert_eq!(asked.chat_history.len(), 1);
        assert_eq!(
            (
                asked.chat_history[0].question.as_str(),
                asked.chat_history[0].answer.as_str()
            ),
            ("Hi", "Hello!")
        );
    }

    #[test]
    fn unknown_fields_pass_and_our_own_does_not() {
        let asked = asked(json!({
            "model": "m", "messages": [], "some_new_field": {"a": [1, 2.5]}, "stream": true,
            "stream_options": {"include_usage": true}, "aligner": {"mode": "off", "edits": true},
        }));
        assert!(asked.stream && asked.include_usage && asked.extension.edits);
        assert_eq!(asked.extension.mode, Some(Mode::Off));
        let body: Value = serde_json::from_slice(&asked.upstream_body(false)).expect("JSON");
        assert_eq!(
            body,
            json!({"model": "m", "messages": [], "some_new_field": {"a": [1, 2.5]}, "stream": false})
        );
    }

    #[test]
    fn numbers_that_need_all_their_digits_are_told_as_they_were_asked() {
        // Found by the fuzzer: read without their last bit, these became others each time they were handed on.
        for number in [
            "50400000000000000684136435",
            "0.6999999999999998",
            "1.7976931348623157e308",
            "9007199254740993",
        ] {
            let body = format!(r#"{{"messages":[],"some_new_field":{number}}}"#);
            let asked = Asked::read(Shape::Chat, body.as_bytes()).expect("a request");
            let told: Value = serde_json::from_slice(&asked.upstream_body(false)).expect("JSON");
            let told = &told["some_new_field"];
            let (told, want) = (
                told.as_f64().expect("a number"),
                number.parse::<f64>().expect("a number"),
            );
            assert_eq!(told.to_bits(), want.to_bits(), "{number}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_request_is_named() {
        let refused = |shape, body: &str| Asked::read(shape, body.as_bytes()).expect_err("refused");
        assert_eq!(refused(Shape::Chat, "{}").param.as_deref(), Some("messages"));
        assert_eq!(refused(Shape::Completion, "{}").param.as_deref(), Some("prompt"));
        assert!(refused(Shape::Chat, "[1]").message.contains("object"));
        let error = refused(Shape::Chat, r#"{"messages":[{"content":"x"}]}"#);
        assert!(error.message.contains("messages[0].role"));
        let many = json!({"messages": [], "stop": vec!["x"; 17]}).to_string();
        let long = json!({"messages": [], "stop": "x".repeat(257)}).to_string();
        for body in [many, long] {
            assert_eq!(refused(Shape::Chat, &body).param.as_deref(), Some("stop"));
        }
        let error = refused(Shape::Chat, r#"{"messages":[],"aligner":{"mod":"off"}}"#);
        assert!(error.message.contains("mod"));
    }

    #[test]
    fn usage_counts_both_models() {
        let usage = Usage {
            prompt_tokens: 10,
            completion_tokens: 5,
            draft_proposed: 4,
            draft_accepted: 3,
        };
        let upstream = json!({"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3, "other": {}});
        let total = total_usage(&upstream, usage);
        assert_eq!(
            (&total["prompt_tokens"], &total["total_tokens"]),
            (&json!(11), &json!(18))
        );
        assert_eq!(total["aligner"]["draft_accepted"], 3);
        assert_eq!(total["other"], json!({}));
    }
}
