"""Answers in the forms that other programs take."""

import pandas as pd
import pytest

from lib.errors import FlukeError
from lib.retrieval.exports import capture_history, fill_individuals


def test_a_capture_history_has_a_row_for_each_encounter():
    found = capture_history(["e2", "e1", "e2", "e3", "e1"], ["b", "a", "a", None, "a"])
    assert found.index.tolist() == ["e2", "e1", "e3"]
    assert found.columns.tolist() == ["a", "b"]
    assert found.to_numpy().tolist() == [[1, 1], [1, 0], [0, 0]]


def package(folder, observations=None, media=None):
    media = media or {"mediaID": ["m1", "m2", "m3", "m4"], "filePath": ["x/1.jpg", "http://s/2.jpg", "y/3.jpg", "z/3.jpg"]}
    observations = observations or {
        "observationID": ["o1", "o2", "o3", "o4", "o5", "o6"],
        "mediaID": ["m1", "m2", "m3", "", "m1", "m4"],
        "observationType": ["animal", "animal", "animal", "animal", "human", "animal"],
        "individualID": ["", "known", "", "", "", ""],
    }
    pd.DataFrame(media).to_csv(folder / "media.csv", index=False)
    pd.DataFrame(observations).to_csv(folder / "observations.csv", index=False)


def test_camtrap_observations_get_the_individuals_of_their_media(tmp_path):
    package(tmp_path)
    found, count = fill_individuals(tmp_path, {"1.jpg": "Luna", "2.jpg": "Rex", "3.jpg": "one of two", "z/3.jpg": "Tom"})
    assert found["individualID"].tolist() == ["Luna", "known", "", "", "", "Tom"]
    assert count == 2
    assert found.columns.tolist() == ["observationID", "mediaID", "observationType", "individualID"]
    package(tmp_path, {"mediaID": ["m1"], "eventStart": ["2026-01-01T00:00:00Z"]})
    assert fill_individuals(tmp_path, {"x/1.jpg": "Luna"})[0].to_dict("list")["individualID"] == ["Luna"]


def test_a_folder_that_is_no_package_is_refused(tmp_path):
    with pytest.raises(FlukeError, match="observations.csv: can't be read"):
        fill_individuals(tmp_path, {})
    package(tmp_path, media={"mediaID": ["m1"]})
    with pytest.raises(FlukeError, match="media.csv: has no column filePath"):
        fill_individuals(tmp_path, {})
