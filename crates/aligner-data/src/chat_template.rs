//! A prompt template as the chat templates of other programs.
//!
//! Programs that run language models speak of chats. The chat of a correction is: the user's message is the question, the
//! assistant's message the answer to correct, and what the model says next is the correction. Exactly:
//!
//! - the last message of the role `user` is the question, the last one of the role `assistant` the answer;
//! - pairs before them are the conversation so far, as [`PromptTemplate::render`] writes it; a user's message without an
//!   answer is paired with the empty one;
//! - messages of other roles are left out;
//! - the prompt always ends where the correction begins: there is no generation prompt to ask for.
//!
//! Texts of messages are put in as they are: what looks like template syntax in them stays text.

use crate::template::{Piece, PromptTemplate};

impl PromptTemplate {
    /// The template in Jinja, the language of `chat_template.jinja` and `tokenizer.chat_template`. With `adds_bos` the
    /// tokenizer's `bos_token` stands before the prompt: chats are encoded without special tokens being added.
    pub fn to_jinja(&self, adds_bos: bool) -> String {
        let mut out = String::from(
            "{%- set chat = namespace(turns=0, past='', question='', answer='') -%}\n\
             {%- for message in messages -%}\n\
             {%- if message['role'] == 'user' -%}\n\
             {%- if chat.turns > 0 -%}\n\
             {%- set chat.past = chat.past + 'USER: ' + chat.question + ' ASSISTANT: ' + chat.answer + ' ' -%}\n\
             {%- endif -%}\n\
             {%- set chat.turns = chat.turns + 1 -%}\n\
             {%- set chat.question = message['content'] -%}\n\
             {%- set chat.answer = '' -%}\n\
             {%- elif message['role'] == 'assistant' -%}\n\
             {%- set chat.answer = message['content'] -%}\n\
             {%- endif -%}\n\
             {%- endfor -%}\n\
             {%- if chat.turns > 1 -%}\n\
             {%- set chat.question = chat.past + 'USER: ' + chat.question -%}\n\
             {%- endif -%}\n",
        );
        if adds_bos {
            out.push_str("{{- bos_token -}}\n");
        }
        for piece in self.pieces() {
            let expression = match piece {
                Piece::Literal(text) => quoted(text, '\''),
                Piece::Question => "chat.question".into(),
                Piece::Answer => "chat.answer".into(),
            };
            out.push_str(&format!("{{{{- {expression} -}}}}\n"));
        }
        out
    }

    /// The template in Go's template language, for the `TEMPLATE` of an Ollama Modelfile.
    ///
    /// Ollama calls it with the messages of a chat; a plain prompt is a chat of one user's message.
    pub fn to_go_template(&self) -> String {
        let mut out = String::from(
            "{{- $turns := 0 }}{{- $past := \"\" }}{{- $question := \"\" }}{{- $answer := \"\" }}\n\
             {{- range .Messages }}\n\
             {{- if eq .Role \"user\" }}\n\
             {{- if gt $turns 0 }}{{- $past = printf \"%sUSER: %s ASSISTANT: %s \" $past $question $answer }}{{- end }}\n\
             {{- $turns = 1 }}{{- $question = .Content }}{{- $answer = \"\" }}\n\
             {{- else if eq .Role \"assistant\" }}{{- $answer = .Content }}\n\
             {{- end }}\n\
             {{- end }}\n\
             {{- if $past }}{{- $question = printf \"%sUSER: %s\" $past $question }}{{- end }}\n",
        );
        for piece in self.pieces() {
            let expression = match piece {
                Piece::Literal(text) => quoted(text, '"'),
                Piece::Question => "$question".into(),
                Piece::Answer => "$answer".into(),
            };
            out.push_str(&format!("{{{{- {expression} -}}}}\n"));
        }
        out
    }
}

/// A string literal; the escapes are those that Jinja and Go share.
fn quoted(text: &str, quote: char) -> String {
    let mut out = String::from(quote);
    for character in text.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            character if character == quote => out.extend(['\\', character]),
            character => out.push(character),
        }
    }
    out.push(quote);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_template_is_as_recorded() {
        let template = PromptTemplate::default();
        assert_eq!(
            template.to_jinja(false),
            include_str!("../tests/golden/correction.jinja")
        );
        assert_eq!(
            template.to_go_template(),
            include_str!("../tests/golden/correction.gotmpl")
        );
    }

    #[test]
    fn literals_are_escaped_and_places_are_variables() {
        let template = PromptTemplate::custom("t", "a'b\"c\\\n{{%}}{question}\t|{answer}").unwrap();
        let jinja = template.to_jinja(false);
        assert!(
            jinja.ends_with(
                "{{- 'a\\'b\"c\\\\\\n{%}' -}}\n{{- chat.question -}}\n{{- '\\t|' -}}\n{{- chat.answer -}}\n"
            ),
            "{jinja}"
        );
        assert!(!jinja.contains("bos_token"));
        assert!(template.to_jinja(true).contains("{{- bos_token -}}\n{{- 'a"));
        let go = template.to_go_template();
        assert!(
            go.ends_with(
                "{{- \"a'b\\\"c\\\\\\n{%}\" -}}\n{{- $question -}}\n{{- \"\\t|\" -}}\n{{- $answer -}}\n"
            ),
            "{go}"
        );
    }
}
