//! What a caller asks, as far as this example understands it, and what that is worth.

use serde::Deserialize;
use serde_json::Value;

use crate::refused::Refused;

/// Messages of a conversation.
const MESSAGES_MAX: usize = 256;
/// Bytes of the name of a caller's user.
const USER_BYTES_MAX: usize = 128;
/// Tokens of an answer, and how many it has when nobody says.
const TOKENS_MAX: u32 = 4_096;
const TOKENS: u32 = 256;
/// What a message's role and such cost, in tokens, beside its text.
const TURN_TOKENS: u64 = 4;

/// `POST /v1/chat/completions`. What is not here is not looked at, but it travels to the worker with the rest.
#[derive(Debug, Deserialize)]
pub(crate) struct ChatRequest {
    pub(crate) model: String,
    pub(crate) messages: Vec<Turn>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    max_completion_tokens: Option<u32>,
    max_tokens: Option<u32>,
    user: Option<String>,
    n: Option<u64>,
    tools: Option<Value>,
    response_format: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct StreamOptions {
    include_usage: Option<bool>,
}

/// A message of a conversation.
#[derive(Debug, Deserialize)]
pub(crate) struct Turn {
    pub(crate) role: Role,
    content: Option<Content>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Role {
    System,
    Developer,
    User,
    Assistant,
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "`content` must be a text, or parts of type `text`")]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Part {
    Text { text: String },
}

impl ChatRequest {
    /// Understands a request, or says what is wrong with it.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, Refused> {
        let asked: Self = serde_json::from_slice(body).map_err(|error| Refused::invalid(None, error.to_string()))?;
        asked.check().map(|()| asked)
    }

    fn check(&self) -> Result<(), Refused> {
        let wrong = |param, problem: String| Err(Refused::invalid(Some(param), problem));
        if self.messages.is_empty() || self.messages.len() > MESSAGES_MAX {
            return wrong("messages", format!("{} messages, 1 to {MESSAGES_MAX} are allowed", self.messages.len()));
        }
        if !(1..=TOKENS_MAX).contains(&self.tokens_max()) {
            let problem = format!("{} tokens, 1 to {TOKENS_MAX} are allowed", self.tokens_max());
            return wrong("max_completion_tokens", problem);
        }
        if self.user().is_some_and(|user| user.len() > USER_BYTES_MAX) {
            return wrong("user", format!("more than {USER_BYTES_MAX} bytes"));
        }
        // To leave these out silently would be another answer than was asked for.
        if self.n.is_some_and(|n| n != 1) {
            return wrong("n", "one answer to a request".into());
        }
        if self.tools.as_ref().is_some_and(|tools| tools.as_array().is_none_or(|tools| !tools.is_empty())) {
            return wrong("tools", "no model here uses tools".into());
        }
        if self.response_format.as_ref().is_some_and(|format| format["type"] != "text") {
            return wrong("response_format", "answers are text".into());
        }
        Ok(())
    }

    pub(crate) fn streams(&self) -> bool {
        self.stream.unwrap_or_default()
    }

    /// Whether the answer says what it cost: one in a whole does, one in chunks if that is wanted.
    pub(crate) fn says_usage(&self) -> bool {
        !self.streams() || self.stream_options.as_ref().and_then(|options| options.include_usage).unwrap_or_default()
    }

    /// Tokens that the answer may have.
    pub(crate) fn tokens_max(&self) -> u32 {
        self.max_completion_tokens.or(self.max_tokens).unwrap_or(TOKENS)
    }

    /// Whom the caller speaks for.
    pub(crate) fn user(&self) -> Option<&str> {
        self.user.as_deref().filter(|user| !user.is_empty())
    }

    /// Tokens of the prompt, roughly: one for four bytes of text, and some for each message.
    pub(crate) fn prompt_tokens(&self) -> u64 {
        let texts = self.messages.iter().map(|turn| turn.text().len().div_ceil(4) as u64 + TURN_TOKENS);
        texts.sum()
    }

    /// What the request may cost the group, in tokens: the prompt, and all that the answer may have. The worker says what it was.
    pub(crate) fn estimated_cost(&self) -> u64 {
        self.prompt_tokens() + u64::from(self.tokens_max())
    }
}

impl Turn {
    pub(crate) fn text(&self) -> String {
        match &self.content {
            Some(Content::Text(text)) => text.clone(),
            Some(Content::Parts(parts)) => parts.iter().map(|Part::Text { text }| text.as_str()).collect(),
            None => String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(with: &Value) -> Result<ChatRequest, String> {
        let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "12345"}]});
        body.as_object_mut().unwrap().extend(with.as_object().unwrap().clone());
        ChatRequest::parse(body.to_string().as_bytes()).map_err(|refused| refused.to_string())
    }

    #[test]
    fn the_cost_is_the_prompt_and_all_that_may_be_answered() {
        assert_eq!(parse(&json!({})).unwrap().estimated_cost(), 2 + 4 + 256);
        assert_eq!(parse(&json!({"max_tokens": 10, "temperature": 0.5})).unwrap().estimated_cost(), 2 + 4 + 10);
        let parts = json!({"messages": [{"role": "user", "content": [{"type": "text", "text": "1234"}, {"type": "text", "text": "5"}]}]});
        assert_eq!(parse(&parts).unwrap().prompt_tokens(), 2 + 4);
    }

    #[test]
    fn what_is_not_understood_is_refused_and_named() {
        for (with, refused) in [
            (json!({"n": 2}), "400 n: one answer to a request"),
            (json!({"messages": []}), "400 messages: 0 messages, 1 to 256 are allowed"),
            (json!({"max_tokens": 4097}), "400 max_completion_tokens: 4097 tokens, 1 to 4096 are allowed"),
            (json!({"user": "u".repeat(129)}), "400 user: more than 128 bytes"),
            (json!({"tools": [{"type": "function"}]}), "400 tools: no model here uses tools"),
            (json!({"response_format": {"type": "json_object"}}), "400 response_format: answers are text"),
        ] {
            assert_eq!(parse(&with).unwrap_err(), refused);
        }
        let image = json!({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]});
        assert!(parse(&image).unwrap_err().contains("`content` must be a text, or parts of type `text`"));
        assert!(parse(&json!({"tools": [], "response_format": {"type": "text"}, "n": 1})).is_ok());
    }
}
