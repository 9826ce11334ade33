"""Hidden states at the tokens of completions, computed packed: a prompt once for all its completions, no padding.

A rollout arrives as TRL has it: prompts padded on the left, completions on the right, rows in any order. Rows of one
prompt are packed together and cut into lines of a token budget (rm.packed.layout). A completion's last token is
predicted and predicts nothing, so it is left out.

In training, lines are the checkpoints: the forward pass keeps results only, and the backward pass computes one line
after the other again, with gradients. Memory is that of a single line, whatever the size of the rollout; results that
are known already, from a pass that the same weights made, are not computed a second time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from policy.updates.token_head import CHUNK_TOKENS, token_statistics
from rm.packed.attention import packed_body, token_hidden
from rm.packed.fused_lora import fused_layers
from rm.packed.layout import Packed, batches_by_tokens, pack, packed_length

Read = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, ...]]
"""(hidden (n, H), members (n,): which of the batch's N completion tokens) -> results, each of first dimension n."""
Around = Callable[[], AbstractContextManager[Any]]


@dataclass(frozen=True)
class Line:
    """One packed line, and where in it the N completion tokens are predicted.

    Attributes:
        packed: the line.
        index_n: positions in the line whose states predict the members.
        members_n: which of the batch's N completion tokens those are.
    """

    packed: Packed
    index_n: torch.Tensor
    members_n: torch.Tensor


@dataclass(frozen=True)
class CompletionRows:
    """A batch of completions without its padding.

    Attributes:
        rows: the token ids that are computed, int64 arrays, of each row with a completion: its prompt and all of it but
            the last token.
        counts: how many completion tokens each of these rows has; they sum to N.
        groups: indices of rows with the same prompt.
        places_N: indices of the completion tokens in a flat (B, T), in order.
        targets_N: their token ids.
        shape: (B, T).
    """

    rows: list[Any]
    counts: list[int]
    groups: list[list[int]]
    places_N: torch.Tensor
    targets_N: torch.Tensor
    shape: tuple[int, int]

    @classmethod
    def of(
        cls,
        prompt_ids: torch.Tensor,
        prompt_mask: torch.Tensor,
        completion_ids: torch.Tensor,
        completion_mask: torch.Tensor,
    ) -> CompletionRows:
        """From TRL's tensors of shapes (B, P) and (B, T), on any device; a row without completion tokens is left out.

        Raises:
            ValueError: a prompt has no token or padding within or after it, a completion padding within or before it.
        """
        prompts, seen = prompt_ids.cpu().numpy(), prompt_mask.cpu().numpy().astype(bool)
        answers, kept = completion_ids.cpu().numpy(), completion_mask.cpu().numpy().astype(bool)
        if not seen.shape[1] or not seen[:, -1].all() or (np.diff(seen.astype(int)) < 0).any():
            raise ValueError("prompts must be padded on the left and have a token")
        if (np.diff(kept.astype(int)) > 0).any():
            raise ValueError("completions must be padded on the right")
        rows: list[Any] = []
        counts: list[int] = []
        groups: dict[bytes, list[int]] = {}
        for prompt, prompt_seen, answer, answer_kept in zip(prompts, seen, answers, kept, strict=True):
            count = int(answer_kept.sum())
            if count:
                start = prompt[prompt_seen].astype(np.int64)
                groups.setdefault(start.tobytes(), []).append(len(rows))
                rows.append(np.concatenate([start, answer[: count - 1].astype(np.int64)]))
                counts.append(count)
        return cls(
            rows,
            counts,
            list(groups.values()),
            torch.from_numpy(np.flatnonzero(kept)),
            torch.from_numpy(answers[kept].astype(np.int64)),
            (answers.shape[0], answers.shape[1]),
        )

    def lines(self, batch_tokens: int) -> list[Line]:
        """The rows as lines of at most `batch_tokens` tokens, but for a line of one longer row."""
        pieces = [piece for group in self.groups for piece in self._pieces(group, batch_tokens)]
        lengths = [packed_length([self.rows[i] for i in piece]) for piece in pieces]
        return [self._line([pieces[i] for i in batch]) for batch in batches_by_tokens(lengths, batch_tokens) if batch]

    def padded(self, values_N: torch.Tensor) -> torch.Tensor:
        """Values of the completion tokens at their places in (B, T, …), zero elsewhere, with gradients."""
        flat = values_N.new_zeros((self.shape[0] * self.shape[1], *values_N.shape[1:]))
        filled = flat.index_copy(0, self.places_N.to(flat.device), values_N)
        return filled.view(*self.shape, *values_N.shape[1:])

    def flat(self, values_BT: torch.Tensor) -> torch.Tensor:
        """The completion tokens' values, (N, …), of a padded (B, T, …)."""
        return values_BT.flatten(0, 1)[self.places_N.to(values_BT.device)]

    def _pieces(self, group: list[int], batch_tokens: int) -> list[list[int]]:
        pieces: list[list[int]] = []
        for row in group:
            if pieces and packed_length([self.rows[i] for i in (*pieces[-1], row)]) <= batch_tokens:
                pieces[-1].append(row)
            else:
                pieces.append([row])
        return pieces

    def _line(self, pieces: Sequence[Sequence[int]]) -> Line:
        packed = pack([[self.rows[i] for i in piece] for piece in pieces])
        rows = [i for piece in pieces for i in piece]
        starts = np.cumsum([0, *self.counts])
        # A row's keys are its tokens in order, and its completion is predicted at the last of them.
        ends = packed.key_lengths.cumsum(0).tolist()
        index = [packed.key_index[end - self.counts[i] : end] for i, end in zip(rows, ends, strict=True)]
        members = [torch.arange(int(starts[i]), int(starts[i + 1])) for i in rows]
        return Line(packed, torch.cat(index), torch.cat(members))


class PackedPass:
    """What a forward pass over lines needs, and the backward pass again.

    Args:
        trunk: the body; the adapters that are active now must be so in the backward pass.
        rows: the completions.
        read: what is made of hidden states; called once a line, and once more where lines are computed again.
        batch_tokens: most tokens of a line.
        around: opened around each computation, for example autocast.
    """

    def __init__(self, trunk: Any, rows: CompletionRows, read: Read, batch_tokens: int, around: Around) -> None:
        self.trunk, self.read, self.around = trunk, read, around
        self.device = next(trunk.parameters()).device
        self.lines = rows.lines(batch_tokens)
        self.members_N = torch.cat([line.members_n for line in self.lines]).to(self.device)
        self.adapters = active_adapters(trunk)

    def outputs(self) -> tuple[torch.Tensor, ...]:
        """Results of all lines in the batch's order; with gradients where they are enabled."""
        with self._open():
            per_line = [self._of_line(line) for line in self.lines]
        order_N = self.members_N.argsort()
        return tuple(torch.cat(parts)[order_N] for parts in zip(*per_line, strict=True))

    def backward(self, grads: Sequence[torch.Tensor | None]) -> None:
        """Add the gradients of all parameters, line by line.

        Raises:
            RuntimeError: other adapters are active than in the forward pass.
        """
        if active_adapters(self.trunk) != self.adapters:
            raise RuntimeError(f"adapters {self.adapters} made the forward pass, {active_adapters(self.trunk)} are on")
        # Open to the end: layers that are checkpointed themselves are computed again in the inner backward pass.
        with self._open(), torch.enable_grad():
            for line in self.lines:
                members_n = line.members_n.to(self.device)
                pairs = [
                    (output, grad[members_n].to(output.dtype))
                    for output, grad in zip(self._of_line(line), grads, strict=True)
                    if grad is not None and output.requires_grad
                ]
                if pairs:
                    torch.autograd.backward([output for output, _ in pairs], [grad for _, grad in pairs])
                del pairs

    def _of_line(self, line: Line) -> tuple[torch.Tensor, ...]:
        with self.around():
            hidden_TH = token_hidden(self.trunk, line.packed)
            hidden_nH = hidden_TH[line.index_n.to(self.device, non_blocking=True)]
            return self.read(hidden_nH, line.members_n.to(self.device, non_blocking=True))

    def _open(self) -> ExitStack:
        stack = ExitStack()
        stack.enter_context(packed_body(self.trunk))
        if self.device.type == "cuda":
            # Chosen anew each time: with the adapter disabled, as for a reference, other layers can be replaced.
            stack.enter_context(fused_layers(self.trunk))
        return stack


class Recomputed(torch.autograd.Function):
    """Known results of a pass, whose gradient computes the pass again."""

    @staticmethod
    def forward(ctx: Any, anchor: torch.Tensor, work: PackedPass, *values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The values as they are; `anchor` requires a gradient, so that the results do."""
        ctx.work = work
        ctx.set_materialize_grads(False)
        return tuple(value.view_as(value) for value in values)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor | None) -> tuple[None, ...]:
        """Gradients go straight to the parameters."""
        ctx.work.backward(grads)
        return (None,) * (2 + len(grads))


def over_completions(
    trunk: Any,
    rows: CompletionRows,
    read: Read,
    *,
    batch_tokens: int,
    around: Around = nullcontext,
    known: Sequence[torch.Tensor] | None = None,
) -> tuple[torch.Tensor, ...]:
    """What `read` makes of the states that predict the N completion tokens, each result of shape (N, …).

    Args:
        trunk, rows, read, batch_tokens, around: see `PackedPass`.
        known: these results, where the same weights have given them already.
    """
    if not rows.rows:
        width = trunk.config.hidden_size
        nothing = torch.zeros((0, width), device=next(trunk.parameters()).device, requires_grad=torch.is_grad_enabled())
        return read(nothing, rows.targets_N.to(nothing.device))
    work = PackedPass(trunk, rows, read, batch_tokens, around)
    if not torch.is_grad_enabled():
        return work.outputs() if known is None else tuple(known)
    if known is None and len(work.lines) == 1 and not _is_checkpointed(trunk):
        return work.outputs()
    with torch.no_grad():
        values = work.outputs() if known is None else tuple(value.detach() for value in known)
    anchor = torch.zeros((), device=work.device, requires_grad=True)
    applied: Any = Recomputed
    found: tuple[torch.Tensor, ...] = applied.apply(anchor, work, *values)
    return found


def completion_hidden(
    trunk: Any, rows: CompletionRows, *, batch_tokens: int, around: Around = nullcontext
) -> torch.Tensor:
    """The states that predict the N completion tokens, (N, H), with gradients; `rows.padded` makes them (B, T, H)."""
    return over_completions(trunk, rows, lambda hidden, _: (hidden,), batch_tokens=batch_tokens, around=around)[0]


def completion_values(
    trunk: Any,
    value_of: Callable[[torch.Tensor], torch.Tensor],
    rows: CompletionRows,
    *,
    batch_tokens: int,
    around: Around = nullcontext,
    known: torch.Tensor | None = None,
) -> torch.Tensor:
    """A critic's values before each completion token, (B, T), zero where padded, with gradients of body and head.

    Args:
        value_of: the head, (…, H) -> (…).
        known: values (B, T) of the same weights, so that a backward pass alone is left to do.
    """
    (values_N,) = over_completions(
        trunk,
        rows,
        lambda hidden, _: (value_of(hidden),),
        batch_tokens=batch_tokens,
        around=around,
        known=None if known is None else (rows.flat(known),),
    )
    return rows.padded(values_N)


def token_logps(
    trunk: Any,
    head: nn.Linear,
    rows: CompletionRows,
    *,
    temperature: float,
    batch_tokens: int,
    around: Around = nullcontext,
    known: tuple[torch.Tensor, torch.Tensor] | None = None,
    chunk_tokens: int = CHUNK_TOKENS,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities and entropies (nats) of the completion tokens, each (B, T), zero where padded, with gradients.

    Args:
        head: the language-model head.
        temperature: logits are divided by it.
        known: both (B, T), of the same weights, so that a backward pass alone is left to do.
    """
    targets_N = rows.targets_N.to(next(trunk.parameters()).device)

    def read(hidden: torch.Tensor, members: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return token_statistics(hidden, head, targets_N[members], temperature, chunk_tokens)

    flat = None if known is None else tuple(rows.flat(part) for part in known)
    logps, entropies = over_completions(trunk, rows, read, batch_tokens=batch_tokens, around=around, known=flat)
    return rows.padded(logps), rows.padded(entropies)


def _is_checkpointed(trunk: nn.Module) -> bool:
    # Transformers renames the property that says so; the layers' attribute has stayed.
    return any(getattr(module, "gradient_checkpointing", False) for module in trunk.modules())


def active_adapters(model: nn.Module) -> tuple[str, ...]:
    """Names of the adapters that take part in a forward pass."""
    layer = next((module for module in model.modules() if isinstance(module, BaseTunerLayer)), None)
    return () if layer is None or layer.disable_adapters else tuple(layer.active_adapters)
