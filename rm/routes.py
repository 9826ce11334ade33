"""Routes to an accuracy. Rungs of one accuracy can still differ in kind; a claim about accuracy has to hold on each.

early_stop    checkpoints of one training
fewer_pairs   trainings on nested subsets of the pairs
label_noise   trainings with a share of the pairs flipped
smaller_base  trainings of weaker backbones: other models, or the lowest layers of the backbone
rescaled      checkpoints of one training whose scores are stretched to one spread (`rm.measures.scale_for_spread`):
              accuracy and spread rise together while a model trains, and this takes the spread out

A route is a list of trainings, its members. Rungs are chosen among the evaluations of all members together.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from configs.errors import UserError
from rm.config import FIELD_OF_ROUTE, ONE_TRAINING, RMTable
from rm.ladder import Evaluation

RouteValue = int | float | str


@dataclass(frozen=True)
class Member:
    """One training of a route.

    Attributes:
        value: of `rm.route_values`; None where the route is one training.
        table: the settings of this training.
        keep_layers: the backbone's lowest layers that are kept; None keeps all.
        folder_name: the name of its scratch folder; empty where the route is one training.
    """

    value: RouteValue | None
    table: RMTable
    keep_layers: int | None = None
    folder_name: str = ""


@dataclass(frozen=True)
class Candidate:
    """An evaluation that may become a rung, and which member it is of."""

    member: int
    evaluation: Evaluation


def members(table: RMTable) -> list[Member]:
    """The trainings of the table's route, in the order of `route_values`."""
    if table.route in ONE_TRAINING:
        return [Member(None, table)]
    found = []
    for i, value in enumerate(table.route_values):
        update: dict[str, object] = {}
        if table.route_checkpoints == "last":
            update |= {"dense_evaluation_steps": 0, "evaluation_every": table.max_steps}
        keep_layers = None
        if table.route in FIELD_OF_ROUTE:
            update[FIELD_OF_ROUTE[table.route]] = value
        elif isinstance(value, str):
            update["model_name_or_path"] = value
        else:
            keep_layers = int(value)
        slug = re.sub(r"[^A-Za-z0-9.]+", "-", str(value)).strip("-.")[-40:]
        found.append(Member(value, table.model_copy(update=update), keep_layers, f"member-{i}-{slug}"))
    return found


def nearest_candidates(evaluations: Sequence[Iterable[Evaluation]], targets: Iterable[int]) -> dict[int, Candidate]:
    """For each target (in percent) the nearest evaluation of any member; of equally near ones the first member's first.

    Args:
        evaluations: of each member.
        targets: wanted accuracies in percent.
    """
    pooled = [Candidate(i, look) for i, looks in enumerate(evaluations) for look in looks]
    return {
        target: min(
            pooled,
            key=lambda c: (abs(100 * c.evaluation["accuracy"] - target), c.member, c.evaluation["step"]),
        )
        for target in targets
        if pooled
    }


def lowest_layers(base: str, layers: int, folder: Path) -> Path:
    """Write a backbone's embedding, its lowest `layers` layers and its last norm into `folder`, as a model of its own.

    Raises:
        UserError: the backbone cannot be loaded, or does not have more layers than that.
    """
    try:
        config = AutoConfig.from_pretrained(base)
    except (OSError, ValueError) as error:
        raise UserError(f"rm.route_values: {base!r} cannot be loaded: {str(error).splitlines()[0]}") from None
    if layers > config.num_hidden_layers:
        raise UserError(
            f"rm.route_values: {layers} layers are to be kept, and {base} has {config.num_hidden_layers} of them"
        )
    config.num_hidden_layers = layers
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:layers]
    model = AutoModelForCausalLM.from_pretrained(base, config=config)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return folder
