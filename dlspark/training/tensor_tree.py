"""Nested plain values with tensors in them, as a table of tensors and a JSON value, as storage takes them.

A tensor is replaced by where it went: {"$tensor": "optimizer/state/0.weight/exp_avg"}. So nothing needs
pickle, and what a part of a training keeps may have any shape of dictionaries and lists.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

_MARK = "$tensor"


def split_tensors(value: Any) -> tuple[dict[str, torch.Tensor], Any]:
    """Return the tensors of a nested value, copied to the host, and the rest as a JSON value.

    Args:
        value: dictionaries with text keys, lists and tuples of tensors, text, numbers, booleans and None.

    Returns:
        The tensors by their path, e.g. "optimizer/state/0.weight/exp_avg", and the value in which each tensor
        is replaced by its path. Tuples have become lists.

    Raises:
        TypeError: a key is not text, or a value is none of these.
    """
    tensors: dict[str, torch.Tensor] = {}
    return tensors, _take(value, "", tensors)


def join_tensors(tensors: Mapping[str, torch.Tensor], value: Any) -> Any:
    """Rebuild the nested value of `split_tensors`, with copies of the tensors, which the caller may change.

    Raises:
        KeyError: a tensor is missing.
    """
    if isinstance(value, dict):
        if value.keys() == {_MARK}:
            return tensors[value[_MARK]].clone()
        return {name: join_tensors(tensors, item) for name, item in value.items()}
    if isinstance(value, list):
        return [join_tensors(tensors, item) for item in value]
    return value


def _take(value: Any, path: str, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        tensors[path] = value.detach().to("cpu", copy=True).contiguous()
        return {_MARK: path}
    if isinstance(value, Mapping):
        for name in value:
            if not isinstance(name, str):
                raise TypeError(f"a key of {path or 'the state'} is not text: {name!r}")
        return {name: _take(item, f"{path}/{name}".lstrip("/"), tensors) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_take(item, f"{path}/{index}", tensors) for index, item in enumerate(value)]
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    raise TypeError(f"{path or 'the state'} is neither a tensor nor a JSON value: {type(value).__name__}")
