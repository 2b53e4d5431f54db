"""The files of conf/ and the schema say the same: every file composes, no key is unknown, none is missing."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf
from pydantic import TypeAdapter

import conf
from dlspark.config import schema
from dlspark.config.compose import compose
from dlspark.config.describe import GROUPS, VARIANT_GROUPS
from dlspark.config.schema import Config
from dlspark.help import STAGES

_CONF = Path(conf.__file__).parent
_FILES = sorted(_CONF.rglob("*.yaml"))
_CHOICES = [file for file in _FILES if file.parent != _CONF]
_GROUP_FILES = [file for file in _CHOICES if file.parent.name != "experiment"]
_EXPERIMENTS = sorted((_CONF / "experiment").rglob("*.yaml"))


def _id(file: Path) -> str:
    return file.relative_to(_CONF).as_posix()


def _load(file: Path) -> dict[str, object]:
    values = OmegaConf.to_container(OmegaConf.load(file))
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def test_every_folder_of_conf_is_a_known_group() -> None:
    assert {file.parent.name for file in _CHOICES} == set(GROUPS)
    assert all(file.parent.parent == _CONF for file in _CHOICES), (
        "a file in a folder below a group is never found"
    )
    assert len(_EXPERIMENTS) >= 1


@pytest.mark.parametrize("file", _CHOICES, ids=_id)
def test_every_file_composes_and_validates(file: Path) -> None:
    config = compose([f"{file.parent.name}={file.stem}"])
    if file.parent.name == "experiment":
        assert config.experiment == file.stem


@pytest.mark.parametrize("file", _GROUP_FILES, ids=_id)
def test_a_file_of_a_group_has_exactly_the_keys_of_its_section(file: Path) -> None:
    values = _load(file)
    section = TypeAdapter(getattr(schema, f"{file.parent.name.capitalize()}Config")).validate_python(values)
    assert set(values) == set(type(section).model_fields)


def test_the_root_file_has_the_keys_that_no_group_has() -> None:
    values = _load(_CONF / "config.yaml")
    del values["defaults"]
    sections = set(GROUPS) - {"experiment"}
    assert set(values) == set(Config.model_fields) - sections
    own = (
        "image",
        "transfer",
        "train",
        "regularize",
        "checkpoint",
        "diagnostics",
        "lr_find",
        "views",
        "predict",
        "compare",
    )
    for name in own:
        inner = values[name]
        assert isinstance(inner, dict)
        assert set(inner) == set(type(getattr(Config(), name)).model_fields)


def test_the_files_have_the_defaults_of_the_schema() -> None:
    assert compose([]) == Config()


@pytest.mark.parametrize(
    "file", [file for file in _GROUP_FILES if file.parent.name in VARIANT_GROUPS], ids=_id
)
def test_a_variant_has_the_defaults_of_its_class(file: Path) -> None:
    section = getattr(compose([f"{file.parent.name}={file.stem}"]), file.parent.name)
    defaults = type(section)(name=file.stem).model_dump()
    assert section.model_dump() == defaults


@pytest.mark.parametrize("file", _EXPERIMENTS, ids=_id)
def test_an_experiment_opens_with_the_command_that_runs_it(file: Path) -> None:
    first = file.read_text().splitlines()[0]
    assert first.startswith("# dlspark ")
    stage, *words = first.removeprefix("# dlspark ").split()
    assert stage in STAGES
    assert compose(words).experiment == file.stem


@pytest.mark.parametrize("file", [_CONF / "config.yaml", *_GROUP_FILES], ids=_id)
def test_every_key_has_a_comment(file: Path) -> None:
    body = file.read_text().split("\nsource:", 1)[-1] if file.name == "config.yaml" else file.read_text()
    keys = [
        line
        for line in body.splitlines()
        if ":" in line and not line.lstrip().startswith("#") and not line.endswith(":")
    ]
    assert [line for line in keys if "#" not in line and not line.startswith("name:")] == []
