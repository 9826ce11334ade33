"""Calibrators on disk: what they hold comes back, and a foreign, altered or older one is refused with one line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from calibration.calibrator import CALIBRATOR_FILE, Calibrator
from calibration.compensation import RULES
from calibration.config import CalibrationTable
from calibration.maps import ByDomain, Platt, Temperature
from calibration.measured import Measured
from configs.errors import UserError
from configs.records import write_json
from rm.rung_digest import rung_digest
from rm.units import ScoreUnits
from tasks.records import Response

UNITS = ScoreUnits(centre=2.0, scale=0.5, reference="by hand", n_reference=4)
KNOWN = Measured(centre=0.4, spread=0.1, target_spread=0.3, full_length=20, cut=0.5, rho0=0.25, rho1=0.25)
RESPONSE = Response("Wait. Therefore", "yes", True)


def make_rung(folder: Path, weights: bytes = b"weights", units: ScoreUnits = UNITS) -> Path:
    """A folder with everything that decides logits, as far as a digest can see."""
    folder.mkdir(parents=True)
    write_json(folder / "config.json", {"model_type": "qwen2"})
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "chat_template.jinja").write_text("{{ messages }}", encoding="utf-8")
    units.save(folder)
    return folder


@pytest.mark.parametrize("rule", list(RULES))
def test_what_was_written_is_read_again(tmp_path: Path, rule: Any) -> None:
    table = CalibrationTable(rule=rule, phrases="paper-math", ngram=7, normaliser=11)
    calibrator = Calibrator.build("65", UNITS, table, measured=KNOWN)
    calibrator.save(tmp_path)
    loaded = Calibrator.load(tmp_path)
    assert loaded == calibrator
    assert loaded.reward(-1.5, RESPONSE) == calibrator.reward(-1.5, RESPONSE)


def test_a_map_travels_with_the_record_and_knows_domains(tmp_path: Path) -> None:
    by_domain = ByDomain(
        own={"code": Platt(slope=1.0, intercept=-3.0)}, pooled=Temperature(centre=2.0, temperature=1.0)
    )
    table = CalibrationTable(rule="none", phrases="advice", map="elsewhere/map.json")
    Calibrator.build("65", UNITS, table, by_domain, rung_sha256="0").save(tmp_path)
    loaded = Calibrator.load(tmp_path)
    assert loaded.settings.units == "file"
    rewards = loaded.rewards([3.0, 3.0, 3.0], [RESPONSE] * 3, ["code", "law", None])
    # sigmoid(3 - 3), and sigmoid(3 - 2) from the pooled map
    assert [found.reward for found in rewards] == pytest.approx([0.5, 0.7310585786, 0.7310585786])
    assert loaded.score(3.0, "code") == 0.5


def test_units_and_map_belong_together() -> None:
    with pytest.raises(UserError, match="rung 65: units: platt, and none is there of the maps"):
        Calibrator.build("65", UNITS, CalibrationTable(units="platt"))
    with pytest.raises(UserError, match="rung 65: units: rung, and one is there"):
        Calibrator.build("65", UNITS, CalibrationTable(), Platt(slope=1.0, intercept=0.0))


def test_a_calibrator_is_bound_to_its_rung(tmp_path: Path) -> None:
    own = make_rung(tmp_path / "rung-65")
    calibrator = Calibrator.build("65", UNITS, CalibrationTable(phrases="advice"), rung_sha256=rung_digest(own))
    calibrator.refuse_other_rung(own)
    (own / "card.json").write_text("{}", encoding="utf-8")
    calibrator.refuse_other_rung(own)  # a card decides no logit
    units = ScoreUnits(centre=2.0, scale=0.6, reference="by hand", n_reference=4)
    with pytest.raises(UserError, match="rung-80: this rung has other score units than the calibrator of rung 65"):
        calibrator.refuse_other_rung(make_rung(tmp_path / "rung-80", units=units))
    with pytest.raises(UserError, match="rung-90: this rung has other weights, tokenizer, template or base than"):
        calibrator.refuse_other_rung(make_rung(tmp_path / "rung-90", weights=b"other"))
    (own / "chat_template.jinja").write_text("{{ other }}", encoding="utf-8")
    with pytest.raises(UserError, match="rung-65: this rung has other weights, tokenizer, template or base") as error:
        calibrator.refuse_other_rung(own)
    assert "\n" not in str(error.value)


def test_a_calibrator_without_a_digest_fits_no_rung(tmp_path: Path) -> None:
    calibrator = Calibrator.build("65", UNITS, CalibrationTable(phrases="advice"))
    with pytest.raises(UserError, match="run the calibration again"):
        calibrator.refuse_other_rung(make_rung(tmp_path / "rung-65"))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"format": 1},
            "format 1 is not the one that this version reads, 2, which is bound to its rung by hash; delete",
        ),
        ({"format": None}, "format None is not the one that this version reads"),
        ({"rung": 65}, "rung must be a text, found 65"),
        ({"units": {"centre": 0.0}}, "not a calibrator"),
        (
            {"units": {"centre": 0.0, "scale": -1.0, "reference": "", "n_reference": 1}},
            "score units need a finite centre",
        ),
        ({"units": {"centre": None, "scale": 1.0, "reference": "", "n_reference": 1}}, "not a calibrator"),
        ({"settings": {"rule": "other"}}, "not a calibrator (rule: "),
        ({"settings": None}, "not a calibrator"),
        ({"measured": {"mean": 1.0}}, "not a calibrator"),
        ({"map": {"kind": "platt", "slope": -1.0, "intercept": 0.0}}, "not a map from logits to scores"),
        ({"phrase_set": {}}, "not a phrase set"),
        ({"phrase_set_sha256": "0"}, "its phrases were altered since it was written"),
        ({"rung_sha256": "0"}, "altered since it was written (its SHA-256 is another)"),
        ({"rung": "80"}, "altered since it was written"),
        ({"measured": {"rho0": 0.1, "rho1": 0.1, "cut": 0.5}}, "altered since it was written"),
        ({"sha256": "0"}, "altered since it was written"),
        ({"extra": 1}, "not a calibrator; its keys are format, rung"),
    ],
)
def test_garbage_is_refused(tmp_path: Path, change: dict[str, Any], sentence: str) -> None:
    Calibrator.build("65", UNITS, CalibrationTable(phrases="advice")).save(tmp_path)
    path = tmp_path / CALIBRATOR_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | change), encoding="utf-8")
    with pytest.raises(UserError, match=re.escape(sentence)) as error:
        Calibrator.load(tmp_path)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)
    path.write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match="not readable as JSON"):
        Calibrator.load(tmp_path)


def test_an_altered_threshold_is_seen(tmp_path: Path) -> None:
    Calibrator.build("65", UNITS, CalibrationTable(phrases="advice")).save(tmp_path)
    path = tmp_path / CALIBRATOR_FILE
    path.write_text(path.read_text().replace('"threshold": 0.5', '"threshold": 0.9'), encoding="utf-8")
    with pytest.raises(UserError, match="altered since it was written"):
        Calibrator.load(tmp_path)
