"""One rollout's noise shared by several processes, so that they sample what a single process would have sampled.

TRL's rollouts draw from the global generator, which `policy.grpo` keys by step, so every process has the same one. Left
alone, completion `i` of each process would be drawn with the same noise. Here each process draws the noise of all
completions and keeps the rows of its own: with weights, prompts and order as in a run of one process, it draws the same
tokens, but where two of them are equally likely to the last digits of the logits.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from rm.processes import n_processes, process_index
from tasks.sampling import whole_root


class OwnRows(LogitsProcessor):
    """Leaves each row the one token that `torch.multinomial` would draw for it in the batch of all processes.

    PyTorch draws one token a row as the largest of probability / exponential noise (the Gumbel-max of Maddison et al.,
    arXiv 1411.0030, in other words), so the noise of a row is known by its place in the batch.

    Args:
        seed: of the rollout.
        temperature: of the rollout; applied here, because this choice comes first.
        processes, index: how many processes there are, each with as many rows, and which one this is.
    """

    def __init__(self, seed: int, temperature: float, processes: int, index: int) -> None:
        self.seed, self.temperature, self.processes, self.index = seed, temperature, processes, index
        self.generator: torch.Generator | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores (B, V) of this process's rows -> 0 for the drawn token of each row, and -inf elsewhere."""
        if self.generator is None:
            self.generator = torch.Generator(scores.device).manual_seed(self.seed)
        probabilities = (scores / self.temperature).softmax(-1)
        rows = len(scores)
        shape = (self.processes * rows, scores.shape[1])
        noise = torch.empty(shape, dtype=probabilities.dtype, device=scores.device).exponential_(
            1, generator=self.generator
        )
        drawn = (probabilities / noise[self.index * rows : (self.index + 1) * rows]).argmax(-1, keepdim=True)
        return torch.full_like(scores, -torch.inf).scatter(1, drawn, 0.0)


@contextlib.contextmanager
def shared_noise(model: Any, seed: int, temperature: float) -> Iterator[None]:
    """Let `model.generate` draw as `OwnRows` says for the length of a block; of one process nothing is changed."""
    if n_processes() == 1:
        yield
        return
    own_rows = OwnRows(seed, temperature, n_processes(), process_index())
    model.generate = functools.partial(model.generate, logits_processor=LogitsProcessorList([own_rows]))
    try:
        with whole_root(model):
            yield
    finally:
        del model.generate
