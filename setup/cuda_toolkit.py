"""Which CUDA toolkit Horovod is built with, if any.

The registry's torch is a CUDA build, so Horovod builds CUDA parts wherever torch believes to see a CUDA home.
torch guesses that home from any `nvcc` on the PATH, be it a wrapper script in a folder with no toolkit, and
the build then fails. So the home is decided here and told to everyone, or the CUDA parts are left out.

They are built where they can be of use: where a GPU operation is asked for (HOROVOD_GPU_OPERATIONS and its
kin), a CUDA home is named, or this machine has an NVIDIA GPU.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from setup.console import SetupError, output_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

USUAL_HOME = Path("/usr/local/cuda")
HOME_VARIABLES = ("HOROVOD_CUDA_HOME", "CUDA_HOME", "CUDA_PATH")
DEVICES = (Path("/dev/nvidiactl"), Path("/dev/nvidia0"), Path("/dev/dxg"))
# A toolkit is whole when it has one file of each of these groups.
PARTS = {
    "bin/nvcc": ("bin/nvcc",),
    "include/cuda_runtime.h": ("include/cuda_runtime.h", "targets/*/include/cuda_runtime.h"),
    "lib64/libcudart": ("lib64/libcudart*", "lib/libcudart*", "targets/*/lib/libcudart*"),
}


class Cuda(NamedTuple):
    """The decision: a toolkit's home and version, or none and why."""

    home: Path | None
    version: str
    reason: str


def decide(
    environment: Mapping[str, str],
    *,
    usual_home: Path = USUAL_HOME,
    devices: tuple[Path, ...] = DEVICES,
) -> Cuda:
    """Chooses the CUDA toolkit.

    Args:
        environment: the variables that may ask for GPU operations or name a CUDA home, and the PATH.
        usual_home: where toolkits are usually installed.
        devices: device files of which one exists where there is a GPU.

    Returns:
        The toolkit to build with, or one without home where Horovod is to be built without CUDA.

    Raises:
        SetupError: GPU operations are asked for and no whole toolkit is found.
    """
    asked = sorted(
        name for name, value in environment.items() if name.startswith("HOROVOD_GPU") and value.strip()
    )
    if environment.get("HOROVOD_GPU", "").upper() == "ROCM":
        return Cuda(home=None, version="", reason="HOROVOD_GPU=ROCM")
    named = [name for name in HOME_VARIABLES if environment.get(name)]
    has_gpu = any(device.exists() for device in devices)
    if not (asked or named or has_gpu):
        return Cuda(home=None, version="", reason="no GPU here and none asked for")

    halves = []
    for home in _candidates(environment, named, usual_home):
        lacking = missing_parts(home)
        version = None if lacking else _version(home, environment)
        if version:
            why = ", ".join([*asked, *named]) or "an NVIDIA GPU is here"
            return Cuda(home=home, version=version, reason=why)
        halves.append(f"{home} lacks {' and '.join(lacking) or 'an nvcc that runs'}")
    found = "; ".join(halves) or f"nothing at {usual_home}, no nvcc on the PATH"
    if asked:
        raise SetupError(
            f"{asked[0]}={environment[asked[0]]} needs a whole CUDA toolkit (nvcc, headers, libcudart), "
            f"found: {found}; set CUDA_HOME to one, or unset {asked[0]} to build without CUDA"
        )
    return Cuda(home=None, version="", reason=f"no whole CUDA toolkit: {found}")


def describe(cuda: Cuda, torch_cuda: str) -> str:
    """Says what was chosen and why, and warns of a toolkit of another generation than torch's own."""
    if cuda.home is None:
        return f"none ({cuda.reason})"
    chosen = f"{cuda.version} at {cuda.home} ({cuda.reason})"
    if cuda.version.partition(".")[0] != torch_cuda.partition(".")[0]:
        chosen += f"; torch is built for CUDA {torch_cuda}, so the result may not load"
    return chosen


def missing_parts(home: Path) -> list[str]:
    """Parts of a toolkit that a folder lacks: none for a whole one."""
    return [
        part for part, patterns in PARTS.items() if not any(any(home.glob(pattern)) for pattern in patterns)
    ]


def build_environment(cuda: Cuda, environment: Mapping[str, str]) -> dict[str, str]:
    """The environment that makes torch, CMake and Horovod agree on this toolkit, or on none."""
    told = {name: value for name, value in environment.items() if name not in HOME_VARIABLES}
    if cuda.home is None:
        return told
    home = str(cuda.home)
    told |= dict.fromkeys((*HOME_VARIABLES, "CUDAToolkit_ROOT"), home)
    told["CUDACXX"] = str(cuda.home / "bin" / "nvcc")
    told["PATH"] = os.pathsep.join([str(cuda.home / "bin"), environment.get("PATH", "")])
    return told


def _candidates(environment: Mapping[str, str], named: list[str], usual_home: Path) -> Iterator[Path]:
    if named:
        yield Path(environment[named[0]])
        return
    nvcc = shutil.which("nvcc", path=environment.get("PATH", ""))
    homes = [Path(nvcc).resolve().parent.parent] if nvcc else []
    if usual_home.exists():
        homes.append(usual_home)
    yield from dict.fromkeys(homes)


def _version(home: Path, environment: Mapping[str, str]) -> str | None:
    found = re.search(r"V([\d.]+)", output_of([home / "bin" / "nvcc", "--version"], environment) or "")
    return found[1] if found else None
