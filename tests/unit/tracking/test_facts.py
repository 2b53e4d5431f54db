"""What is recorded before a run starts."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from dlspark.tracking import facts
from dlspark.tracking.facts import DatasetFacts, code_tags, config_params, dataset_input, flatten_config


def test_a_configuration_becomes_dotted_keys() -> None:
    config = {"train": {"epochs": 12, "precision": "auto"}, "model": {"hidden": [500, 500]}, "split": None}

    assert dict(flatten_config(config)) == {
        "train.epochs": "12",
        "train.precision": "auto",
        "model.hidden": "[500, 500]",
        "split": "null",
    }


def test_a_value_over_the_limit_is_shortened_and_says_so() -> None:
    (param,) = config_params({"long": "x" * 20_000})

    assert len(param.value) == 6000
    assert param.value.endswith("x…")


def test_the_dataset_is_an_input_with_its_fingerprint_as_digest() -> None:
    made = dataset_input(
        DatasetFacts(
            name="digits",
            url="/data/digits",
            fingerprint="f" * 32,
            num_rows={"train": 8, "val": 1},
            classes=("0", "1"),
            image_shape=(8, 8, 1),
        )
    )

    assert made.dataset.digest == "f" * 32
    assert json.loads(made.dataset.profile) == {"num_rows": 9, "num_rows_train": 8, "num_rows_val": 1}
    assert json.loads(made.dataset.source) == {"uri": "/data/digits"}


def test_the_commit_and_the_dirty_flag_are_those_of_the_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        done = subprocess.run(
            ["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "first")
    monkeypatch.setattr(facts.dlspark, "__file__", str(package / "__init__.py"))

    clean = code_tags()
    (package / "__init__.py").write_text("changed = True\n")
    dirty = code_tags()

    assert clean["mlflow.source.git.commit"] == git("rev-parse", "HEAD")
    assert (clean["dlspark.git_dirty"], dirty["dlspark.git_dirty"]) == ("false", "true")
