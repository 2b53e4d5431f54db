"""Proof in flight that the copies of a network on the ranks are one network: digests, compared now and then.

A flipped bit of a GPU's memory, or code that draws or decides on one rank only, makes replicas drift apart in
silence: every rank applies the same gradient to other weights. Each tensor becomes a hash of its bytes, and
the ranks exchange the hashes, so a comparison sends 8 bytes for a tensor and costs one reading of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
import xxhash
from torch import nn

from dlspark.contracts import Communicator
from dlspark.errors import ModelError
from dlspark.training.replicas import gather

_HOST_BYTES = 64


class ReplicaCheck:
    """Compares the replicas of one training; equal on all ranks."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        communicator: Communicator,
        device: torch.device,
        *,
        buffers: Mapping[str, torch.Tensor],
        every_steps: int | None,
    ) -> None:
        """Compare nothing yet.

        Args:
            model: on `device`.
            optimizer: of its parameters.
            communicator: joins the ranks.
            device: where collectives are made.
            buffers: what each rank has for itself until it is averaged over the ranks, by name.
            every_steps: optimizer steps from one comparison to the next, >= 1; None: none is made.
        """
        self._model, self._optimizer = model, optimizer
        self._communicator, self._device, self._every_steps = communicator, device, every_steps
        self._buffers = buffers

    def after_load(self, step: int) -> None:
        """Compare weights and optimizer state before the first step. A collective; see `after_step`."""
        if self._every_steps is not None:
            self._require_equal(step, with_buffers=False)

    def after_step(self, step: int, *, saves: bool) -> None:
        """Compare weights and optimizer state after every so many steps, and before each save. A collective.

        Args:
            step: optimizer steps done.
            saves: whether a checkpoint follows; the same on all ranks.

        Raises:
            ModelError: ranks differ; every rank raises it, with the first tensor that differs and who has it.
        """
        if self._every_steps is not None and (saves or step % self._every_steps == 0):
            self._require_equal(step, with_buffers=False)

    def after_epoch(self, step: int) -> None:
        """Compare buffers too, once those of the ranks were averaged. A collective; see `after_step`."""
        if self._every_steps is not None:
            self._require_equal(step, with_buffers=True)

    def _require_equal(self, step: int, *, with_buffers: bool) -> None:
        if self._communicator.size == 1:
            return
        named = dict(self._tensors(with_buffers=with_buffers))
        host = self._communicator.host.encode()[:_HOST_BYTES].ljust(_HOST_BYTES, b"\0")
        found = gather(
            {
                "digests": torch.tensor([digest(tensor) for tensor in named.values()], dtype=torch.int64),
                "host": torch.tensor(list(host), dtype=torch.uint8),
            },
            self._communicator,
            self._device,
        )
        differing = (found["digests"] != found["digests"][0]).any(dim=0).nonzero().flatten().tolist()
        if not differing:
            return
        first = differing[0]
        names = list(named)
        others = f" and {len(differing) - 1} more" if len(differing) > 1 else ""
        raise ModelError(
            "the replicas of the network have drifted apart",
            got=f"{names[first]}{others} of {len(names)} tensors differ on "
            + _who(odd_ranks(found["digests"][:, first].tolist()), found["host"]),
            allowed="the same bits on all ranks",
            where=f"step {step}",
            fix="start again with the same run_dir: it goes on from the last checkpoint, on which the ranks "
            "agreed; if it comes again, suspect that host's memory or GPU, or code that draws on one rank",
        )

    def _tensors(self, *, with_buffers: bool) -> Iterator[tuple[str, torch.Tensor]]:
        for name, parameter in self._model.named_parameters():
            yield name, parameter
            for key, value in sorted(self._optimizer.state.get(parameter, {}).items()):
                if isinstance(value, torch.Tensor):
                    yield f"{name} ({key} of the optimizer)", value
        if with_buffers:
            yield from self._buffers.items()


def digest(tensor: torch.Tensor) -> int:
    """Return a 64-bit hash (XXH3) of the bytes of a tensor, in [-2^63, 2^63)."""
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    data = flat.numpy()
    return int.from_bytes(xxhash.xxh3_64_digest(data), "big", signed=True)  # type: ignore[arg-type] # a buffer


def odd_ranks(digests: Sequence[int]) -> list[int]:
    """Return the ranks whose digest is not that of most; of equally many, rank 0's counts as right."""
    most = max(digests, key=lambda value: (digests.count(value), value == digests[0]))
    return [rank for rank, value in enumerate(digests) if value != most]


def _who(ranks: Sequence[int], hosts: torch.Tensor) -> str:
    names = [bytes(hosts[rank].tolist()).rstrip(b"\0").decode(errors="replace") for rank in ranks]
    return ", ".join(f"rank {rank} on host {name}" for rank, name in zip(ranks, names, strict=True))
