"""The layers of a network with their sizes and costs, found by passing one image through it.

The image is zeros on the network's own device; on torch's "meta" device, which has shapes only, the walk
takes no memory and no arithmetic, whatever the network. torch's own counter counts the multiply-adds. What a
network computes outside of its layers (attention, say) is one row of its own, so that the rows sum up.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import ceil, floor
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from dlspark.errors import ModelError
from dlspark.models.arithmetic import lost_pixels, output_size, size_formula

if TYPE_CHECKING:
    from torch.utils.flop_counter import FlopCounterMode

_log = logging.getLogger(__name__)

_BYTES_OF_A_VALUE = 4
_AXES = ("height", "width")
_RESHAPE = (nn.Flatten, nn.Identity, nn.Dropout)
"""Layers that hand their input on in evaluation."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerRow:
    """One layer, on one image."""

    name: str
    """As in the network's state dict; empty for what is computed outside of the layers."""
    kind: str
    """The class of the layer."""
    output: tuple[int, ...] = ()
    """Shape without the batch: (C, H, W) or (units,)."""
    formulas: tuple[str, ...] = ()
    """Convolutions and poolings: (W - F + 2P)/S + 1 spelled out, once if height and width are equal."""
    lost_pixels: tuple[int, int] = (0, 0)
    """Last rows and columns of its input that no filter reaches, since torch takes the floor."""
    parameters: int
    activation_bytes: int = 0
    """Of its output in fp32 at batch 1; 0 where the layer writes over its input or only reshapes it."""
    multiply_adds: int
    """Of matrix products and convolutions at batch 1, biases not counted; one multiply-add is two FLOPs."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is lost, as a sentence; one for each axis where height and width differ."""
        lost = zip(self.lost_pixels, ("rows", "columns"), strict=True)
        parts = [f"{what} ({number})" for number, what in lost if number]
        if len(self.formulas) == 1 and parts:
            parts = [" and ".join(parts)]
        formulas = [text for text, number in zip(self.formulas * 2, self.lost_pixels, strict=False) if number]
        return tuple(
            f"layer {self.name}: output (W - F + 2P)/S + 1 = {formula}: the last {part} of its input are not "
            "used"
            for formula, part in zip(formulas, parts, strict=False)
        )


def describe_layers(
    network: nn.Module, name: str, *, channels: int, height: int, width: int
) -> tuple[LayerRow, ...]:
    """Return the layers in the order in which an image passes them.

    Args:
        network: [b, C, H, W] -> [b, K], with weights; it is left as it was.
        name: of the network, for messages.
        channels: C.
        height: H, pixels.
        width: W, pixels.

    Raises:
        ModelError: a layer does not fit its input; the message has the layer and the numbers.
    """
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    walk = _Walk(network, name, (height, width), counter)
    with counter:
        walk.pass_image(channels)
    return (*walk.rows, *walk.rest())


def check_fit(network: nn.Module, name: str, *, channels: int, height: int, width: int) -> None:
    """Refuse an image that a layer of the network cannot take, and warn where one leaves out pixels.

    Args:
        network: as for `describe_layers`.
        name: of the network, for messages.
        channels: C.
        height: H, pixels.
        width: W, pixels.

    Raises:
        ModelError: a layer does not fit its input.
    """
    walk = _Walk(network, name, (height, width))
    walk.pass_image(channels)
    for row in walk.rows:
        for line in row.warnings:
            _log.warning("%s on images of %dx%d pixels: %s", name, height, width, line)


class _Walk:
    """What the hooks of one walk note down."""

    def __init__(
        self,
        network: nn.Module,
        name: str,
        image: tuple[int, int],
        counter: FlopCounterMode | None = None,
    ) -> None:
        self.rows: list[LayerRow] = []
        self._network, self._name, self._image, self._counter = network, name, image, counter
        self._names = {layer: key for key, layer in network.named_modules() if not list(layer.children())}
        self._counted: set[nn.Module] = set()
        self._at, self._before = "", 0

    def pass_image(self, channels: int) -> None:
        device = next(self._network.parameters()).device
        with ExitStack() as stack:
            for layer in self._names:
                stack.callback(layer.register_forward_pre_hook(self._enter).remove)
                stack.callback(layer.register_forward_hook(self._leave).remove)
            stack.enter_context(_evaluating(self._network))
            stack.enter_context(torch.no_grad())
            try:
                self._network(torch.zeros(1, channels, *self._image, device=device))
            except ModelError:
                raise
            except (RuntimeError, ValueError, AssertionError) as error:
                raise ModelError(
                    f"the image does not fit layer {self._at}",
                    got="{}x{} pixels: ".format(*self._image) + " ".join(str(error).split()),
                    where=self._name,
                    fix="choose another image.size, or a network that takes any size",
                ) from error

    def rest(self) -> tuple[LayerRow, ...]:
        parameters = sum(weight.numel() for weight in self._network.parameters())
        parameters -= sum(row.parameters for row in self.rows)
        multiply_adds = self._multiply_adds() - sum(row.multiply_adds for row in self.rows)
        if not parameters and not multiply_adds:
            return ()
        return (
            LayerRow(name="", kind="outside of layers", parameters=parameters, multiply_adds=multiply_adds),
        )

    def _multiply_adds(self) -> int:
        return self._counter.get_total_flops() // 2 if self._counter else 0

    def _enter(self, layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._at, self._before = self._names[layer], self._multiply_adds()
        for axis, size in enumerate(self._image) if _is_sliding(layer) else ():
            if not getattr(layer, "ceil_mode", False):
                where = f"{self._name} on images with a {_AXES[axis]} of {size} pixels"
                output_size(self._at, **_window(layer, inputs[0], axis), remainder="floor", where=where)

    def _leave(self, layer: nn.Module, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        is_new = layer not in self._counted
        self._counted.add(layer)
        in_place = isinstance(layer, _RESHAPE) or getattr(layer, "inplace", False)
        self.rows.append(
            LayerRow(
                name=self._names[layer],
                kind=type(layer).__name__,
                output=tuple(output.shape[1:]),
                formulas=_formulas(layer, inputs[0]) if _is_sliding(layer) else (),
                lost_pixels=_lost(layer, inputs[0]) if _is_sliding(layer) else (0, 0),
                parameters=sum(weight.numel() for weight in layer.parameters()) if is_new else 0,
                activation_bytes=0 if in_place else output.numel() * _BYTES_OF_A_VALUE,
                multiply_adds=self._multiply_adds() - self._before,
            )
        )


def _is_sliding(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d)


def _window(layer: Any, image: torch.Tensor, axis: int) -> dict[str, int]:
    """Return W, F, S and P of a layer along an axis; a dilated filter has its full extent."""
    dilation = _along(getattr(layer, "dilation", 1), axis)
    return {
        "size": image.shape[2 + axis],
        "kernel": dilation * (_along(layer.kernel_size, axis) - 1) + 1,
        "stride": _along(layer.stride, axis),
        "padding": _along(layer.padding, axis),
    }


def _along(value: int | tuple[int, int], axis: int) -> int:
    return value if isinstance(value, int) else value[axis]


def _formulas(layer: nn.Module, image: torch.Tensor) -> tuple[str, ...]:
    texts = []
    for axis in range(2):
        exact, text = size_formula(**_window(layer, image, axis))
        if exact.denominator != 1:
            is_up = getattr(layer, "ceil_mode", False)
            text += f", rounded {'up' if is_up else 'down'} to {ceil(exact) if is_up else floor(exact)}"
        texts.append(text)
    return tuple(dict.fromkeys(texts))


def _lost(layer: nn.Module, image: torch.Tensor) -> tuple[int, int]:
    if getattr(layer, "ceil_mode", False):
        return 0, 0
    return lost_pixels(**_window(layer, image, 0)), lost_pixels(**_window(layer, image, 1))


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """Switch to evaluation, and each layer back to the mode it was in."""
    modes = {layer: layer.training for layer in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for layer, mode in modes.items():
            layer.training = mode
