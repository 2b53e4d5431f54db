"""The thin doors stay thin, and the bundle names what the wheel has."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from dlspark.config.compose import compose
from dlspark.help import STAGES

_REPOSITORY = Path(__file__).resolve().parents[2]
_JOBS = sorted((_REPOSITORY / "jobs").glob("*.py"))


def test_the_stages_of_a_cluster_have_a_job() -> None:
    assert {job.stem for job in _JOBS} == {"ingest", "train", "evaluate", "predict", "full"}


@pytest.mark.parametrize("job", _JOBS, ids=lambda job: job.name)
def test_a_job_is_a_thin_door_to_its_stage(job: Path) -> None:
    text = job.read_text()
    assert len(text.splitlines()) <= 20
    assert f'main(["{job.stem}", *sys.argv[1:]])' in text


def test_every_stage_is_a_pipeline() -> None:
    for stage in STAGES:
        assert (_REPOSITORY / "pipelines" / f"{stage.replace('-', '_')}.py").is_file()


def test_notebooks_are_in_databricks_format() -> None:
    notebooks = list((_REPOSITORY / "jobs" / "notebooks").glob("*.py"))
    assert notebooks
    for notebook in notebooks:
        text = notebook.read_text()
        assert text.startswith("# Databricks notebook source\n")
        assert "# COMMAND ----------" in text
        assert "run_stage(" in text


def test_the_tasks_of_the_bundle_compose(tmp_path: Path) -> None:
    bundle = OmegaConf.to_container(
        OmegaConf.create((_REPOSITORY / "jobs/databricks/databricks.yml").read_text())
    )
    assert isinstance(bundle, dict)
    assert {"dev", "prod"} <= set(bundle["targets"])
    assert "host" not in str(bundle["targets"])
    scripts = tomllib.loads((_REPOSITORY / "pyproject.toml").read_text())["project"]["scripts"]
    tasks = bundle["resources"]["jobs"]["dlspark"]["tasks"]
    assert tasks
    for task in tasks:
        wheel_task = task["python_wheel_task"]
        assert wheel_task["package_name"] == "dlspark"
        assert wheel_task["entry_point"] in scripts
        stage, *words = (
            re.sub(r"\$\{var\.(workers|epochs)\}", "2", word) for word in wheel_task["parameters"]
        )
        assert stage in STAGES
        compose([re.sub(r"\$\{var\.\w+\}|\{\{.*?\}\}", "x", word) for word in words])
