"""The third door: the Databricks notebook as plain Python, with a stand-in for dbutils and a session."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.e2e.commands import REPOSITORY, run_command

pytestmark = [pytest.mark.e2e, pytest.mark.spark, pytest.mark.timeout(300)]

_DRIVER = """
import runpy, sys
from pyspark.sql import SparkSession

class Widgets:
    def __init__(self, values):
        self.values = values
        self.declared = {}
    def text(self, name, default, label=None):
        self.declared[name] = default
    def dropdown(self, name, default, choices, label=None):
        assert default in choices
        self.declared[name] = default
    def get(self, name):
        assert name in self.declared, f"widget {name} was read and not declared"
        return self.values.get(name, self.declared[name])

class Notebook:
    answer = None
    def exit(self, value):
        Notebook.answer = value

class Dbutils:
    widgets = Widgets(dict(word.split("=", 1) for word in sys.argv[2:]))
    notebook = Notebook()

spark = (SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false")
         .config("spark.driver.host", "127.0.0.1").getOrCreate())
application = spark.sparkContext.applicationId
runpy.run_path(sys.argv[1], init_globals={"dbutils": Dbutils, "spark": spark})
active = SparkSession.getActiveSession().sparkContext.applicationId
assert active == application, "the notebook's session was replaced"
print(Notebook.answer)
spark.stop()
"""


def test_widgets_reach_the_same_pipeline(tmp_path: Path) -> None:
    import json

    (notebook,) = (REPOSITORY / "jobs" / "notebooks").glob("*.py")
    assert notebook.read_text().startswith("# Databricks notebook source")
    script = tmp_path / "driver.py"
    script.write_text(_DRIVER)
    finished = run_command(
        [
            *(sys.executable, str(script), str(notebook)),
            *(
                "stage=full",
                f"overrides=experiment=digits train.epochs=2 run_dir={tmp_path}/run dataset={tmp_path}/data "
                f"tracking.uri=sqlite:///{tmp_path}/mlflow.db cluster.backend=local",
            ),
        ],
        folder=tmp_path,
    )
    assert finished.returncode == 0, finished.stderr
    result = json.loads(finished.stdout.strip().splitlines()[-1])
    assert result["test_accuracy"] > 0.5
    assert result["run_dir"] == f"{tmp_path}/run"
