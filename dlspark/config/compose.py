"""From `key=value` words to one valid `Config`: Hydra composes the files of conf/, pydantic validates them.

Hydra only ever sees choices of groups; values are laid over its result, so that they win over an experiment's
file and so that an unknown key is our error with its near matches, not Hydra's. All problems come in one
`ConfigError`. Hydra's global state is left as it was found.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from hydra import compose as compose_groups
from hydra import initialize_config_module
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError
from pydantic_core import ErrorDetails
from yaml import YAMLError

from dlspark.config.describe import GROUPS, VARIANT_GROUPS, list_keys
from dlspark.config.schema import Config
from dlspark.config.words import COMMAND_LINE, Words, parse_words, unknown_key
from dlspark.errors import ConfigError

_log = logging.getLogger(__name__)


def compose(overrides: Sequence[str]) -> Config:
    """Return the configuration that the words ask for.

    Args:
        overrides: words `key=value`; a group of conf/ takes the name of one of its files (`model=lenet5`).

    Raises:
        ConfigError: words that are no `key=value`, unknown keys or choices, wrong types, values out of range,
            rules between keys: all of them, one line each.
    """
    words = parse_words(overrides)
    values, choices = _compose_files(words)
    _imply_one_worker(words, values)
    config = _validate(_lay_over(values, words), choices, words)
    if config is None or words.problems:
        raise _as_one_error(words.problems)
    return config


def resolved_yaml(config: Config) -> str:
    """Return the whole configuration as YAML, the form of `<run_dir>/config.yaml`."""
    return OmegaConf.to_yaml(OmegaConf.create(config.model_dump(mode="json")))


def read_resolved(text: str, where: str) -> Config:
    """Return the configuration that `resolved_yaml` wrote.

    Args:
        text: of the file.
        where: its path or URL, for the message.

    Raises:
        ConfigError: it is not of this version of dlspark, or damaged.
    """
    try:
        return Config.model_validate(OmegaConf.to_container(OmegaConf.create(text)))
    except (ValidationError, OmegaConfBaseException, YAMLError) as error:
        raise ConfigError(
            "the configuration of the run cannot be read",
            got=str(error).splitlines()[0],
            where=where,
            fix="use the version of dlspark that made the run",
        ) from error


def _compose_files(words: Words) -> tuple[DictConfig, dict[str, str | None]]:
    """Return the composed files and, for each group, which file it was."""
    values, choices = _run_hydra(words.choices)
    experiment = words.choices.get("experiment")
    replaced = [group for group in VARIANT_GROUPS if group in words.choices]
    if experiment is None or not replaced:
        return values, choices
    _, own_choices = _run_hydra({"experiment": experiment})
    without, _ = _run_hydra({**words.choices, "experiment": None})
    for group in replaced:
        # What the experiment sets in the section is meant for its own choice (another network's widths,
        # another optimizer's rate): it must not leak into the one that the user chose instead.
        if own_choices[group] != choices[group]:
            _log.info("%s=%s: %s.* of experiment=%s is left out", group, choices[group], group, experiment)
            values[group] = without[group]
    return values, choices


def _run_hydra(choices: Mapping[str, str | None]) -> tuple[DictConfig, dict[str, str | None]]:
    overrides = [
        f"{'experiment@_global_' if group == 'experiment' else group}={choice}"
        for group, choice in choices.items()
        if choice is not None
    ]
    with initialize_config_module("conf", version_base="1.3"):
        values = compose_groups("config", overrides=overrides, return_hydra_config=True)
    made = {key.partition("@")[0]: choice for key, choice in values.hydra.runtime.choices.items()}
    OmegaConf.set_struct(values, False)
    del values["hydra"]
    values["experiment"] = made["experiment"]
    return values, {group: made[group] for group in GROUPS}


def _imply_one_worker(words: Words, values: DictConfig) -> None:
    local = words.values.get("cluster.backend") == "local"
    if local and "cluster.workers" not in words.values and values.cluster.workers != 1:
        _log.info("cluster.workers=1, since cluster.backend=local is one process")
        words.values["cluster.workers"] = 1


def _lay_over(values: DictConfig, words: Words) -> dict[str, Any]:
    """Return plain nested values; one that cannot be resolved (${oc.env:UNSET}) is a problem."""
    sections = {}
    for key in words.values:
        section = key.rpartition(".")[0]
        sections[key] = OmegaConf.select(values, section) if section else values
    for verb in (_put, _resolve):
        for key in list(words.values):
            name = key.rpartition(".")[2]
            try:
                verb(sections[key], name, words.values[key])
            except OmegaConfBaseException as error:
                words.problems.append(ConfigError(f"{key}: {str(error).splitlines()[0]}", where=COMMAND_LINE))
                del sections[key][name]
                del words.values[key]
    composed = OmegaConf.to_container(values, resolve=True)
    assert isinstance(composed, dict)  # noqa: S101 - the root file is a mapping
    return {str(key): value for key, value in composed.items()}


def _put(section: DictConfig, name: str, value: Any) -> None:
    section[name] = value


def _resolve(section: DictConfig, name: str, _: Any) -> None:
    section.get(name)


def _validate(composed: dict[str, Any], choices: Mapping[str, str | None], words: Words) -> Config | None:
    """Validate twice: rules between keys only run once the wrong values are noted and dropped."""
    config: Config | None = None
    details: Sequence[ErrorDetails] = ()
    for _ in range(2):
        try:
            config = Config.model_validate(composed)
            break
        except ValidationError as error:
            details = error.errors(include_url=False)
        noted: list[list[str]] = []
        for detail in details:
            path = _path(detail)
            if path and path in noted:  # a key of several types complains once for each of them
                continue
            noted.append(path)
            problem = _as_problem(detail, path, choices, words)
            if str(problem) not in map(str, words.problems):
                words.problems.append(problem)
            _drop(composed, path)
    return config


def _path(detail: ErrorDetails) -> list[str]:
    """Return where an error is, without variant's name, index in a list and type that was tried."""
    path = [part for part in detail["loc"] if isinstance(part, str)]
    if len(path) > 1 and path[0] in VARIANT_GROUPS:
        del path[1]
    is_of_a_type = ".".join(path[:-1]) in {key.name for key in list_keys()}
    return path[:-1] if is_of_a_type else path


def _drop(composed: dict[str, Any], path: Sequence[str]) -> None:
    if not path:
        return
    section = composed
    for name in path[:-1]:
        section = section.get(name, {})
    section.pop(path[-1], None)


def _as_problem(
    detail: ErrorDetails, path: Sequence[str], choices: Mapping[str, str | None], words: Words
) -> ConfigError:
    key = ".".join(path)
    where = _origin(key, path, choices, words)
    if detail["type"] == "value_error":
        return ConfigError(f"{key}: {detail['ctx']['error']}" if key else str(detail["ctx"]["error"]))
    owners = [known for known in list_keys() if known.name == key]
    if detail["type"] == "extra_forbidden":
        if not owners:
            return unknown_key(key, where=where)
        variants = sorted({str(owner.section.model_fields["name"].default) for owner in owners})
        return ConfigError(
            f"{key}: not a key of {path[0]}={choices[path[0]]}",
            allowed=f"with {path[0]}={' or '.join(variants)}",
            where=where,
        )
    # Literals, ranges and lengths have the right type and a wrong value.
    wrong_type = detail["type"].endswith(("_type", "_parsing", "_from_float"))
    return ConfigError(
        f"{key}: {'wrong type' if wrong_type else 'value not allowed'}",
        got=repr(detail["input"]),
        allowed=owners[0].allowed if owners else detail["msg"],
        where=where,
    )


def _origin(key: str, path: Sequence[str], choices: Mapping[str, str | None], words: Words) -> str:
    """Say who set a key: the command line, the experiment's file, a group's file or the root file."""
    if key in words.values:
        return COMMAND_LINE
    experiment = choices["experiment"]
    if experiment is not None:
        text = resources.files("conf").joinpath("experiment", f"{experiment}.yaml").read_text()
        if OmegaConf.select(OmegaConf.create(text), key) is not None:
            return f"conf/experiment/{experiment}.yaml"
    group = path[0] if path else ""
    return f"conf/{group}/{choices[group]}.yaml" if choices.get(group) else "conf/config.yaml"


def _as_one_error(problems: Sequence[ConfigError]) -> ConfigError:
    if len(problems) == 1:
        return problems[0]
    lines = "".join(f"\n  - {problem}" for problem in problems)
    error = ConfigError(f"the configuration has {len(problems)} problems:{lines}")
    error.args = (str(error).removesuffix("."),)
    return error
