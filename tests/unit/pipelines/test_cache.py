"""dlspark cache: what is kept is listed and removed, but for what is in use."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dlspark.cli import main
from dlspark.data.feature_files import FeatureIndex, store_features, write_index
from dlspark.data.feature_use import features_in_use
from dlspark.errors import ConfigError, DatasetError
from pipelines.cache import CacheCommand, parse, run
from pipelines.feature_cache import FEATURES_FOLDER

_DAY = 86_400


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Features of 10 rows that were used today, and 40 days ago, and some that were never complete."""
    for key, days in (("today", 0.0), ("old", 40.0)):
        folder = str(tmp_path / FEATURES_FOLDER / key)
        ids = np.arange(10, dtype=np.int64)
        features = np.ones((10, 4), dtype=np.float32)
        entry = store_features(folder, ("train", 0), row_ids=ids, labels=ids, features=features)
        used = time.time() - days * _DAY
        write_index(folder, FeatureIndex(num_features=4, files={("train", 0): entry}, used=used))
    broken = tmp_path / FEATURES_FOLDER / "broken" / "split=train"
    broken.mkdir(parents=True)
    (broken / "part").write_bytes(b"half")
    return tmp_path


def _names(values: list[dict[str, Any]]) -> list[str]:
    return [Path(one["folder"]).name for one in values]


def test_all_is_listed(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "ls", str(runs)]) == 0
    output = capsys.readouterr()
    result = json.loads(output.out)
    assert result["removed"] == []
    assert _names(result["kept"]) == ["broken", "old", "today"]
    broken, old, today = result["kept"]
    assert (broken["rows"], broken["unused_days"]) == (0, None)
    assert old["unused_days"] == pytest.approx(40, abs=0.01)
    assert (today["rows"], today["num_features"], today["in_use"]) == (10, 4, False)
    assert today["num_bytes"] > 10 * 4 * 4
    assert "10 rows of 4 features" in output.err
    assert "broken: not complete" in output.err


@pytest.mark.parametrize(
    ("words", "kept"),
    [([], ["today"]), (["unused_days=0"], []), (["unused_days=50"], ["old", "today"])],
)
def test_what_is_old_is_removed(
    runs: Path, words: list[str], kept: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cache", "gc", str(runs), *words]) == 0
    result = json.loads(capsys.readouterr().out)
    assert _names(result["kept"]) == kept
    assert set(_names(result["removed"])) == {"broken", "old", "today"} - set(kept)
    assert sorted(path.name for path in (runs / FEATURES_FOLDER).iterdir()) == kept


def test_what_a_training_uses_stays(runs: Path) -> None:
    with features_in_use(str(runs / FEATURES_FOLDER / "old")):
        result = run(CacheCommand(verb="gc", path=str(runs), unused_days=0))
        assert [(Path(one.folder).name, one.in_use) for one in result.kept] == [("old", True)]
    assert (runs / FEATURES_FOLDER / "old" / "split=train").is_dir()


def test_a_folder_without_features_has_none_and_a_missing_one_is_an_error(tmp_path: Path) -> None:
    assert run(parse(["ls", str(tmp_path)])).to_json() == {"kept": (), "removed": ()}
    with pytest.raises(DatasetError, match=r"no such folder; got .*/gone"):
        run(parse(["ls", str(tmp_path / "gone")]))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["rm", "a"], "unknown cache command; got 'rm'; allowed: ls, gc"),
        (["ls"], "takes one folder of runs; got none.*dlspark cache ls PATH"),
        (["ls", "a", "unused_days=1"], "unknown key of dlspark cache ls; got unused_days=1; allowed: none"),
        (["gc", "a", "days=1"], "got days=1; allowed: unused_days=N"),
        (["gc", "a", "unused_days=-1"], "not a number of days; got -1; allowed: >= 0"),
        (["gc", "a", "unused_days=nan"], "not a number of days; got nan"),
    ],
)
def test_other_words_are_refused(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(words)


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "--help"]) == 0
    text = capsys.readouterr().out
    assert "ls " in text
    assert "gc " in text
