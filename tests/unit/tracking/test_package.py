"""What a logged model carries: all of dlspark's sources, and the requirements that loading it imports."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import dlspark
from dlspark.tracking.package import copy_package, loading_requirements

_ROOT = Path(dlspark.__file__).parent
_REPOSITORY = _ROOT.parent

_LOADED = """
import importlib.metadata, json, sys
import dlspark.predict.classifier
owners = importlib.metadata.packages_distributions()
print(json.dumps(sorted({owner.lower() for name in list(sys.modules) for owner in owners.get(name, [])})))
"""

_COPY_FROM_ZIP = """
import sys
sys.path.insert(0, sys.argv[1])
import pathlib, dlspark
assert ".zip" in dlspark.__file__, dlspark.__file__
from dlspark.tracking.package import copy_package
copy_package(pathlib.Path(sys.argv[2]))
"""


def _sources(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*.py"))}


def test_the_copy_is_the_package_without_compiled_files(tmp_path: Path) -> None:
    copied = copy_package(tmp_path)

    assert _sources(copied) == _sources(_ROOT)
    assert {file.suffix for file in copied.rglob("*") if file.is_file()} <= {".py", ".typed"}


def test_the_copy_is_the_same_when_dlspark_is_imported_from_a_zip(tmp_path: Path) -> None:
    archive = tmp_path / "dlspark.zip"
    with zipfile.ZipFile(archive, "w") as target:
        for file in _ROOT.rglob("*.py"):
            target.write(file, file.relative_to(_REPOSITORY))
    subprocess.run(
        [sys.executable, "-c", _COPY_FROM_ZIP, str(archive), str(tmp_path / "copy")], check=True, cwd=tmp_path
    )

    assert _sources(tmp_path / "copy" / "dlspark") == _sources(_ROOT)


def test_of_our_dependencies_loading_imports_exactly_the_required_ones() -> None:
    environment = {**os.environ, "PYTHONPATH": str(_REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-c", _LOADED], capture_output=True, text=True, check=True, env=environment
    )
    project = tomllib.loads((_REPOSITORY / "pyproject.toml").read_text())["project"]
    ours = {re.split(r"[=<>\[ ]", line)[0].lower() for line in project["dependencies"]}
    required = {line.partition("==")[0] for line in loading_requirements()}

    # mlflow and pandas are what the script around the classifier imports, torchvision what a ResNet needs.
    assert (set(json.loads(done.stdout)) & ours) | {"mlflow", "pandas", "torchvision"} == required


def test_requirements_are_pinned_to_what_is_installed() -> None:
    numpy = importlib.import_module("numpy")
    assert f"numpy=={numpy.__version__}" in loading_requirements()
