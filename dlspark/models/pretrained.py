"""Weights that were made elsewhere: read from a file, and matched with a network by names and shapes.

A file is parsed only, never run: safetensors, or torch's own format by its unpickler that knows tensors and
containers and refuses the rest. All tensors must fit; only the head may be another one, since its outputs are
the classes.
"""

from __future__ import annotations

import io
import logging
import pickle
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import urlsplit

import torch
from safetensors.torch import load as load_tensors
from torch import nn

from dlspark import storage
from dlspark.errors import ModelError
from dlspark.models.blocks import blocks_of

_log = logging.getLogger(__name__)

SUFFIXES = (".safetensors", ".pt", ".pth")
_NESTED = ("state_dict", "model_state_dict", "model")
"""Where training scripts put the weights beside the state of the optimizer."""
_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")
"""Heads of torchvision's published googlenet and inception_v3 that are for their training only."""
_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")
"""torchvision's published densenets have norm.1 where the network has norm1."""
_REFUSED = re.compile(r"GLOBAL (?P<name>[\w.]+)")
"""A function or class, in the message of torch's unpickler."""
_NUM_SHOWN = 5
_NUM_MAP_AXES = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class MatchedWeights:
    """The weights that a network takes over."""

    tensors: Mapping[str, torch.Tensor]
    """By name in the network, in its dtypes, in host memory, contiguous."""
    head: str
    """Name of the layer that gives the logits."""
    why_drawn: str | None
    """Why the head is not taken over; None: it is."""


def is_weights_file(url: str) -> bool:
    """Tell by its ending whether a path or URL is that of a file of weights."""
    return _suffix(url) in SUFFIXES


def read_weights_file(url: str) -> dict[str, torch.Tensor]:
    """Read a state dict; no code in the file is run.

    Args:
        url: path or URL of a .safetensors, .pt or .pth file. One with more in it than weights is understood
            where they are under "state_dict", "model_state_dict" or "model".

    Returns:
        The tensors by name, on the CPU.

    Raises:
        ModelError: there is no such file, it holds more than plain values and tensors, or no state dict.
    """
    if not is_weights_file(url):
        raise ModelError("not a file of weights by its ending", allowed=", ".join(SUFFIXES), where=url)
    data = _read(url)
    try:
        loaded = (
            load_tensors(data)
            if _suffix(url) == ".safetensors"
            else torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        )
    except pickle.UnpicklingError as error:
        raise ModelError(
            "the file of weights is not opened: it holds code or objects, or is not of torch's format",
            got=_refusal(error),
            allowed="tensors in dictionaries and lists",
            where=url,
            fix="save the weights alone: torch.save(model.state_dict(), file), or safetensors",
        ) from error
    except Exception as error:
        raise ModelError(
            "the file of weights is damaged, or of another format than its name says",
            got=f"{type(error).__name__}: {_line(error)}",
            allowed=", ".join(SUFFIXES),
            where=url,
        ) from error
    for key in _NESTED:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            _log.info("%s: the weights are those under %r", url, key)
            loaded = loaded[key]
    tensors = dict(loaded) if isinstance(loaded, Mapping) else {}
    others = [
        name
        for name, value in tensors.items()
        if not (isinstance(name, str) and isinstance(value, torch.Tensor))
    ]
    if others or not tensors:
        raise ModelError(
            "the file holds no state dict",
            got=f"something else at {others[0]!r}" if others else type(loaded).__name__,
            allowed="tensors by the names of the network's parameters",
            where=url,
            fix="save the weights alone: torch.save(model.state_dict(), file), or safetensors",
        )
    return tensors


def match_weights(
    network: nn.Module, tensors: Mapping[str, torch.Tensor], *, same_classes: bool, where: str
) -> MatchedWeights:
    """Match weights with a network; all must fit but the head, which another number of classes replaces.

    Args:
        network: its tensors may be on the device "meta".
        tensors: by name, on the CPU.
        same_classes: False: the head is for other classes, even if it would fit.
        where: the weights come from, for the message.

    Raises:
        ModelError: tensors are missing, unexpected, or of another shape or kind; the first are named.
    """
    wanted = network.state_dict()
    given = _in_our_names(tensors, wanted)
    head = blocks_of(network)[-1]
    why_drawn = _why_drawn(given, wanted, head.parameters, same_classes=same_classes)
    if why_drawn is not None:
        wanted, given = (
            {name: tensor for name, tensor in found.items() if name not in head.parameters}
            for found in (wanted, given)
        )
    _require_channels(given, wanted, where)
    problems = list(_problems(given, wanted))
    if problems:
        more = f"; and {len(problems) - _NUM_SHOWN} more" if len(problems) > _NUM_SHOWN else ""
        raise ModelError(
            "the weights are not those of the network",
            got="; ".join(problems[:_NUM_SHOWN]) + more,
            allowed=f"the network's {len(wanted)} tensors; only the head {head.name} may have other outputs",
            where=where,
            fix="choose the model and the options of it (model.stem, ...) that the weights were made with",
        )
    taken = {
        name: tensor.detach().to(wanted[name].dtype, copy=True).contiguous() for name, tensor in given.items()
    }
    return MatchedWeights(tensors=taken, head=head.name, why_drawn=why_drawn)


def _suffix(url: str) -> str:
    path = urlsplit(url).path if "://" in url else url
    return PurePosixPath(path).suffix.lower()


def _read(url: str) -> bytes:
    try:
        return storage.read_bytes(url)
    except Exception as error:
        raise ModelError(
            "the file of weights cannot be read",
            got=f"{type(error).__name__}: {_line(error)}",
            where=url,
            fix="correct transfer.weights, or download the file and name its path",
        ) from error


def _refusal(error: pickle.UnpicklingError) -> str:
    """Return what torch refused, without its advice to allow it."""
    found = _REFUSED.search(str(error))
    return found["name"] if found else _line(error)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _in_our_names(
    tensors: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    if all(name.startswith("module.") for name in tensors):  # of a network wrapped by DistributedDataParallel
        tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    renamed = {_OLD_DENSENET.sub(r"\1\2", name): tensor for name, tensor in tensors.items()}
    left_out = [name for name in renamed if name.startswith(_AUXILIARY) and name not in wanted]
    if left_out:
        _log.info("%d tensors of auxiliary heads (%s, ...) are left out", len(left_out), left_out[0])
    return {name: tensor for name, tensor in renamed.items() if name not in left_out}


def _why_drawn(
    given: Mapping[str, torch.Tensor],
    wanted: Mapping[str, torch.Tensor],
    head: tuple[str, ...],
    *,
    same_classes: bool,
) -> str | None:
    """Return why the head cannot be taken over; None: it can, or what is wrong is not the classes."""
    found = [name for name in head if name in given]
    if not found:
        return "there is none"
    if len(found) < len(head) or any(given[name].shape[1:] != wanted[name].shape[1:] for name in head):
        return None
    there, here = given[head[0]].shape[0], wanted[head[0]].shape[0]
    if there != here:
        return f"it is for {there} classes, not {here}"
    return None if same_classes else "its classes are other ones"


def _require_channels(
    given: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor], where: str
) -> None:
    """Refuse a first convolution that is right but for the channels of the image."""
    first = next((name for name, tensor in wanted.items() if tensor.ndim == _NUM_MAP_AXES), None)
    if first is None or first not in given or given[first].ndim != _NUM_MAP_AXES:
        return
    there, here = list(given[first].shape), list(wanted[first].shape)
    if there[1] != here[1] and there[2:] == here[2:] and there[0] == here[0]:
        raise ModelError(
            "the weights are for images with another number of channels",
            got=f"{there[1]} in {first}",
            allowed=f"{here[1]}, as the dataset has",
            where=where,
            fix=f"ingest with image.channels={there[1]}, or choose other weights",
        )


def _problems(given: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> Iterator[str]:
    for name, tensor in wanted.items():
        found = given.get(name)
        if found is None:
            # Counted since torch 0.4.1 only, and not used: published files are older.
            if not name.endswith(".num_batches_tracked"):
                yield f"{name} is missing"
        elif found.shape != tensor.shape:
            yield f"{name} has the shape {list(found.shape)} instead of {list(tensor.shape)}"
        elif found.is_floating_point() != tensor.is_floating_point() or found.is_quantized:
            yield f"{name} is of {found.dtype} instead of {tensor.dtype}"
    yield from (f"{name} is unexpected" for name in given if name not in wanted)
