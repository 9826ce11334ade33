"""The `judge` table of an experiment: who judges, how often it is asked, how verdicts are combined."""

from __future__ import annotations

import os
import re
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from configs.errors import UserError
from configs.loader import Table

JudgeKind = Literal["gold", "openai", "gold_endpoint"]
PromptName = Literal["pairwise", "paper"]
Disagreement = Literal["tie", "pooled"]

GOLD_MODEL = "gold"
NO_KEY = "none"
OPENAI_URL = "https://api.openai.com/v1"
_ALIAS_FAMILY = re.compile(r"(gpt-|chatgpt-|o\d|claude-|gemini-)", re.IGNORECASE)
_DATED = re.compile(r"\d{4}-\d{2}-\d{2}|20\d{6}|-(\d{4}|0\d{2})(-preview)?$")


class JudgeTable(Table):
    """Keys of `judge:`.

    Attributes:
        kind: `gold_endpoint`: the world's gold behind a local `/v1/chat/completions`, asked over HTTP like any model;
            `openai`: any OpenAI-compatible endpoint; `gold`: the world's gold compared directly.
        model: the model asked by `openai`, with its date; an alias such as `gpt-4o` changes under one's feet.
        base_url: the endpoint of `openai`.
        api_key_env: name of the environment variable with the key; null for an endpoint that wants none.
        prompt: a file of `judge/prompts`, without `.txt`.
        structured: ask the endpoint for a JSON schema (the reply is parsed from its text either way).
        temperature: null sends none, for models that allow none.
        max_tokens: limit of a reply, in tokens; a reply cut there is `truncated` and has no verdict.
        concurrency: requests in flight at once.
        requests_per_minute: the endpoint's limit; null for none.
        timeout_s: seconds until a request counts as lost.
        max_retries: further tries after a failure that may pass (429, 5xx, time-outs, garbage).
        margin: gold judges call a difference of at most this a tie, in gold units (0..1).
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
    structured: bool = False
    temperature: float | None = Field(default=0.0, ge=0.0, le=2.0)
    max_tokens: int = Field(default=1024, ge=1)
    concurrency: int = Field(default=32, ge=1, le=1024)
    requests_per_minute: float | None = Field(default=None, gt=0.0)
    timeout_s: float = Field(default=120.0, gt=0.0)
    max_retries: int = Field(default=6, ge=0, le=20)
    margin: float = Field(default=0.01, ge=0.0, lt=1.0)
    disagreement: Disagreement = "tie"
    resamples: int = Field(default=10_000, ge=100)
    baseline: str = Field(default="untrained", min_length=1)

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
        if self.structured and self.prompt != "pairwise":
            raise ValueError("structured needs the prompt pairwise; the verdict of the prompt paper is a sentence")
        return self

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
_ASKED = ("prompt", "structured", "temperature", "max_tokens")
DECIDING: dict[JudgeKind, tuple[str, ...]] = {
    "gold": (*_ALWAYS, "margin"),
    "gold_endpoint": (*_ALWAYS, *_ASKED, "margin"),
    "openai": (*_ALWAYS, *_ASKED, "model", "base_url"),
}
