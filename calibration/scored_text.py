"""Refuses to look for phrases in a reasoning part that responses do not have."""

from __future__ import annotations

from calibration.compensation import RuleName
from configs.errors import UserError
from configs.loader import Experiment

READS_TEXT: frozenset[RuleName] = frozenset({"rpr", "rpr_ordered", "length", "random_phrases", "rpr_only"})


def demand_scored_text(experiment: Experiment, scored_text: str, rule: RuleName) -> None:
    """Refuse `scored_text: think` where a response has no reasoning part, and the rule reads it.

    Raises:
        UserError: the bonus would be 0 for every response.
    """
    plain = experiment.tables.get("tasks", {}).get("response_format") == "plain"
    if plain and scored_text == "think" and rule in READS_TEXT:
        raise UserError(
            f"{experiment.source}: calibration.scored_text is think, and tasks.response_format plain has no reasoning "
            f"part, so rule {rule} would add nothing to any response; set calibration.scored_text=answer, or "
            "tasks.response_format=tagged"
        )
