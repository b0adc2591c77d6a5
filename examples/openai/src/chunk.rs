//! An answer as the API has it: in chunks, which is how it travels, and in a whole.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// A part of an answer: the body of a message in the answer's lite topic, and what a caller sees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Chunk {
    pub(crate) id: String,
    pub(crate) object: String,
    pub(crate) created: u64,
    pub(crate) model: String,
    pub(crate) choices: Vec<Choice>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) usage: Option<Usage>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Choice {
    index: u32,
    delta: Delta,
    finish_reason: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Delta {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    role: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    content: Option<String>,
}

/// Tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Usage {
    #[serde(rename = "prompt_tokens")]
    prompt: u64,
    #[serde(rename = "completion_tokens")]
    completion: u64,
    #[serde(rename = "total_tokens")]
    total: u64,
}

/// What all chunks of an answer have in common.
#[derive(Debug, Clone)]
pub(crate) struct Head {
    pub(crate) id: String,
    /// Seconds since 1970.
    pub(crate) created: u64,
    pub(crate) model: String,
}

/// An answer that is put together.
#[derive(Debug, Default)]
pub(crate) struct Whole {
    head: Option<Chunk>,
    content: String,
    finish_reason: Option<String>,
    usage: Option<Usage>,
}

impl Head {
    pub(crate) fn begin(&self) -> Chunk {
        let delta = Delta { role: Some("assistant".into()), content: Some(String::new()) };
        self.chunk(vec![Choice { index: 0, delta, finish_reason: None }], None)
    }

    pub(crate) fn token(&self, text: String) -> Chunk {
        let delta = Delta { content: Some(text), ..Delta::default() };
        self.chunk(vec![Choice { index: 0, delta, finish_reason: None }], None)
    }

    pub(crate) fn finish(&self, reason: &str) -> Chunk {
        let choice = Choice { index: 0, delta: Delta::default(), finish_reason: Some(reason.into()) };
        self.chunk(vec![choice], None)
    }

    pub(crate) fn usage(&self, usage: Usage) -> Chunk {
        self.chunk(Vec::new(), Some(usage))
    }

    fn chunk(&self, choices: Vec<Choice>, usage: Option<Usage>) -> Chunk {
        let Self { id, created, model } = self.clone();
        Chunk { id, object: "chat.completion.chunk".into(), created, model, choices, usage }
    }
}

impl Usage {
    pub(crate) fn new(prompt: u64, completion: u64) -> Self {
        Self { prompt, completion, total: prompt + completion }
    }

    pub(crate) fn total(&self) -> u64 {
        self.total
    }
}

impl Whole {
    pub(crate) fn add(&mut self, chunk: Chunk) {
        for choice in &chunk.choices {
            self.content.push_str(choice.delta.content.as_deref().unwrap_or_default());
            self.finish_reason = choice.finish_reason.clone().or(self.finish_reason.take());
        }
        self.usage = chunk.usage.or(self.usage);
        self.head.get_or_insert(chunk);
    }

    /// Bytes of text so far.
    pub(crate) fn bytes(&self) -> usize {
        self.content.len()
    }

    /// As `chat.completion`; none of an answer without chunks.
    pub(crate) fn finish(self) -> Option<Value> {
        let Chunk { id, created, model, .. } = self.head?;
        let message = json!({"role": "assistant", "content": self.content, "refusal": null});
        let choice = json!({"index": 0, "message": message, "logprobs": null, "finish_reason": self.finish_reason});
        let usage = self.usage;
        Some(json!({
            "id": id, "object": "chat.completion", "created": created, "model": model, "choices": [choice], "usage": usage,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_add_up_to_the_whole() {
        let head = Head { id: "chatcmpl-1".into(), created: 7, model: "m".into() };
        let mut whole = Whole::default();
        for chunk in [head.begin(), head.token("a ".into()), head.token("b".into()), head.finish("stop")] {
            let travelled = serde_json::to_vec(&chunk).unwrap();
            whole.add(serde_json::from_slice(&travelled).unwrap());
        }
        whole.add(head.usage(Usage::new(3, 2)));
        let message = json!({"role": "assistant", "content": "a b", "refusal": null});
        assert_eq!(
            whole.finish().unwrap(),
            json!({
                "id": "chatcmpl-1", "object": "chat.completion", "created": 7, "model": "m",
                "choices": [{"index": 0, "message": message, "logprobs": null, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
            })
        );
        assert_eq!(Whole::default().finish(), None);
    }
}
