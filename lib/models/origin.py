"""Where a network's first weights come from, and under which licence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
from timm.models import parse_model_name, resolve_model_input_args

from lib.config.recipe import Model
from lib.errors import FlukeError
from lib.files import read_json
from lib.run_folder import run_of_weights

UNKNOWN = "unknown: ask where the weights are from"


def describe_origin(m: Model) -> dict[str, str | None]:
    """Return `weights`, what a new network starts from, and `weights_license`; None for random weights.

    A run's weights have the licence of those that the run started from. timm declares the licence of its own weights; whether the
    images that they were trained on allow a use is another question.
    """
    if m.weights is not None:
        return {"weights": m.weights, "weights_license": _license_of_run(Path(m.weights))}
    if not m.pretrained:
        return {"weights": None, "weights_license": None}
    found = _timm_configuration(m.name)
    return {"weights": found.get("hf_hub_id") or found.get("url") or m.name, "weights_license": found.get("license") or UNKNOWN}


def _license_of_run(path: Path) -> str | None:
    folder = run_of_weights(path)
    if folder is None:
        return UNKNOWN
    try:
        environment = read_json(folder.environment)
    except FlukeError:
        return UNKNOWN
    return environment.get("weights_license", UNKNOWN) if isinstance(environment, dict) else UNKNOWN


def _timm_configuration(name: str) -> dict[str, Any]:
    """Return timm's description of a model's weights, by the place that hf-hub: or local-dir: names or by timm's own list."""
    if parse_model_name(name)[0] is not None:
        return dict(resolve_model_input_args(name)["pretrained_cfg"])
    found = timm.get_pretrained_cfg(name)
    return {} if found is None else found.to_dict()
