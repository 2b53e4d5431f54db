"""What keeps the copies of a network on the ranks one network.

Weights start as rank 0's and stay equal, since every rank applies the same summed gradient. The running
statistics of batch normalisation do not: each rank updates its own from its own rows, so they are averaged
before anybody evaluates or saves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import nn

from dlspark.contracts import Communicator

Collective = Callable[[torch.Tensor], torch.Tensor]


def broadcast_state(model: nn.Module, communicator: Communicator) -> None:
    """Replace all parameters and buffers by rank 0's, in place. A collective.

    Args:
        model: the same architecture on all ranks.
        communicator: one broadcast is made for each dtype.
    """
    with torch.no_grad():
        tensors = [*model.parameters(), *model.buffers()]
        for dtype in _dtypes(tensors):
            _replace([tensor for tensor in tensors if tensor.dtype == dtype], communicator.broadcast)


def average_buffers(buffers: Iterable[torch.Tensor], communicator: Communicator, *, local_rows: int) -> None:
    """Replace the floating-point buffers by their mean over ranks, weighted by rows, in place. A collective.

    The weights are the rows that each rank has seen since the last call, so that a rank without rows does not
    dilute the others. The mean of the ranks' variances leaves out the variance between their means, which is
    small where rows are shuffled. Integer buffers (batches seen) become rank 0's.

    Args:
        buffers: of the same shapes and dtypes on all ranks.
        communicator: one all-reduce and one broadcast, or none where there are no such buffers.
        local_rows: rows this rank has seen; > 0 on at least one rank.
    """
    buffers = list(buffers)
    floating = [buffer for buffer in buffers if buffer.is_floating_point()]
    others = [buffer for buffer in buffers if not buffer.is_floating_point()]

    def weighted_mean(flat: torch.Tensor) -> torch.Tensor:
        weight = flat.new_tensor([local_rows], dtype=torch.float64)
        sums = communicator.all_reduce_sum(torch.cat([flat.double() * weight, weight]))
        return (sums[:-1] / sums[-1]).to(flat.dtype)

    with torch.no_grad():
        for dtype in _dtypes(floating):
            _replace([buffer for buffer in floating if buffer.dtype == dtype], weighted_mean)
        for dtype in _dtypes(others):
            _replace([buffer for buffer in others if buffer.dtype == dtype], communicator.broadcast)


def gather_rows(tensor: torch.Tensor, communicator: Communicator) -> torch.Tensor:
    """Return the tensors of all ranks as rows [N, P], by a sum over rows that are 0 elsewhere. A collective.

    Args:
        tensor: [P], of this rank.
        communicator: joins N ranks.
    """
    rows = tensor.new_zeros((communicator.size, len(tensor)))
    rows[communicator.rank] = tensor
    return communicator.all_reduce_sum(rows)


def gather(
    tensors: Mapping[str, torch.Tensor], communicator: Communicator, device: torch.device
) -> dict[str, torch.Tensor]:
    """Return the tensors of all ranks, bit for bit. A collective: one all-reduce.

    The bytes are sent as whole numbers, which a sum with 0 leaves as they are. Meant for what is small: each
    rank holds all of it for a moment.

    Args:
        tensors: of the same names, shapes and dtypes on all ranks, on any device.
        communicator: joins the ranks.
        device: where the collective is made.

    Returns:
        By name, [ranks, ...] on the CPU, in the order of ranks.
    """
    parts = {name: _bytes_of(tensor) for name, tensor in tensors.items()}
    words = torch.cat(list(parts.values())).view(torch.int64)
    rows = gather_rows(words.to(device), communicator).cpu().view(torch.uint8)
    gathered, start = {}, 0
    for name, tensor in tensors.items():
        own = rows[:, start : start + tensor.numel() * tensor.element_size()].contiguous()
        gathered[name] = own.view(tensor.dtype).view(communicator.size, *tensor.shape)
        start += len(parts[name])
    return gathered


def _bytes_of(tensor: torch.Tensor) -> torch.Tensor:
    """Return uint8 [n], n a multiple of 8."""
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return torch.nn.functional.pad(flat, (0, -len(flat) % 8))


def _replace(tensors: list[torch.Tensor], collective: Collective) -> None:
    flat = collective(torch.cat([tensor.reshape(-1) for tensor in tensors]))
    start = 0
    for tensor in tensors:
        end = start + tensor.numel()
        tensor.copy_(flat[start:end].view_as(tensor))
        start = end


def _dtypes(tensors: list[torch.Tensor]) -> list[torch.dtype]:
    return sorted({tensor.dtype for tensor in tensors}, key=str)
