"""The words of a command line, `key=value`, as choices of conf/ groups and as values of keys.

Values follow Hydra's override grammar (numbers, true, null, lists, quotes, ${oc.env:HOME}). A key that holds
text takes any text as it stands, so that paths with commas, brackets or an = need no quotes.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from dlspark.config.describe import GROUPS, VARIANT_GROUPS, list_choices, list_keys
from dlspark.errors import ConfigError

COMMAND_LINE = "the command line"


@dataclass(kw_only=True, slots=True)
class Words:
    """What a command line asks for."""

    choices: dict[str, str | None] = field(default_factory=dict)
    """Group -> the file of it that was chosen; only valid ones. `experiment=null` chooses none."""
    values: dict[str, Any] = field(default_factory=dict)
    """Dotted key -> value; the key exists for some choice, the type of the value is not checked yet."""
    problems: list[ConfigError] = field(default_factory=list)


def parse_words(words: Sequence[str]) -> Words:
    """Sort the words into choices, values and problems; of a word given twice the last one holds."""
    parsed = Words()
    keys = {key.name: key for key in list_keys()}
    sections = {name.rsplit(".", 1)[0] for name in keys if "." in name}
    for word in words:
        name, is_pair, text = word.partition("=")
        if not is_pair or not name or not name.replace(".", "").replace("_", "").isalnum():
            parsed.problems.append(ConfigError("not a key=value word", got=repr(word), where=COMMAND_LINE))
            continue
        group = name.removesuffix(".name")
        if name in GROUPS or (group in VARIANT_GROUPS and name == f"{group}.name"):
            _choose(parsed, group, text)
        elif name in keys:
            _set(parsed, name, text, is_text=keys[name].is_text)
        elif name in sections:
            _set_section(parsed, name, text, keys)
        else:
            parsed.problems.append(unknown_key(name, where=f"{COMMAND_LINE} ({word})"))
    return parsed


def unknown_key(name: str, *, where: str) -> ConfigError:
    """Return the error for a key that does not exist, with the nearest ones that do."""
    known = sorted({key.name for key in list_keys()} | set(GROUPS))
    by_tail: dict[str, list[str]] = {}
    for key in known:
        by_tail.setdefault(key.rsplit(".", 1)[-1], []).append(key)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.7)
    for tail in difflib.get_close_matches(name.rsplit(".", 1)[-1], by_tail, n=2, cutoff=0.75):
        near.extend(key for key in by_tail[tail] if key not in near)
    hint = f" (did you mean {' or '.join(near[:3])}?)" if near else ""
    fix = None if near else "`dlspark <stage> --help` lists the keys"
    return ConfigError(f"{name}: unknown key{hint}", where=where, fix=fix)


def _choose(parsed: Words, group: str, text: str) -> None:
    if group == "experiment" and text in ("null", ""):
        parsed.choices[group] = None
        return
    allowed = list_choices(group)
    if text in allowed:
        parsed.choices[group] = text
        return
    near = difflib.get_close_matches(text, allowed, n=1, cutoff=0.5)
    hint = f" (did you mean {group}={near[0]}?)" if near else ""
    parsed.problems.append(
        ConfigError(
            f"{group}: unknown choice{hint}",
            got=repr(text),
            allowed=", ".join(allowed),
            where=f"{COMMAND_LINE} ({group}={text})",
        )
    )


def _set(parsed: Words, name: str, text: str, *, is_text: bool) -> None:
    override = _parse_override(name, text)
    if is_text:
        is_special = override is not None and (override.value() is None or text[:1] in ("'", '"'))
        parsed.values[name] = override.value() if override is not None and is_special else text
    elif override is None or override.is_sweep_override():
        parsed.problems.append(
            ConfigError(
                f"{name}: not a value",
                got=repr(text),
                where=COMMAND_LINE,
                fix=f"write a list as {name}=[1,2] and put text with special characters in quotes",
            )
        )
    else:
        parsed.values[name] = override.value()


def _set_section(parsed: Words, section: str, text: str, keys: Mapping[str, Any]) -> None:
    override = _parse_override(section, text)
    inner = None if override is None else override.value()
    if not isinstance(inner, Mapping):
        some = next(name for name in keys if name.startswith(f"{section}."))
        parsed.problems.append(
            ConfigError(
                f"{section}: is a section",
                got=repr(text),
                where=COMMAND_LINE,
                fix=f"set its keys, as in {some}=<value>",
            )
        )
        return
    for name, value in inner.items():
        if f"{section}.{name}" in keys:
            parsed.values[f"{section}.{name}"] = value
        else:
            parsed.problems.append(unknown_key(f"{section}.{name}", where=COMMAND_LINE))


def _parse_override(name: str, text: str) -> Override | None:
    try:
        return OverridesParser.create().parse_override(f"{name}={text}")
    except HydraException:
        return None
