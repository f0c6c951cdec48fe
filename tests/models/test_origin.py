"""The licence of the weights that a run starts from."""

import json
from pathlib import Path

import pytest

from lib.config.recipe import Model
from lib.models.origin import UNKNOWN, describe_origin


def test_timm_declares_the_licence_of_its_weights() -> None:
    import timm

    found = describe_origin(Model(name="resnet18"))
    assert found == {"weights": "timm/resnet18.a1_in1k", "weights_license": timm.get_pretrained_cfg("resnet18").license}
    restricted = next(name for name in timm.list_pretrained() if "nc" in str(timm.get_pretrained_cfg(name).license))
    assert "nc" in str(describe_origin(Model(name=restricted))["weights_license"])  # a non-commercial one is not hidden


def test_random_weights_need_no_licence() -> None:
    assert describe_origin(Model(pretrained=False)) == {"weights": None, "weights_license": None}


@pytest.mark.parametrize("license_of_run", ["cc-by-nc-4.0", None])
def test_weights_of_a_run_keep_their_licence(tmp_path: Path, license_of_run: str | None) -> None:
    (tmp_path / "best").mkdir()
    weights = tmp_path / "best" / "model.safetensors"
    (tmp_path / "environment.json").write_text(json.dumps({"weights_license": license_of_run}))
    assert describe_origin(Model(weights=str(weights))) == {"weights": str(weights), "weights_license": license_of_run}
    assert describe_origin(Model(weights=str(tmp_path / "other.pth")))["weights_license"] == UNKNOWN
