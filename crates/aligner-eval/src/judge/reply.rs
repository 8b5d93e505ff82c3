//! What a server sends back.

use serde_json::Value;

/// Characters of a server's message that an error quotes.
const QUOTED_CHARS: usize = 300;

/// What a judge said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Reply {
    pub said: String,
    /// Whether it was cut at the limit of its length.
    pub is_cut: bool,
    /// As the server counts them; 0 where it does not.
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
    /// Calls that failed before this one.
    pub retries: u32,
}

impl Reply {
    /// Reads a `chat.completion`; `None` where it is none.
    pub fn parse(body: &Value) -> Option<Self> {
        let choice = body.get("choices")?.get(0)?;
        let message = choice.get("message")?;
        let said = match message.get("content") {
            Some(Value::String(text)) => text.clone(),
            // Parts, as some servers send them.
            Some(Value::Array(parts)) => parts.iter().filter_map(|part| part["text"].as_str()).collect(),
            // A judge that declines says so here.
            _ => message["refusal"].as_str().unwrap_or_default().to_string(),
        };
        let tokens = |name: &str| body["usage"][name].as_u64().unwrap_or(0);
        Some(Self {
            said,
            is_cut: choice["finish_reason"] == "length",
            prompt_tokens: tokens("prompt_tokens"),
            completion_tokens: tokens("completion_tokens"),
            retries: 0,
        })
    }
}

/// Whether a refusal will not pass, though its status says so: an account without money.
pub(super) fn is_out_of_quota(body: &Value) -> bool {
    ["code", "type"]
        .into_iter()
        .any(|name| body["error"][name] == "insufficient_quota")
}

/// A server's own words, on one line.
pub(super) fn message(body: &str) -> String {
    let json: Value = serde_json::from_str(body).unwrap_or(Value::Null);
    let said = [
        &json["error"]["message"],
        &json["error"],
        &json["message"],
        &json["detail"],
    ]
    .into_iter()
    .find_map(Value::as_str)
    .unwrap_or(body);
    let words: Vec<&str> = said
        .split(|c: char| c.is_whitespace() || c.is_control())
        .filter(|word| !word.is_empty())
        .collect();
    let said = words.join(" ");
    match said.char_indices().nth(QUOTED_CHARS) {
        Some((end, _)) => format!("{}…", &said[..end]),
        None if said.is_empty() => "(nothing)".into(),
        None => said,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn replies_of_several_servers_are_read() {
        let said = |message: Value| {
            Reply::parse(&json!({"choices": [{"message": message}]})).map(|reply| reply.said)
        };
        assert_eq!(said(json!({"content": "x [[A]]"})).as_deref(), Some("x [[A]]"));
        assert_eq!(
            said(json!({"content": [{"type": "text", "text": "x"}, {"text": "y"}]})).as_deref(),
            Some("xy")
        );
        assert_eq!(
            said(json!({"content": null, "refusal": "no"})).as_deref(),
            Some("no")
        );
        assert_eq!(said(json!({})).as_deref(), Some(""));
        assert_eq!(Reply::parse(&json!({"choices": []})), None);
        assert_eq!(Reply::parse(&json!({"error": {"message": "busy"}})), None);
        let cut = json!({
            "choices": [{"message": {"content": "[[A]]"}, "finish_reason": "length"}],
            "usage": {"prompt_tokens": 7, "completion_tokens": 2},
        });
        let cut = Reply::parse(&cut).unwrap();
        assert!(cut.is_cut && cut.prompt_tokens == 7 && cut.completion_tokens == 2);
    }

    #[test]
    fn a_servers_message_is_one_short_line() {
        assert_eq!(
            message(r#"{"error": {"message": "no such\nmodel"}}"#),
            "no such model"
        );
        assert_eq!(message(r#"{"error": "plain"}"#), "plain");
        assert_eq!(message(r#"{"detail": "of FastAPI"}"#), "of FastAPI");
        assert_eq!(message("<html>\u{1b}[31m 502</html>"), "<html> [31m 502</html>");
        assert_eq!(message(" "), "(nothing)");
        assert_eq!(message(&"ü".repeat(1000)).chars().count(), QUOTED_CHARS + 1);
    }
}
