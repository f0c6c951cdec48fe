"""What tests share: the contest data beside the repository, where it is there, and a tiny contest of our own."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import settings
from PIL import Image

ROOT = Path(__file__).parents[1]

# The same examples in every run, so that a change is judged by what it changed; --hypothesis-profile=default draws new ones.
settings.register_profile("same", derandomize=True)
settings.load_profile("same")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest tests first: at the end, one of several processes would work on one of them while the others wait."""
    items.sort(key=lambda item: item.path.name != "test_documents.py" or item.get_closest_marker("slow") is None)


@pytest.fixture(scope="session")
def shared() -> Path:
    """../shared, real contests in their contests' formats; tests that need it are skipped where it is absent."""
    path = ROOT.parent / "shared"
    if not path.is_dir():
        pytest.skip("../shared is not here")
    return path


def paint(folder: Path, labels: list[str], seed: int) -> list[str]:
    """One 24 px PNG a label into `folder`, a noisy patch whose hue is the label's; returns their names."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    hues = {label: np.random.default_rng(sum(map(ord, label))).integers(40, 216, 3) for label in labels}
    names = []
    for i, label in enumerate(labels):
        pixels = np.clip(hues[label] + rng.normal(0, 60, (24, 24, 3)), 0, 255).astype(np.uint8)
        names.append(f"{seed}_{i:03d}.png")
        Image.fromarray(pixels).save(folder / names[-1])
    return names


@pytest.fixture(scope="session")
def contest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 training and 13 test images of four classes, one of them rare, with a sample submission."""
    root = tmp_path_factory.mktemp("contest")
    labels = ["ant", "bee", "cat", "bee"] * 11 + ["01"] * 4
    test = ["ant", "bee", "cat"] * 4 + ["01"]
    names, test_names = paint(root / "images", labels, 1), paint(root / "images", test, 2)
    pd.DataFrame({"image": names, "label": labels}).to_csv(root / "train.csv", index=False)
    pd.DataFrame({"image": test_names[::-1], "label": ["ant"] * 13}).to_csv(root / "sample_submission.csv", index=False)
    return root


@pytest.fixture(scope="session")
def arguments(contest: Path) -> Callable[..., list[str]]:
    """Command-line arguments of a run on the tiny contest: arguments(out, train_epochs=3, ...), with '_' for the first dot."""

    def make(out: Path, **fields: object) -> list[str]:
        values: dict[str, object] = {
            "data_root": contest,
            "data_image_dir": "images",
            "data_sample_submission": "sample_submission.csv",
            "data_size": 32,
            "data_workers": 0,
            "folds_holdout": 12,
            "model_name": "test_resnet",
            "model_pretrained": False,
            "train_epochs": 2,
            "train_batch_size": 8,
            "train_log_with": "[]",
        }
        found = ["--out", str(out)]
        for name, value in (values | fields).items():
            section, field = name.split("_", 1)
            found += [f"--{section}.{field}", str(value).lower() if isinstance(value, bool) else str(value)]
        return found

    return make


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs draw no figures, which cost more than the training of the tiny contest."""
    monkeypatch.setattr("lib.pipelines.run_result.write_run_page", lambda *_: None)


@pytest.fixture
def killed_in_second_epoch(monkeypatch: pytest.MonkeyPatch) -> Callable[[], AbstractContextManager[None]]:
    """Return a context in which a training ends at its second validation as if it were killed: nothing more is saved."""
    from lib.training.loop import Trainer

    class Killed(BaseException):
        pass

    validate = Trainer.validate

    def killed(trainer: Trainer) -> dict[str, float]:
        if trainer.state.epoch == 1:
            raise Killed
        return validate(trainer)

    @contextmanager
    def context() -> Iterator[None]:
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(Trainer, "validate", killed)
            yield

    return context
