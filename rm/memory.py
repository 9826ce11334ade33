"""How much memory a decoder takes on a GPU: weights, what training adds, and the activations of one packed line.

Counted from the shape, for Llama-like decoders (Qwen2.5, Llama, Mistral) under `rm.packed.fused_lora`, in bytes. A
layer keeps per token six states of its width H, the two inner states of its MLP of width I, and keys and values twice,
all in two bytes:

    activations of a layer, a token    12 H + 4 I + 8 KV
    while a layer is differentiated    8 I more
    checkpointed, a layer keeps        2 H, and one layer at a time has its activations

tests/test_memory.py holds what was measured on an H200 and how near this comes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from configs.errors import UserError

GIB = 2**30
TRAINED_BYTES = 16
"""A trained parameter: weight, gradient and Adam's two moments in float32."""
NF4_BYTES = 0.516
"""A weight in 4 bits with its doubly quantised scales (arXiv 2305.14314, section 3)."""
LOGITS_CHUNKS = 2.75
"""Chunks of float32 logits that are there at once: the logits, their exponentials, the gradient in part."""


@dataclass(frozen=True)
class BodyShape:
    """The shape of a decoder, as `config.json` gives it.

    Attributes:
        layers, hidden, intermediate, vocab: numbers and widths.
        query, key_value: widths of all query heads and of all key heads together.
        tied: whether the language-model head is the embedding.
        biased: whether queries, keys and values have a bias.
    """

    layers: int
    hidden: int
    intermediate: int
    vocab: int
    query: int
    key_value: int
    tied: bool = False
    biased: bool = True

    @classmethod
    def of(cls, config: Mapping[str, Any], where: str) -> BodyShape:
        """From the record of a `config.json`; `where` begins the error sentence.

        Raises:
            UserError: a number is missing.
        """
        try:
            heads = int(config["num_attention_heads"])
            head_dim = int(config.get("head_dim") or int(config["hidden_size"]) // heads)
            return cls(
                int(config["num_hidden_layers"]),
                int(config["hidden_size"]),
                int(config["intermediate_size"]),
                int(config["vocab_size"]),
                heads * head_dim,
                int(config.get("num_key_value_heads") or heads) * head_dim,
                bool(config.get("tie_word_embeddings", False)),
                bool(config.get("attention_bias", config.get("model_type") == "qwen2")),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{where}: no shape of a decoder can be read from it ({error!r})") from None

    @property
    def linear_parameters(self) -> int:
        """Weights of the layers' matrices: queries, keys, values, output, gate, up, down."""
        attention = self.hidden * (2 * self.query + 2 * self.key_value)
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    @property
    def other_parameters(self) -> int:
        """Embedding, norms and biases."""
        bias = self.query + 2 * self.key_value if self.biased else 0
        return self.vocab * self.hidden + self.layers * (2 * self.hidden + bias) + self.hidden

    @property
    def head_parameters(self) -> int:
        """A language-model head of its own."""
        return 0 if self.tied else self.vocab * self.hidden

    def lora_parameters(self, rank: int) -> int:
        """LoRA on every linear layer of the body."""
        widths = [
            (self.hidden, self.query),
            (self.hidden, self.key_value),
            (self.hidden, self.key_value),
            (self.query, self.hidden),
            (self.hidden, self.intermediate),
            (self.hidden, self.intermediate),
            (self.intermediate, self.hidden),
        ]
        return self.layers * rank * sum(a + b for a, b in widths)

    def weight_bytes(self, with_head: bool, four_bit: bool = False, width: int = 2) -> float:
        """The weights; `width` bytes each, the layers' matrices in 4 bits where asked for."""
        head = self.head_parameters if with_head else 0
        return self.linear_parameters * (NF4_BYTES if four_bit else width) + (self.other_parameters + head) * width

    def line_bytes(self, tokens: int, checkpointed: bool, logits_tokens: int = 0) -> float:
        """The most that one packed line of so many tokens needs while gradients are taken.

        Args:
            checkpointed: `gradient_checkpointing`.
            logits_tokens: tokens of one chunk of logits (policy.updates.token_head); 0 for a reward model.
        """
        layer = tokens * (12 * self.hidden + 4 * self.intermediate + 8 * self.key_value)
        differentiated = 8 * tokens * self.intermediate
        head = LOGITS_CHUNKS * 4 * min(logits_tokens, tokens) * self.vocab
        if not checkpointed:
            return self.layers * layer + max(differentiated, head)
        return self.layers * 2 * tokens * self.hidden + max(layer + differentiated, head)

    def scoring_bytes(self, tokens: int) -> float:
        """The most that one packed line needs while it is scored: a layer's inner states, and none is kept."""
        return tokens * (8 * self.hidden + 8 * self.intermediate)

    def cache_bytes(self, tokens: int) -> float:
        """Keys and values of so many tokens in a sampler's cache."""
        return 4.0 * self.layers * self.key_value * tokens


def lora_training_bytes(
    shape: BodyShape, rank: int, tokens: int, checkpointed: bool, four_bit: bool = False, logits_tokens: int = 0
) -> float:
    """Peak of training one LoRA adapter: frozen weights, trained ones, one line.

    Args:
        logits_tokens: above 0 for a policy, which has a language-model head.
    """
    weights = shape.weight_bytes(logits_tokens > 0, four_bit)
    return (
        weights
        + TRAINED_BYTES * shape.lora_parameters(rank)
        + shape.line_bytes(tokens, checkpointed, logits_tokens=logits_tokens)
    )
