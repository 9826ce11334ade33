"""The files that `score` writes, and whether they can be written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from configs.errors import UserError


@dataclass(frozen=True)
class Places:
    """The files of one command: the output, and beside it what is needed until it is finished, and its manifest."""

    output: Path

    @property
    def part(self) -> Path:
        """The windows that are finished."""
        return self.output.with_name(self.output.name + ".part")

    @property
    def progress(self) -> Path:
        """What they were made from, and how far they reach."""
        return self.output.with_name(self.output.name + ".progress.json")

    @property
    def manifest(self) -> Path:
        """What the finished output was made from, its hash and its summary; written last."""
        return self.output.with_name(self.output.name + ".manifest.json")

    def demand_writable(self) -> None:
        """Refuse an output that cannot be written, before any work is done for it.

        Raises:
            UserError: its folder is missing, it is a folder itself, or its file cannot be opened.
        """
        if not self.output.parent.is_dir():
            raise UserError(f"output: {self.output.parent} is no folder; make it first")
        try:
            for place in (self.output, self.part):
                if place.is_dir():
                    raise UserError(f"output: {place} is a folder; name a file")
            new = not self.part.exists()
            with self.part.open("ab"):
                pass
            if new:
                self.part.unlink()
        except OSError as error:
            raise UserError(f"output: {self.output} cannot be written ({error.strerror or error})") from None
