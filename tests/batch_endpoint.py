"""A Batch API on this machine, as far as the judge uses it: files, batches, their results, and how they go wrong."""

from __future__ import annotations

import json
import re
from typing import Any

from judge.asking.local_endpoint import Answer, Call, completion


class BatchEndpoint:
    """Keeps files and batches; a batch is done after `polls` looks at it.

    Attributes:
        polls: looks until a batch is `ends_as`.
        outcome: custom_id, body -> status code and body of one request's result; None for no result.
        lose_create: so many answers to `POST /batches` are lost after the batch was made.
        paid: how often each request's text was answered.
    """

    def __init__(self, polls: int = 2) -> None:
        self.polls, self.ends_as, self.lose_create = polls, "completed", 0
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.looks: dict[str, int] = {}
        self.paid: dict[str, int] = {}
        self.calls: list[str] = []
        self.errors: list[dict[str, Any]] = []

    def outcome(self, text: str) -> tuple[int, Any] | None:
        return 200, json.loads(completion(f"reply to {text}"))

    def __call__(self, call: Call) -> Answer | None:
        self.calls.append(f"{call.method} {call.path}")
        path = call.path.split("?")[0].removeprefix("/v1")
        if call.headers.get("authorization") != "Bearer sk-0123456789":
            return Answer(b'{"error": {"message": "wrong key"}}', 401)
        if path == "/files":
            name = f"file-{len(self.files)}"
            self.files[name] = _uploaded(call)
            return _json(
                {"id": name, "object": "file", "purpose": "batch", "bytes": 1, "created_at": 0, "filename": "f"}
            )
        if path == "/batches" and call.method == "POST":
            batch = self._create(json.loads(call.body))
            if self.lose_create:
                self.lose_create -= 1
                return None
            return _json(batch)
        if path == "/batches":
            return _json({"object": "list", "data": list(self.batches.values())[::-1], "has_more": False})
        if found := re.fullmatch(r"/batches/([^/]+)", path):
            return _json(self._look(found[1]))
        if found := re.fullmatch(r"/files/([^/]+)/content", path):
            return Answer(self.files[found[1]], headers={"content-type": "application/jsonl"})
        return Answer(b"{}", 404)

    def _create(self, asked: dict[str, Any]) -> dict[str, Any]:
        assert asked["endpoint"] == "/v1/chat/completions" and asked["completion_window"] == "24h"
        name = f"batch-{len(self.batches)}"
        self.batches[name] = {
            "id": name,
            "object": "batch",
            "endpoint": asked["endpoint"],
            "completion_window": "24h",
            "created_at": 0,
            "status": "validating",
            "input_file_id": asked["input_file_id"],
            "metadata": asked.get("metadata"),
        }
        return self.batches[name]

    def _look(self, name: str) -> dict[str, Any]:
        batch = self.batches[name]
        self.looks[name] = self.looks.get(name, 0) + 1
        batch["status"] = "in_progress"
        if self.looks[name] < self.polls:
            return batch
        if batch["status"] != self.ends_as and "output_file_id" not in batch and self.ends_as != "failed":
            self._finish(batch)
        if self.ends_as == "failed":
            batch["errors"] = {"object": "list", "data": self.errors}
        batch["status"] = self.ends_as
        return batch

    def _finish(self, batch: dict[str, Any]) -> None:
        good, bad = [], []
        for line in self.files[batch["input_file_id"]].decode().splitlines():
            asked = json.loads(line)
            text = asked["body"]["messages"][0]["content"]
            outcome = self.outcome(text)
            if outcome is None:
                continue
            status, body = outcome
            self.paid[text] = self.paid.get(text, 0) + (status == 200)
            record = {"custom_id": asked["custom_id"], "response": {"status_code": status, "body": body}, "error": None}
            (good if status == 200 else bad).append(json.dumps(record))
        batch["request_counts"] = {"total": len(good) + len(bad), "completed": len(good), "failed": len(bad)}
        for field, lines in (("output_file_id", good), ("error_file_id", bad)):
            if lines:
                batch[field] = f"file-{len(self.files)}"
                self.files[batch[field]] = "\n".join(lines).encode() + b"\n"


def _uploaded(call: Call) -> bytes:
    """The file in a multipart form."""
    boundary = re.search(r"boundary=\"?([^\";]+)", call.headers["content-type"])
    assert boundary is not None
    parts = call.body.split(f"--{boundary[1]}".encode())
    (part,) = [part for part in parts if b"filename=" in part.split(b"\r\n\r\n")[0]]
    return part.split(b"\r\n\r\n", 1)[1].removesuffix(b"\r\n")


def _json(record: Any) -> Answer:
    return Answer(json.dumps(record).encode())
