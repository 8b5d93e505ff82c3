//! The format that a model's own chat template tells.

use std::path::Path;

use serde_json::Value;

use super::{ChatFormat, Kind};
use crate::error::{DataError, Result};
use crate::tokenizer::{bounded, json};

/// The largest chat template that is read; those with tools have some ten kilobytes.
const MAX_TEMPLATE_BYTES: u64 = 1 << 20;

impl ChatFormat {
    /// The format of the chat template in a directory, where there is one.
    pub(super) fn told_in(dir: &Path) -> Result<Option<Self>> {
        let told = template_of(dir)?.map(|template| template.and_then(|text| Self::told_by(&text)));
        told.transpose().map_err(|reason| DataError::ChatFormat {
            found: format!("the chat template in {}", dir.display()),
            reason,
        })
    }

    fn told_by(template: &str) -> Result<Self, String> {
        // What such templates do beside writing turns down is left out by no mistake of ours.
        for (mark, what) in [
            ("<think>", "writes thoughts"),
            ("reasoning_content", "writes thoughts"),
            ("strftime_now", "writes the date"),
            ("Cutting Knowledge Date", "writes the date"),
        ] {
            if template.contains(mark) {
                return Err(format!("{what} ({mark}) beside the messages"));
            }
        }
        let has = |mark: &str| template.contains(mark);
        let kind = if has("<|im_start|>") {
            Kind::ChatMl
        } else if has("<|start_header_id|>") && has("<|eot_id|>") {
            Kind::Llama3
        } else if has("<start_of_turn>") {
            Kind::Gemma
        } else {
            return Err("has the control tokens of none of them".into());
        };
        let system = own_system(template, kind)?;
        Ok(Self { kind, system })
    }
}

/// The chat template of a directory, where it has one: its text, or why it has none that could be read.
fn template_of(dir: &Path) -> Result<Option<Result<String, String>>> {
    let path = dir.join("chat_template.jinja");
    if path.is_file() {
        let bytes = bounded(&path, MAX_TEMPLATE_BYTES)?;
        return Ok(Some(Ok(String::from_utf8_lossy(&bytes).into_owned())));
    }
    let settings = json(&dir.join("tokenizer_config.json"))?;
    Ok(match settings.get("chat_template") {
        None | Some(Value::Null) => None,
        Some(Value::String(template)) => Some(Ok(template.clone())),
        Some(Value::Array(named)) => Some(default_of(named)),
        Some(_) => Some(Err("is neither a text nor a list of named templates".into())),
    })
}

/// Of several templates by name, the one that transformers takes when nobody names one.
fn default_of(named: &[Value]) -> Result<String, String> {
    let text = |entry: &Value, key: &str| entry.get(key).and_then(Value::as_str).map(str::to_string);
    let name = |entry: &Value| text(entry, "name");
    let default = named
        .iter()
        .find(|entry| name(entry).as_deref() == Some("default"));
    default.and_then(|entry| text(entry, "template")).ok_or_else(|| {
        let names: Vec<String> = named.iter().filter_map(name).collect();
        format!(
            "is a list ({}) without one that is called default",
            names.join(", ")
        )
    })
}

/// The system's message that a template writes when nobody else gives one, where it stands there as a literal.
fn own_system(template: &str, kind: Kind) -> Result<Option<String>, String> {
    let (begin, feeds, end) = match kind {
        Kind::ChatMl => ("<|im_start|>system", 1, "<|im_end|>"),
        Kind::Llama3 => ("<|start_header_id|>system<|end_header_id|>", 2, "<|eot_id|>"),
        Kind::SafeRlhf | Kind::Gemma => return Ok(None),
    };
    let places = template.match_indices(begin);
    let found: Vec<System> = places
        .map(|(at, _)| System::read(template, &template[at + begin.len()..], feeds, end))
        .collect();
    if let Some(System::Literal(text)) = found.iter().find(|found| matches!(found, System::Literal(_))) {
        return Ok(Some(text.clone()));
    }
    match found.contains(&System::Unread) {
        true => Err("has a system's message of its own that cannot be read here".into()),
        false => Ok(None),
    }
}

/// What a template writes in the system's name in one of its places.
#[derive(Debug, PartialEq, Eq)]
enum System {
    /// Always this text.
    Literal(String),
    /// What the messages say.
    Given,
    /// Something of its own, put together by the template's program.
    Unread,
}

impl System {
    /// Reads what stands behind the system's name, up to `end`.
    fn read(template: &str, mut rest: &str, feeds: usize, end: &str) -> Self {
        loop {
            for _ in 0..feeds {
                // A line feed in a string of Jinja, written either way.
                let feed = rest.strip_prefix("\\n").or_else(|| rest.strip_prefix('\n'));
                rest = feed.unwrap_or(rest);
            }
            if let Some(behind) = rest.strip_prefix(['\'', '"']) {
                // The string ends, and what it is joined with goes on.
                let Some(joined) = behind.trim_start().strip_prefix(['+', '~']) else {
                    return Self::Given;
                };
                match joined.trim_start().strip_prefix(['\'', '"']) {
                    Some(string) => rest = string,
                    None => return Self::of_expression(template, joined),
                }
            } else if let Some(expression) = rest.strip_prefix("{{") {
                return Self::of_expression(template, expression.trim_start_matches('-'));
            } else if rest.starts_with("{%") || rest.starts_with(end) {
                return Self::Given;
            } else {
                let literal = rest.find(end).map(|at| &rest[..at]);
                let literal = literal.filter(|text| !text.contains(['\'', '"', '{', '}', '\\']));
                return literal.map_or(Self::Unread, |text| Self::Literal(text.to_string()));
            }
        }
    }

    /// An expression is the messages' own word unless it chooses, or names what the template sets to a text of its own.
    fn of_expression(template: &str, expression: &str) -> Self {
        let expression = expression.trim_start();
        let whole = expression.split("}}").next().unwrap_or_default();
        let name_ends = expression.find(|char: char| !char.is_alphanumeric() && char != '_');
        let name = &expression[..name_ends.unwrap_or(expression.len())];
        let is_set_to_text = template.match_indices("set ").any(|(at, set)| {
            let set = template[at + set.len()..].trim_start().strip_prefix(name);
            let value = set
                .and_then(|set| set.trim_start().strip_prefix('='))
                .unwrap_or_default();
            let mut chars = value.trim_start().chars();
            chars
                .next()
                .is_some_and(|quote| matches!(quote, '\'' | '"') && chars.next() != Some(quote))
        });
        match name.is_empty() || whole.contains(" else ") || is_set_to_text {
            true => Self::Unread,
            false => Self::Given,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_is_told_by_its_control_tokens_with_the_system_it_speaks_for() {
        let template = "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nBe brief.<|im_end|>\\n' }}\
                        {% endif %}{% for message in messages %}{{'<|im_start|>' + message['role']}}{% endfor %}";
        let chat = ChatFormat::told_by(template).unwrap();
        assert_eq!(chat.to_string(), "chatml");
        let text = chat.render("q", "x", &[], "");
        // With the line feeds themselves instead of their escapes.
        assert_eq!(ChatFormat::told_by(&template.replace("\\n", "\n")).unwrap(), chat);
        assert!(
            text.starts_with("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nq<|im_end|>\n"),
            "{text}"
        );
        // A system's message that a variable holds is none of its own.
        let plain = "{{ '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}";
        assert_eq!(ChatFormat::told_by(plain).unwrap().system, None);
    }

    #[test]
    fn a_llama_3_template_may_speak_for_the_system_too() {
        let template =
            "{{ '<|begin_of_text|><|start_header_id|>system<|end_header_id|>\\n\\nBe brief.<|eot_id|>' }}";
        let text = ChatFormat::told_by(template).unwrap().render("q", "x", &[], "");
        let start = "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>\
                     <|start_header_id|>user<|end_header_id|>\n\nq";
        assert!(text.starts_with(start), "{text}");
    }

    #[test]
    fn a_template_that_does_more_or_is_unknown_is_refused() {
        for template in [
            "{{ '<|im_start|>' }}{{ '<think>' }}",
            "[INST] {{ messages[0]['content'] }} [/INST]",
            "<|start_header_id|><|eot_id|> {{ strftime_now('%d') }}",
        ] {
            assert!(ChatFormat::told_by(template).is_err(), "{template}");
        }
    }

    #[test]
    fn a_system_message_that_cannot_be_read_is_not_left_out_in_silence() {
        for system in [
            "'<|im_start|>system\\nYou\\'re brief.<|im_end|>\\n'",
            "'<|im_start|>system\\nBe brief.\\nBe kind.<|im_end|>\\n'",
            "'<|im_start|>system\\n' + system_message + '<|im_end|>\\n'",
            "'<|im_start|>system\\n' + 'Be brief.' + '<|im_end|>\\n'",
            "'<|im_start|>system\\n' + (messages[0]['content'] if given else 'Be brief.')",
        ] {
            let template = format!("{{% set system_message = 'Be brief.' %}}{{{{ {system} }}}}");
            let error = ChatFormat::told_by(&template).unwrap_err();
            assert!(error.contains("system's message"), "{system}: {error}");
        }
        for given in [
            "{% set said = messages[0]['content'] %}{{ '<|im_start|>system\\n' + said + '<|im_end|>\\n' }}",
            "{% set said = '' %}{{ '<|im_start|>system\\n' + said + '<|im_end|>\\n' }}",
            "{{ '<|im_start|>system\\n' }}{% if messages %}{{ messages[0].content }}{% endif %}",
            "<|im_start|>system\n{{- messages[0].content }}<|im_end|>",
        ] {
            assert_eq!(ChatFormat::told_by(given).unwrap().system, None, "{given}");
        }
    }

    #[test]
    fn named_templates_without_a_default_are_no_other_format() {
        let dir = tempfile::tempdir().unwrap();
        let told = |template: Value| {
            let config = serde_json::json!({ "chat_template": template });
            std::fs::write(dir.path().join("tokenizer_config.json"), config.to_string()).unwrap();
            ChatFormat::told_in(dir.path())
        };
        let named = |name: &str| serde_json::json!([{"name": name, "template": "<start_of_turn>"}]);
        assert_eq!(told(named("default")).unwrap().unwrap().to_string(), "gemma");
        let error = told(named("tool_use")).unwrap_err().to_string();
        assert!(error.contains("tool_use") && error.contains("default"), "{error}");
        assert!(told(3.into()).is_err());
        assert_eq!(told(Value::Null).unwrap(), None);
    }
}
