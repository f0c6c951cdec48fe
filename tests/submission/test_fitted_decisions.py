"""What a run fitted is read back for its own labels alone."""

from pathlib import Path

import pytest

from lib.errors import FlukeError
from lib.files import write_json
from lib.run_folder import RunFolder
from lib.submission.decisions import read_decisions
from lib.tables.target import SEVERAL_LABELS


def test_thresholds_of_other_labels_are_refused(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    write_json(run.thresholds, {"ant": 0.3, "bee": 0.6})
    assert read_decisions(run, ("bee", "ant"), SEVERAL_LABELS).thresholds == {"ant": 0.3, "bee": 0.6}
    for classes in (("ant", "cat"), ("ant",)):
        with pytest.raises(FlukeError, match=f"a probability for each of the {len(classes)} labels"):
            read_decisions(run, classes, SEVERAL_LABELS)
