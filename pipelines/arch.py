"""The stage `arch`: a network before it is trained: its layers with sizes and costs, and its first signal."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from dlspark.config import Config
from dlspark.data.manifest import read_manifest
from dlspark.errors import ConfigError
from dlspark.models.build import build_model
from dlspark.models.layer_table import LayerRow, describe_layers
from dlspark.models.spread import LayerSpread, measure_spread
from dlspark.recipe import preprocessing_of

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_log = logging.getLogger(__name__)

_NOISE_ROWS = 64
_NOISE_MULTIPLY_ADDS = 20e9
_BYTES_OF_A_VALUE = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class ArchResult:
    """A network in numbers; memory and multiply-adds are those of one image in fp32, forward."""

    model: str
    options: dict[str, Any]
    input: tuple[int, int, int]
    """C, H, W."""
    num_classes: int
    parameters: int
    parameter_bytes: int
    activation_bytes: int
    """Of the outputs of all layers."""
    multiply_adds: int
    layers: tuple[LayerRow, ...]
    warnings: tuple[str, ...]
    """Where a layer leaves out the last pixels of its input."""
    noise_rows: int
    """Images of unit normal noise of which `spread` was taken."""
    spread: tuple[LayerSpread, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return dataclasses.asdict(self)


def run(config: Config, spark: SparkSession | None) -> ArchResult:
    """Describe the network of `model` for images of a size, or for those of a dataset.

    The weights are those that a training with the same `train.seed` starts from.

    Args:
        config: model; and image.size, image.channels and num_classes, or dataset.
        spark: not used.

    Raises:
        ConfigError: neither a dataset nor sizes are given, or both and they differ.
        DatasetError: there is no such dataset, or its images are smaller than the crop.
        ModelError: the network does not fit the images.
    """
    (channels, height, width), num_classes = _shape_of(config)
    name, options = config.model.name, config.model.model_dump(mode="json", exclude={"name"})
    shape = {"channels": channels, "height": height, "width": width}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.train.seed)
        network = build_model(name, num_classes=num_classes, **shape, **options)
    layers = describe_layers(network, name, **shape)
    multiply_adds = sum(row.multiply_adds for row in layers)
    noise = _noise(config.train.seed, channels, height, width, multiply_adds)
    parameters = sum(row.parameters for row in layers)
    result = ArchResult(
        model=name,
        options=options,
        input=(channels, height, width),
        num_classes=num_classes,
        parameters=parameters,
        parameter_bytes=parameters * _BYTES_OF_A_VALUE,
        activation_bytes=sum(row.activation_bytes for row in layers),
        multiply_adds=multiply_adds,
        layers=layers,
        warnings=tuple(line for row in layers for line in row.warnings),
        noise_rows=len(noise),
        spread=measure_spread(network, noise),
    )
    _show(result)
    return result


def _shape_of(config: Config) -> tuple[tuple[int, int, int], int]:
    """Return (C, H, W) of the network's input, and the number of classes."""
    given = {
        "image.size": config.image.size,
        "image.channels": config.image.channels,
        "num_classes": config.num_classes,
    }
    if config.dataset is None:
        missing = [key for key, value in given.items() if value is None]
        if missing:
            raise ConfigError(
                f"`arch` needs {', '.join(missing)}",
                got="nothing",
                where="the command line",
                fix=f"add {' '.join(f'{key}=<number>' for key in missing)}, or dataset=<folder>",
            )
        size = config.augment.crop_size or config.image.size
        return (config.image.channels, size, size), config.num_classes  # type: ignore[return-value]
    manifest = read_manifest(config.dataset)
    preprocessing = preprocessing_of(config, manifest)
    image, num_classes = preprocessing.image, len(manifest.classes)
    if config.num_classes not in (None, num_classes):
        raise ConfigError(
            "num_classes is not that of the dataset",
            got=config.num_classes,
            allowed=num_classes,
            where=config.dataset,
            fix="leave num_classes out",
        )
    return (image.channels, *preprocessing.input_size), num_classes


def _noise(seed: int, channels: int, height: int, width: int, multiply_adds: int) -> torch.Tensor:
    """Return as many images as 20 billion multiply-adds take, at least 1 and at most 64."""
    rows = int(min(_NOISE_ROWS, max(1, _NOISE_MULTIPLY_ADDS // max(1, multiply_adds))))
    return torch.randn(rows, channels, height, width, generator=torch.Generator().manual_seed(seed))


def _show(result: ArchResult) -> None:
    console = Console(stderr=True)
    console.print(_layer_table(result.layers))
    console.print(_spread_table(result.spread, result.noise_rows))
    _log.info(
        "%s on %dx%dx%d (CxHxW), %d classes: %s parameters (%s); %s of activations, %s multiply-adds",
        result.model,
        *result.input,
        result.num_classes,
        f"{result.parameters:,}",
        decimal(result.parameter_bytes),
        decimal(result.activation_bytes),
        f"{result.multiply_adds:,}",
    )


def _layer_table(layers: Sequence[LayerRow]) -> Table:
    table = Table(title="output of a convolution or a pooling: (W - F + 2P)/S + 1", box=None)
    table.add_column("layer")
    table.add_column("output", no_wrap=True)
    for heading in ("parameters", "memory", "multiply-adds"):
        table.add_column(heading, justify="right")
    for row in layers:
        lost = f"not used: {row.lost_pixels[0]} rows, {row.lost_pixels[1]} columns"
        output = ["x".join(map(str, row.output)), *row.formulas, *([lost] if any(row.lost_pixels) else [])]
        table.add_row(
            f"{row.name} {row.kind}".strip(),
            "\n".join(output),
            f"{row.parameters:,}",
            decimal(row.activation_bytes),
            f"{row.multiply_adds:,}",
        )
    return table


def _spread_table(spread: Sequence[LayerSpread], num_rows: int) -> Table:
    table = Table(title=f"first weights: outputs on {num_rows} images of unit normal noise", box=None)
    table.add_column("layer")
    for heading in ("mean", "std", "zeros", "saturated"):
        table.add_column(heading, justify="right")
    for row in spread:
        table.add_row(
            f"{row.name} {row.kind}",
            f"{row.mean:.3g}",
            f"{row.std:.3g}",
            f"{row.zeros:.0%}",
            "" if row.saturated is None else f"{row.saturated:.0%}",
        )
    return table
