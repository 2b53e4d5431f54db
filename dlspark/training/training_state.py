"""Everything that decides how a training goes on, taken as one snapshot and put back.

The state is a small collection of named parts, each with state_dict and load_state_dict of tensors and plain
JSON values, equal on all ranks; and of what each rank has for itself: torch's generators (dropout draws from
them), the running statistics of batch normalisation since the last average, its rows. The latter come to
rank 0 through one collective, so one file holds them all. On the same number of ranks a training goes on bit
for bit; on another number each rank takes the mean of the statistics.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from dlspark.contracts import Communicator
from dlspark.errors import ModelError
from dlspark.training.named_optimizer import NamedOptimizer
from dlspark.training.position import Position
from dlspark.training.replicas import gather
from dlspark.training.tensor_tree import join_tensors, split_tensors

MODEL = "model"


class Stateful(Protocol):
    """A part of a training that remembers something from step to step."""

    def state_dict(self) -> dict[str, Any]:
        """Return dictionaries and lists of tensors and JSON values."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> Any:
        """Take over what `state_dict` returned; tensors come on the CPU, tuples as lists."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """The state at one step, in host memory."""

    model: Mapping[str, torch.Tensor]
    """Parameters and buffers by name, as in `model.state_dict()`."""
    tensors: Mapping[str, torch.Tensor]
    """All others, by path."""
    values: Mapping[str, Any]
    """JSON: the parts, with paths in place of tensors, and the number of ranks."""
    epoch: int
    """Epochs done."""
    step: int
    """Optimizer steps done."""
    metrics: Mapping[str, float]
    """Of the epoch that ended with this step; empty within an epoch."""


class TrainingState:
    """The parts of a running training on one rank."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        communicator: Communicator,
        device: torch.device,
        *,
        buffers: Mapping[str, torch.Tensor],
        others: Mapping[str, Stateful | None],
    ) -> None:
        """Begin at the first step.

        Args:
            model: on `device`.
            optimizer: of its parameters.
            communicator: joins the ranks.
            device: where the network is trained.
            buffers: what each rank has for itself until it is averaged over the ranks, by name.
            others: what else remembers something between steps, by name; None has nothing to remember.
        """
        self.position = Position()
        self._model, self._communicator, self._device = model, communicator, device
        self._buffers = buffers
        self._parts: dict[str, Stateful] = {
            MODEL: model,
            "optimizer": NamedOptimizer(model, optimizer),
            "position": self.position,
            **{name: part for name, part in others.items() if part is not None},
        }

    def own_of_all_ranks(self) -> dict[str, torch.Tensor]:
        """Return what each rank has for itself, [ranks, ...] each. A collective: one all-reduce."""
        return gather(self._own(), self._communicator, self._device)

    def snapshot(self, own: Mapping[str, torch.Tensor]) -> Snapshot:
        """Copy the state to host memory.

        Args:
            own: of all ranks, as `own_of_all_ranks` returned it at this step.
        """
        parts = {name: part.state_dict() for name, part in self._parts.items() if name != MODEL}
        tensors, values = split_tensors({"parts": parts, "own": dict(own)})
        model, _ = split_tensors(self._model.state_dict())
        at = self.position
        return Snapshot(
            model=model,
            tensors=tensors,
            values=values | {"num_ranks": self._communicator.size},
            epoch=at.epoch,
            step=at.step,
            metrics=dict(at.metrics),
        )

    def restore(self, snapshot: Snapshot | None) -> None:
        """Go on from a snapshot; None begins at the first step.

        Raises:
            ModelError: the snapshot was written by a dlspark that kept less.
        """
        if snapshot is None:
            return
        state = join_tensors(snapshot.tensors, snapshot.values)
        missing = [name for name in self._buffers if f"buffer:{name}" not in state["own"]]
        if missing:
            raise ModelError(
                "the snapshot lacks statistics of batch normalisation",
                got=f"no {missing[0]}",
                where=f"step {snapshot.step}",
                fix="go on with the version of dlspark that wrote it, or set overwrite=true to train anew",
            )
        self._parts[MODEL].load_state_dict(dict(snapshot.model))
        for name, part in self._parts.items():
            if name != MODEL:
                part.load_state_dict(state["parts"][name])
        self._restore_own(state["own"], state["num_ranks"])

    def _own(self) -> dict[str, torch.Tensor]:
        own = {
            "rng_cpu": torch.get_rng_state(),
            "local_rows": torch.tensor([self.position.totals.local_rows]),
        }
        if self._device.type == "cuda":
            own["rng_cuda"] = torch.cuda.get_rng_state(self._device)
        return own | {f"buffer:{name}": buffer for name, buffer in self._buffers.items()}

    def _restore_own(self, own: Mapping[str, torch.Tensor], num_ranks: int) -> None:
        rank, totals = self._communicator.rank, self.position.totals
        if rank < num_ranks:
            # A copy: torch reads it with aligned loads, and what comes from a file lies anywhere.
            torch.set_rng_state(own["rng_cpu"][rank].clone())
            if self._device.type == "cuda" and "rng_cuda" in own:
                torch.cuda.set_rng_state(own["rng_cuda"][rank].clone(), self._device)
        same = num_ranks == self._communicator.size
        totals.local_rows = (
            int(own["local_rows"][rank]) if same else totals.global_rows // self._communicator.size
        )
        with torch.no_grad():
            for name, buffer in self._buffers.items():
                saved = own[f"buffer:{name}"]
                buffer.copy_(saved[rank] if same else _mean(saved, own["local_rows"]))


def _mean(saved: torch.Tensor, local_rows: torch.Tensor) -> torch.Tensor:
    """Return the mean over ranks [ranks, ...], weighted by their rows; of whole numbers rank 0's."""
    if not saved.is_floating_point() or not local_rows.any():
        return saved[0]
    weights = local_rows.double().view(-1, *[1] * (saved.ndim - 1))
    return (saved.double() * weights).sum(dim=0) / weights.sum()
