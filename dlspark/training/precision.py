"""Whether the forward pass runs in fp32, or by autocast in bf16 or fp16.

bf16 pays where matrix units take it: CUDA devices that compute it in hardware, and CPUs with AMX (2 to 4
times the fp32 rate). A CPU that has only vector instructions for it, or none, emulates it more slowly than
fp32. The question is asked through torch's public API: torch.cuda.is_bf16_supported, and
torch.cpu.get_capabilities, which reads CPUID on any operating system. Weights, gradients, their sum over
ranks, and evaluation stay fp32.
"""

from __future__ import annotations

import logging
from typing import Literal

import torch

_LOGGER = logging.getLogger(__name__)

Precision = Literal["fp32", "bf16", "fp16"]
AUTOCAST_TYPES: dict[Precision, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}


def choose_precision(precision: Literal["auto", "fp32", "bf16", "fp16"], device: torch.device) -> Precision:
    """Return the precision to train in, and log it with its reason.

    Args:
        precision: "fp32", "bf16" and "fp16" are taken as they are; "auto" takes bf16 where `device` is fast
            at it. fp16 is for GPUs without bf16; see dlspark.training.loss_scale.
        device: where the network is trained.
    """
    if precision != "auto":
        slow = {"bf16": not has_fast_bf16(device), "fp16": device.type == "cpu", "fp32": False}
        if slow[precision]:
            _LOGGER.warning(
                "precision %s, as asked, though %s has no %s units: slower than fp32",
                *(precision, device, precision),
            )
        else:
            _LOGGER.info("precision %s, as asked", precision)
        return precision
    fast = has_fast_bf16(device)
    chosen: Precision = "bf16" if fast else "fp32"
    _LOGGER.info("precision %s: %s has %s bf16 matrix units", chosen, device, "" if fast else "no")
    return chosen


def has_fast_bf16(device: torch.device) -> bool:
    """Tell whether `device` multiplies bf16 matrices in hardware."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        return bool(torch.cpu.get_capabilities().get("amx_bf16", False))
    return False
