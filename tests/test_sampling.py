"""Sampling: an answer belongs to its prompt and seed, draws follow the softmax, cuts cut, and ends are ends."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from transformers import Qwen2ForCausalLM, Qwen2Tokenizer

from configs.keyed import keyed_seed
from tasks.records import Message
from tasks.sampling import KeyedGumbel, Sampled, sample
from tasks.tiny_base import END, build_model, build_tokenizer

WORDS = ("red", "green", "blue", "gold", "grey")
N_DRAWS = 20_000
LOGITS = (1.2, 0.3, -0.5, 2.0, -3.0, 0.0)


@pytest.fixture(scope="module")
def tokenizer() -> Qwen2Tokenizer:
    return build_tokenizer([" ".join(WORDS), *WORDS] * 20, 300)


@pytest.fixture(scope="module")
def model(tokenizer: Qwen2Tokenizer) -> Qwen2ForCausalLM:
    """Weights at random, scaled up so that it has opinions and ends now and then."""
    made = build_model(tokenizer, layers=1, hidden=16, heads=2, seed=0)
    with torch.no_grad():
        made.get_input_embeddings().weight.mul_(25)
    return made


def chat(*words: str) -> list[Message]:
    return [{"role": "user", "content": " ".join(words)}]


CHATS = [chat(*(WORDS[(i + k) % 5] for k in range(1 + i % 4))) for i in range(12)]
SEEDS = [keyed_seed(0, "sampling", i) for i in range(len(CHATS))]


def test_answers_do_not_depend_on_batch_size_or_order(model: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer) -> None:
    together = sample(model, tokenizer, CHATS, SEEDS, 10)
    assert len({answer.text for answer in together}) > 6
    for batch_size in (1, 5):
        assert sample(model, tokenizer, CHATS, SEEDS, 10, batch_size=batch_size) == together
    order = np.random.default_rng(0).permutation(len(CHATS)).tolist()
    shuffled = sample(model, tokenizer, [CHATS[i] for i in order], [SEEDS[i] for i in order], 10, batch_size=7)
    assert shuffled == [together[i] for i in order]


def test_another_seed_gives_another_answer_and_the_same_seed_the_same(
    model: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer
) -> None:
    one = sample(model, tokenizer, [CHATS[0]] * 3, [1, 2, 1], 10)
    assert one[0] == one[2]
    assert one[0].text != one[1].text


def test_a_longer_limit_goes_on_from_the_same_beginning(model: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer) -> None:
    short = sample(model, tokenizer, CHATS, SEEDS, 3)
    long = sample(model, tokenizer, CHATS, SEEDS, 12)
    assert all(b.text.startswith(a.text.rstrip("\ufffd")) for a, b in zip(short, long, strict=True))


def greedy_by_hand(model: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer, asked: list[Message], limit: int) -> Sampled:
    """The most likely token each time, one prompt alone, without padding and without a cache."""
    text = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    made: list[int] = []
    with torch.no_grad():
        while len(made) < limit:
            token = int(model(torch.tensor([ids + made])).logits[0, -1].argmax())
            if token == tokenizer.eos_token_id:
                return Sampled(tokenizer.decode(made, skip_special_tokens=True).strip(), len(made), False)
            made.append(token)
    return Sampled(tokenizer.decode(made, skip_special_tokens=True).strip(), len(made), True)


def test_temperature_0_takes_the_most_likely_token(model: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer) -> None:
    model.eval()
    found = sample(model, tokenizer, CHATS, SEEDS, 8, temperature=0.0)
    assert found == [greedy_by_hand(model, tokenizer, asked, 8) for asked in CHATS]
    assert sample(model, tokenizer, CHATS, SEEDS[::-1], 8, temperature=0.0) == found


def test_only_one_token_left_is_greedy(model: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer) -> None:
    greedy = sample(model, tokenizer, CHATS, SEEDS, 8, temperature=0.0)
    assert sample(model, tokenizer, CHATS, SEEDS, 8, top_k=1) == greedy
    assert sample(model, tokenizer, CHATS, SEEDS, 8, top_p=1e-6) == greedy
    assert sample(model, tokenizer, CHATS, SEEDS, 8, temperature=1e-4) == greedy


def draws(temperature: float = 1.0, top_p: float = 1.0, top_k: int = 0) -> np.ndarray:
    """How often each token of a vocabulary of six is chosen, over as many seeds; shape (6,)."""
    noise = KeyedGumbel([keyed_seed(0, "draw", i) for i in range(N_DRAWS)], temperature, top_p, top_k)
    scores = torch.tensor([LOGITS]).expand(N_DRAWS, -1)
    chosen = noise(torch.empty(N_DRAWS, 0, dtype=torch.long), scores).argmax(-1)
    return np.bincount(chosen.numpy(), minlength=len(LOGITS))


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({}, (0, 1, 2, 3, 4, 5)),
        ({"temperature": 0.5}, (0, 1, 2, 3, 4, 5)),
        ({"temperature": 3.0}, (0, 1, 2, 3, 4, 5)),
        ({"top_k": 2}, (0, 3)),
        ({"top_k": 99}, (0, 1, 2, 3, 4, 5)),
        # Shares by rank: 0.529, 0.238, 0.097, 0.072, 0.043, 0.004; running sums 0.529, 0.766, 0.863, 0.935.
        ({"top_p": 0.5}, (3,)),
        ({"top_p": 0.7}, (0, 3)),
        ({"top_p": 0.8}, (0, 1, 3)),
        ({"top_p": 0.9, "temperature": 1.0}, (0, 1, 3, 5)),
        # At most three by rank, and of their renormalised shares 0.612, 0.275, 0.112 the first two reach 0.85.
        ({"top_k": 3, "top_p": 0.85}, (0, 3)),
    ],
)
def test_draws_follow_the_softmax_of_what_is_kept(settings: dict[str, float], kept: tuple[int, ...]) -> None:
    counts = draws(**settings)  # type: ignore[arg-type]
    expected = np.zeros(len(LOGITS))
    chances = np.exp(np.array([LOGITS[i] for i in kept]) / settings.get("temperature", 1.0))
    expected[list(kept)] = N_DRAWS * chances / chances.sum()
    assert counts[expected == 0].sum() == 0
    if len(kept) > 1:
        assert stats.chisquare(counts[list(kept)], expected[list(kept)]).pvalue > 0.001


def test_positions_of_one_row_are_drawn_independently() -> None:
    noise = KeyedGumbel([keyed_seed(0, "position", i) for i in range(4000)], 1.0, 1.0, 0)
    scores = torch.zeros(4000, 3)
    first, second = (noise(torch.empty(4000, 0), scores).argmax(-1).numpy() for _ in range(2))
    table = np.zeros((3, 3))
    np.add.at(table, (first, second), 1)
    assert stats.chi2_contingency(table).pvalue > 0.001


def with_end_logit(
    model: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer, value: float
) -> torch.utils.hooks.RemovableHandle:
    """Make the end token certain (or impossible) from the fourth token of the completion on."""
    seen = {"calls": 0}

    def change(module: object, inputs: object, output: torch.Tensor) -> torch.Tensor:
        seen["calls"] += 1
        output[..., int(tokenizer.eos_token_id)] = value if seen["calls"] >= 4 else -1e4
        return output

    return model.lm_head.register_forward_hook(change)


def test_an_answer_that_ends_is_not_truncated_and_the_end_is_no_part_of_it(
    model: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer
) -> None:
    hook = with_end_logit(model, tokenizer, 1e4)
    try:
        found = sample(model, tokenizer, CHATS[:3], SEEDS[:3], 10)
    finally:
        hook.remove()
    assert [(answer.n_tokens, answer.truncated) for answer in found] == [(3, False)] * 3
    assert not any(END in answer.text for answer in found)


def test_an_answer_that_ends_with_the_last_token_allowed_is_not_truncated(
    model: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer
) -> None:
    for limit, truncated in ((4, False), (3, True)):
        hook = with_end_logit(model, tokenizer, 1e4)
        try:
            found = sample(model, tokenizer, CHATS[:2], SEEDS[:2], limit)
        finally:
            hook.remove()
        assert [(answer.n_tokens, answer.truncated) for answer in found] == [(3, truncated)] * 2


def test_an_answer_without_end_is_cut_and_says_so(model: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer) -> None:
    hook = with_end_logit(model, tokenizer, -1e4)
    try:
        found = sample(model, tokenizer, CHATS[:3], SEEDS[:3], 7)
    finally:
        hook.remove()
    assert [(answer.n_tokens, answer.truncated) for answer in found] == [(7, True)] * 3


def test_sampling_leaves_the_model_and_the_global_generator_as_they_were(
    model: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer
) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    for training in (True, False):
        model.train(training)
        sample(model, tokenizer, CHATS[:2], SEEDS[:2], 4)
        assert model.training is training
    assert torch.equal(torch.get_rng_state(), state)
    model.eval()


def test_no_prompts_no_answers(model: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer) -> None:
    assert sample(model, tokenizer, [], [], 4) == []


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_generation_settings_that_come_with_a_model_do_not_bend_the_draws(
    model: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer, temperature: float
) -> None:
    """Instruct models carry a repetition penalty and top-k; a draw is from the softmax all the same."""
    plain = sample(model, tokenizer, CHATS, SEEDS, 10, temperature=temperature)
    before = model.generation_config
    try:
        model.generation_config = type(before)(
            **before.to_diff_dict() | {"repetition_penalty": 20.0, "top_k": 2, "no_repeat_ngram_size": 2}
        )
        assert sample(model, tokenizer, CHATS, SEEDS, 10, temperature=temperature) == plain
    finally:
        model.generation_config = before
