"""The small values and protocols that the rooms share; no room needs to import another one for them.

Shape legend: b rows of a local batch, C channels, H height, W width, K classes.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageFormat:
    """How one encoded image becomes pixels: the half of the preprocessing that ingest has done already."""

    height: int
    """Pixels."""
    width: int
    """Pixels."""
    channels: Literal[1, 3]
    """1: luminance; 3: RGB in this order."""
    resize: Literal["none", "exact", "shorter", "pad"]
    """How another size becomes height x width. none: it is refused; exact: stretched; shorter: scaled until
    it covers height x width, then the centre is cut out; pad: scaled until it fits inside, black around it.
    Antialiased; dlspark/data/image_resize.py says how sizes are rounded."""
    jpeg_scale: bool = True
    """A JPEG is decoded at 1/2, 1/4 or 1/8 of its size where nothing must be enlarged then; never with
    resize="none". Faster, and close to what a full decode gives, not equal to it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Preprocessing:
    """Everything between the bytes of an image file and the network's input; it travels with the model."""

    image: ImageFormat
    mean: tuple[float, ...]
    """Per channel, of the training split, in units of [0, 1]."""
    std: tuple[float, ...]
    """Per channel, of the training split, in units of [0, 1]; > 0."""
    crop: int | None = None
    """Height and width of the centre that the network sees; None: the whole image."""

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width of the network's input, in pixels."""
        return (self.crop, self.crop) if self.crop else (self.image.height, self.image.width)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Preprocessing:
        """Rebuild from `to_json`."""
        return cls(
            image=ImageFormat(**values["image"]),
            mean=tuple(values["mean"]),
            std=tuple(values["std"]),
            crop=values.get("crop"),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """The rows of one global step that one rank holds; b may be 0 on a rank that has none in this step."""

    step: int
    """Index of the global step in its epoch, from 0."""
    global_rows: int
    """Rows of this global step over all ranks; > 0. Gradients are weighted by it."""
    row_ids: NDArray[np.int64]
    """int64 [b]."""
    images: torch.Tensor
    """float32 [b, C, H, W], normalised (and augmented, in training), on the device of the training; where
    features are cached, [b, F]."""
    labels: torch.Tensor
    """int64 [b], in [0, K)."""
    other_labels: torch.Tensor | None = None
    """int64 [b]: the labels of the rows that these are mixed with; None: rows are not mixed."""
    label_share: torch.Tensor | None = None
    """float32 [b], in [0, 1]: how much of the loss is that of `labels`; the rest is of `other_labels`."""
    copy_seconds: float = 0.0
    """That its way to a GPU took, the changes there included, in the thread that made it; 0 on the CPU."""


Phase = Literal["start", "data", "compute", "communication", "evaluation", "save", "end"]
"""What a rank does: data waits for a batch, communication is in a collective, end leaves the job."""


class Whereabouts(Protocol):
    """What a rank says about where it is; who watches it reads that. Not a collective."""

    def note(self, phase: Phase, *, step: int | None = None) -> None:
        """Say that a phase begins, in optimizer step `step`, from 1; None: in that of the phase before."""
        ...


class BatchSource(Protocol):
    """One split of a dataset, as the batches that one rank reads; the trainer's only view of data."""

    num_rows: int
    """Rows of the split over all ranks."""
    num_steps: int
    """Global steps of an epoch; the same number on every rank, known before the first batch."""

    def batches(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """Yield exactly one batch for each global step from `start_step` on, also where b = 0."""
        ...


class Communicator(Protocol):
    """The ranks of one job. Each method is a collective: all ranks call it, in the same order."""

    rank: int
    size: int
    local_rank: int
    """Rank among those on the same host."""
    local_size: int
    """Ranks on the same host."""
    host: str
    gpus: tuple[str, ...]
    """Addresses of the GPUs that Spark gave to this rank's task; empty where it assigns none."""

    @property
    def whereabouts(self) -> Whereabouts:
        """Takes what this rank does; collectives note themselves."""
        ...

    def all_reduce_sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Replace `tensor` (contiguous; float16 to float64, int64) by its sum over ranks; return it."""
        ...

    def broadcast(self, tensor: torch.Tensor) -> torch.Tensor:
        """Replace `tensor` (contiguous) in place by rank 0's; return it."""
        ...


class Tracker(Protocol):
    """Where the train loop reports. Rank 0 is handed one that writes the journal, the others a silent one."""

    def log_metrics(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Record values at `step`, the number of optimizer steps done since the start of the run."""
        ...

    def log_progress(self, *, step: int, num_steps: int, fields: Mapping[str, float]) -> None:
        """Report where the run is; `fields` are shown beside the progress bar (loss, images/s)."""
        ...

    def log_note(self, name: str, sentence: str, *, step: int) -> None:
        """Record what is worth reading about the run, and warn of it; a later note of a name replaces it."""
        ...

    def flush(self) -> None:
        """Make all that was recorded visible to the driver."""
        ...


class Progress(Protocol):
    """A progress display on the driver."""

    def update(self, completed: int, total: int, fields: Mapping[str, float] | None = None) -> None:
        """Show that `completed` of `total` units are done."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerTask:
    """All that crosses from the driver to a worker: plain values that survive JSON."""

    dataset: str
    """URL of the published dataset, reachable from every worker."""
    fingerprint: str
    """The fingerprint that the driver read; a worker that reads another one refuses to train."""
    run_dir: str
    """URL of the run directory, writable from every worker."""
    config: dict[str, Any]
    """The resolved configuration, as `Config.model_dump(mode="json")`."""
    split: Split = "test"
    """The split that an evaluation reads; training reads train and val."""
    attempt: int = 1
    """The how-manieth start of this run, from 1."""
    resume_from: str | None = None
    """URL of the snapshot that a training goes on from, checked by the driver; None: the first step."""
    features: str | None = None
    """URL of the features that the head is trained on in place of images; None: there are none."""

    def to_json(self) -> str:
        """Return the task as JSON."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> WorkerTask:
        """Rebuild from `to_json`."""
        return cls(**json.loads(text))


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationResult:
    """Exact figures of one split: each row counted once, over all ranks. The same value on every rank."""

    num_rows: int
    loss: float
    """Mean over rows, in nats for cross entropy."""
    accuracy: float
    """Share in [0, 1]."""
    confusion: tuple[tuple[int, ...], ...]
    """[K][K] row counts: first index the true class, second the predicted one."""
    top_k: int | None = None
    """k of `top_k_accuracy`, in [2, K)."""
    top_k_accuracy: float | None = None
    """Share of rows whose class is among the k largest outputs, in [0, 1]; None where it was not counted."""
    class_bias: tuple[float, ...] = ()
    """[K] mean over rows of output minus target (1 for the row's class, else 0): above 0, the class is given
    more than it is there."""

    @property
    def mean_bias_error(self) -> float:
        """Mean over rows and outputs of output minus target, signed; 0 for softmax, which sums to 1."""
        return sum(self.class_bias) / len(self.class_bias)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainResult:
    """What one rank returns from a training."""

    rank: int
    host: str
    steps: int
    """Optimizer steps done."""
    epochs: int
    images_per_second: float
    """Training rows of all ranks per second of training time (evaluation and start-up excluded)."""
    train_seconds: float
    validation: EvaluationResult | None
    """Of the last epoch, with early stopping of the best; None where the dataset has no val split."""
    precision: str
    """The one that was used, fp32, bf16 or fp16."""
    device: str
    checkpoint: str
    """URL of the final checkpoint, the same on every rank."""
    stopped: bool = False
    """It was told to stop, and has saved where it was; there is no final checkpoint yet."""


WorkerFunction = Callable[[WorkerTask, Communicator], Any]
"""A top-level function, picklable by reference, that every rank runs."""
