"""The borders between rooms: who may import whom, and what an import may load."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

_REPOSITORY = Path(__file__).resolve().parents[2]
_HEAVY = ("torch", "pyspark", "horovod", "petastorm", "mlflow")


def test_import_contracts_hold() -> None:
    finished = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"],
        cwd=_REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert ", 0 broken" in finished.stdout
    for room in ("layers", "horovod", "petastorm", "mlflow", "pyspark"):
        assert room in finished.stdout, f"the contract about {room} is gone"


@pytest.mark.parametrize(
    ("modules", "forbidden"),
    [
        (
            "dlspark, dlspark.config, dlspark.config.compose, dlspark.cli, dlspark.storage",
            _HEAVY,
        ),
        ("dlspark.cluster.launch, dlspark.cluster.session, dlspark.cluster.preflight", _HEAVY),
        ("dlspark.data.ingest", ("torch", "horovod", "mlflow")),
        ("dlspark.tracking.journal", ("mlflow", "pyspark")),
    ],
)
def test_an_import_loads_nothing_heavy_that_is_not_its_own(modules: str, forbidden: tuple[str, ...]) -> None:
    code = f"import sys, {modules}; print(*(name for name in {forbidden!r} if name in sys.modules))"
    finished = subprocess.run(
        [sys.executable, "-c", code], cwd=_REPOSITORY, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.split() == []


def test_an_import_of_the_command_line_has_no_effect_on_logging() -> None:
    code = "import logging, dlspark.cli; print(len(logging.getLogger().handlers))"
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == "0"
