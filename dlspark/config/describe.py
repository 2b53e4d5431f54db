"""What the keys of the configuration are, in words: for error messages and for --help.

The schema is the only source. Its classes give type, range and default; the sentences under its fields are
read from its source text when help is asked for, since Python keeps no docstrings of attributes.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from dlspark.config.schema import Config
from dlspark.config.section import Section

GROUPS = ("data", "model", "loss", "optimizer", "schedule", "augment", "cluster", "tracking", "experiment")
"""The folders of conf/, each a choice: `model=lenet5`."""

VARIANT_GROUPS = ("model", "loss", "optimizer", "schedule")
"""The groups whose choice decides which keys they have."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Key:
    """One key of the configuration."""

    name: str
    """Dotted, e.g. train.epochs."""
    section: type[BaseModel]
    """The class of the schema that has it."""
    field: FieldInfo

    @property
    def allowed(self) -> str:
        """Its type and range in words."""
        return describe_type(self.field.annotation, self.field.metadata)

    @property
    def is_text(self) -> bool:
        """Tell whether any text is a value of it."""
        kind = self.field.annotation
        return kind is str or (get_origin(kind) in (Union, types.UnionType) and str in get_args(kind))


def list_keys(section: type[BaseModel] = Config, prefix: str = "") -> Iterator[Key]:
    """Yield every key below a section, in the schema's order; one of several variants comes for each."""
    for name, field in section.model_fields.items():
        inner = _sections(field.annotation)
        if not inner:
            yield Key(name=prefix + name, section=section, field=field)
        for part in inner:
            yield from list_keys(part, f"{prefix}{name}.")


def list_choices(group: str) -> list[str]:
    """Return the choices of a group: the names of its files in conf/, sorted."""
    folder = resources.files("conf").joinpath(group)
    return sorted(file.name.removesuffix(".yaml") for file in folder.iterdir() if file.name.endswith(".yaml"))


def describe_type(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    """Say in words which values a type takes, e.g. `whole number >= 1 or null`."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return describe_type(arguments[0], arguments[1:])
    if origin in (Union, types.UnionType):
        return " or ".join("null" if part is types.NoneType else describe_type(part) for part in arguments)
    if origin is Literal:
        return ", ".join(str(choice) for choice in arguments)
    if origin is tuple:
        if len(arguments) == 2 and arguments[1] is Ellipsis:  # noqa: PLR2004 - tuple[X, ...]
            return f"list of {describe_type(arguments[0])}"
        return f"list of {len(arguments)}, each {describe_type(arguments[0])}"
    names = {bool: "true or false", int: "whole number", float: "number", str: "text"}
    name = names.get(annotation, getattr(annotation, "__name__", str(annotation)))
    return " ".join(filter(None, (name, _describe_range(metadata))))


def describe_fields(section: type[BaseModel]) -> dict[str, str]:
    """Return the sentence under each field of a class of the schema, as one line; a field may have none.

    A field that a class has from its base, or sets anew without a sentence, has the sentence of the base.
    """
    base = section.__bases__[0]
    sentences = describe_fields(base) if base not in (Section, BaseModel) else {}
    tree = ast.parse(inspect.getsource(inspect.getmodule(section)))  # type: ignore[arg-type] # a class has one
    classes = {node.name: node.body for node in tree.body if isinstance(node, ast.ClassDef)}
    for field, below in itertools.pairwise(classes[section.__name__]):
        is_text = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and is_text:
            sentences[field.target.id] = " ".join(str(below.value.value).split())  # type: ignore[attr-defined]
    return sentences


def _sections(annotation: Any) -> list[type[BaseModel]]:
    parts = [annotation, *get_args(annotation)]
    return [part for part in parts if isinstance(part, type) and issubclass(part, BaseModel)]


def _describe_range(metadata: Sequence[Any]) -> str:
    bounds: dict[str, Any] = {}
    for item in metadata:
        for rule in item.metadata if isinstance(item, FieldInfo) else (item,):
            bounds |= {name: getattr(rule, name) for name in ("ge", "gt", "le", "lt") if hasattr(rule, name)}
    low, high = bounds.get("ge", bounds.get("gt")), bounds.get("le", bounds.get("lt"))
    if low is not None and high is not None:
        return f"in {'[' if 'ge' in bounds else '('}{low:g}, {high:g}{']' if 'le' in bounds else ')'}"
    if low is not None:
        return f"{'>=' if 'ge' in bounds else '>'} {low:g}"
    return "" if high is None else f"{'<=' if 'le' in bounds else '<'} {high:g}"
