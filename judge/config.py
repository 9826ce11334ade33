"""The `judge` table of an experiment: who judges, how often it is asked, how verdicts are combined."""

from __future__ import annotations

import os
import re
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from configs.errors import UserError
from configs.loader import Table

JudgeKind = Literal["gold", "openai", "gold_endpoint", "rung", "people"]
PromptName = Literal["pairwise", "paper", "graded", "original"]
JSON_PROMPTS = ("pairwise", "graded")
Disagreement = Literal["tie", "pooled"]

GOLD_MODEL = "gold"
NO_KEY = "none"
OPENAI_URL = "https://api.openai.com/v1"
_ALIAS_FAMILY = re.compile(r"(gpt-|chatgpt-|o\d|claude-|gemini-)", re.IGNORECASE)
_DATED = re.compile(r"\d{4}-\d{2}-\d{2}|20\d{6}|-(\d{4}|0\d{2})(-preview)?$")


class NothingAsked(UserError):
    """`judge.ask=false`: what would be asked was said, and nothing was asked."""


class PriceTable(Table):
    """Dollars per million tokens: of prompts (`input`) and of replies (`output`), outside of batches."""

    input: float = Field(ge=0.0)
    output: float = Field(ge=0.0)


class JudgeTable(Table):
    """Keys of `judge:`.

    Attributes:
        kind: `gold_endpoint`: the world's gold behind a local `/v1/chat/completions`, asked over HTTP like any model;
            `openai`: any OpenAI-compatible endpoint; `gold`: the world's gold compared directly; `rung`: a reward
            model's scores compared; `people`: ratings made with `rewardladder rate` or in a spreadsheet.
        model: the model asked by `openai`, with its date; an alias such as `gpt-4o` changes under one's feet.
        base_url: the endpoint of `openai`.
        api_key_env: name of the environment variable with the key; null for an endpoint that wants none.
        prompt: a file of `judge/prompts`, without `.txt`: `pairwise`, `graded` (five levels instead of three) or
            `paper` (the paper's question and its three sentences); or `original`, the paper's prompt word for word,
            from the `prompt_file` that you bring (judge/original_prompt.py). It decides how verdicts are read.
        prompt_file: a text of your own in its place, with the same placeholders and the same form of verdict.
        structured: ask the endpoint for a JSON schema. null: where the prompt's verdict is JSON, and without one where
            the endpoint refuses; true: always; false: never. The verdict is read from the reply's text either way.
        temperature: null sends none, for models that allow none.
        max_tokens: limit of a reply, in tokens; a reply cut there is `truncated` and has no verdict.
        max_tokens_field: what the endpoint calls that limit; newer OpenAI models want `max_completion_tokens`.
        repeats: how often each order is asked; the majority of its readable verdicts is the order's verdict.
        concurrency: requests in flight at once.
        requests_per_minute: the endpoint's limit; null for none.
        tokens_per_minute: likewise, of prompts and the longest replies together; null for none.
        max_cost: dollars that all runs of this experiment may spend on this model together, live and in batches; null
            for no cap.
        price: what the endpoint takes, where `judge/prices.yaml` does not say.
        ask: false shows what would be asked and what it costs, and asks nothing.
        batch: hand the requests in through OpenAI's Batch API, at half the price and within a day; what is under way
            is collected by running the same command again.
        poll_s: seconds between two looks at a batch.
        timeout_s: seconds until a request counts as lost.
        max_retries: further tries after a failure that may pass (429, 5xx, time-outs, garbage).
        margin: gold and rungs call a difference of at most this a tie, in gold or score units (0..1); 0 for a rung
            where it is not given.
        rung: the folder of the reward model that `rung` compares with.
        min_raters: people have to rate each pair so often; the majority decides, and no majority is a tie.
        disagreement: one pair, two orders, two verdicts: `tie` (a win must hold in both orders) or `pooled` (each order
            counts half, the paper's share of all verdicts).
        resamples: bootstrap resamples.
        baseline: the cell every cell is compared with.
    """

    kind: JudgeKind = "gold_endpoint"
    model: str = Field(default="gpt-4o-2024-11-20", min_length=1)
    base_url: str = OPENAI_URL
    api_key_env: str | None = Field(default="OPENAI_API_KEY", pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    prompt: PromptName = "pairwise"
    prompt_file: str | None = Field(default=None, min_length=1)
    structured: bool | None = None
    temperature: float | None = Field(default=0.0, ge=0.0, le=2.0)
    max_tokens: int = Field(default=1024, ge=1)
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    repeats: int = Field(default=1, ge=1, le=64)
    concurrency: int = Field(default=32, ge=1, le=1024)
    requests_per_minute: float | None = Field(default=None, gt=0.0)
    tokens_per_minute: float | None = Field(default=None, gt=0.0)
    max_cost: float | None = Field(default=None, gt=0.0)
    price: PriceTable | None = None
    ask: bool = True
    batch: bool = False
    poll_s: float = Field(default=30.0, gt=0.0)
    timeout_s: float = Field(default=120.0, gt=0.0)
    max_retries: int = Field(default=6, ge=0, le=20)
    margin: float = Field(default=0.01, ge=0.0, lt=1.0)
    rung: str | None = Field(default=None, min_length=1)
    min_raters: int = Field(default=1, ge=1)
    disagreement: Disagreement = "tie"
    resamples: int = Field(default=10_000, ge=100)
    baseline: str = Field(default="untrained", min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _no_margin_for_a_rung(cls, data: Any) -> Any:
        """A rung's scores may all lie near 0 or 1, where a margin would make every verdict a tie."""
        return {"margin": 0.0, **data} if isinstance(data, dict) and data.get("kind") == "rung" else data

    @model_validator(mode="after")
    def _meaningful(self) -> JudgeTable:
        try:
            url = urlsplit(self.base_url)
            _ = url.port  # reading it is what checks it
        except ValueError:  # whose words may repeat a key
            raise ValueError("base_url is no address; its host or its port (0 to 65535) cannot be read") from None
        if not self.base_url.isprintable() or " " in self.base_url:
            raise ValueError("base_url must hold no blanks")
        if url.scheme not in ("http", "https") or not url.hostname:
            raise ValueError(f"base_url must begin with http:// or https://, found {url.scheme or 'no scheme'}")
        if url.username or url.password or url.query:
            raise ValueError("base_url must hold no key; put it into the environment and name it in api_key_env")
        if self.structured and self.prompt not in JSON_PROMPTS:
            raise ValueError(
                f"structured needs the prompt pairwise or graded; a verdict of the prompt {self.prompt} is no JSON"
            )
        if self.prompt == "original" and (self.prompt_file is None or self.kind != "openai"):
            raise ValueError(
                "prompt original is the paper's own, which is not shipped, and it is for kind openai: say where your "
                "copy is, for example judge.prompt_file=gpt_eval.py"
            )
        if self.repeats > 1 and self.temperature == 0.0:
            raise ValueError("repeats differ only where the judge draws: set temperature above 0, or null")
        if self.batch and self.kind != "openai":
            raise ValueError(f"batch is for kind openai; {self.kind} has no Batch API")
        if (self.kind == "rung") != (self.rung is not None):
            raise ValueError("rung, the folder of a reward model, is needed with kind rung and only there")
        return self

    @property
    def asks_for_json(self) -> bool:
        """Whether requests hold a JSON schema to begin with."""
        return self.prompt in JSON_PROMPTS if self.structured is None else self.structured

    def deciding(self) -> dict[str, Any]:
        """The settings that decide the results, for the stage's fingerprint.

        How fast and how patiently is asked does not enter, nor what this kind of judge never looks at.
        """
        return {key: value for key, value in self.model_dump(mode="json").items() if key in DECIDING[self.kind]}

    def api_key(self) -> str:
        """The key of the endpoint, from the environment; a placeholder where the endpoint wants none.

        Raises:
            UserError: the variable is not set, or holds what no key is.
        """
        if self.api_key_env is None:
            return NO_KEY
        key = os.environ.get(self.api_key_env, "").strip()
        if not key:
            raise UserError(
                f"judge: the environment variable {self.api_key_env} is not set; put the key of {self.base_url} into "
                "it, or say judge.api_key_env=null for an endpoint that wants none"
            )
        if not (key.isascii() and key.isprintable() and " " not in key):
            raise UserError(f"judge: the key in {self.api_key_env} has characters that no key has; put it in again")
        return key

    def alias_warning(self) -> str | None:
        """One line where the model's name has no date, so that its verdicts may change without notice."""
        if self.kind != "openai" or not _ALIAS_FAMILY.match(self.model) or _DATED.search(self.model):
            return None
        return f"warning: judge.model {self.model!r} is an alias that changes without notice; name a dated version"


_ALWAYS = ("kind", "disagreement", "resamples", "baseline")
_ASKED = ("prompt", "structured", "temperature", "max_tokens", "max_tokens_field", "repeats")
DECIDING: dict[JudgeKind, tuple[str, ...]] = {
    "gold": (*_ALWAYS, "margin"),
    "rung": (*_ALWAYS, "margin", "rung"),
    "people": (*_ALWAYS, "min_raters"),
    "gold_endpoint": (*_ALWAYS, *_ASKED, "margin"),
    "openai": (*_ALWAYS, *_ASKED, "model", "base_url"),
}
