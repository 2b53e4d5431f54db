"""The built Horovod: kept in the user's cache under a key of all that it depends on, built if missing.

    <cache>/wheels/horovod-<version>-<inputs>/<compiler>/  the wheel, SHA256, inputs.json

The compiler has a folder of its own, so that a machine without one takes what another compiler has built.
A folder appears whole or not at all, and its wheel is checked before each use.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import sys
import sysconfig
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from setup import cuda_toolkit
from setup.console import SetupError, output_of, run_quietly, say, step
from setup.prerequisites import compiler_command

if TYPE_CHECKING:
    from collections.abc import Mapping

    from setup.cuda_toolkit import Cuda

# Variables that Horovod's build, CMake and the compilers read. Other HOROVOD_ names are for running it.
BUILD_VARIABLES = re.compile(
    r"HOROVOD_(ALLOW_MIXED_GPU_IMPL|BUILD_|CMAKE|CPU_OPERATIONS|CUDA_HOME|DEBUG|GPU|LOCAL_VERSION|NCCL_"
    r"|NVTX_|ROCM_HOME|SKIP_COMPILE|WITH_|WITHOUT_).*"
    r"|(CC|CXX|AR|CPPFLAGS|CFLAGS|CXXFLAGS|LDFLAGS|CUDAFLAGS|CUDAHOSTCXX)"
    r"|(CUDA_HOME|CUDA_PATH|CCL_ROOT|CCL_CONFIGURATION|NCCL_ROOT_DIR|USE_STATIC_NCCL|ROCM_PATH)"
    r"|CMAKE_(PREFIX_PATH|GENERATOR|BUILD_TYPE)"
)
CPU_FLAGS = ("avx", "f16c", "fma")  # Horovod compiles for those that the building machine has
MEMORY_BYTES_PER_JOB = 2 << 30  # a file that includes torch's headers takes about 1.5 GB to compile

# Stands in for Python while CMake configures: every question is asked of a torch that sees no CUDA home.
PYTHON_WITHOUT_CUDA = """\
#!/bin/sh
[ "$1" = -c ] || exec "$DLSPARK_PYTHON" "$@"
exec "$DLSPARK_PYTHON" -c "import torch.utils.cpp_extension as extension; extension.CUDA_HOME = None
$2"
"""


class Shelf(NamedTuple):
    """Where a wheel of given inputs is kept."""

    folder: Path
    inputs: dict[str, str]
    compiler: dict[str, str] | None

    @property
    def own(self) -> Path | None:
        """The folder for this machine's compiler, None where there is no compiler."""
        return None if self.compiler is None else self.folder / _digest(self.compiler)


def cache_folder(environment: Mapping[str, str]) -> Path:
    """DLSPARK_CACHE, or dlspark in XDG_CACHE_HOME or ~/.cache."""
    if environment.get("DLSPARK_CACHE"):
        return Path(environment["DLSPARK_CACHE"]).absolute()
    base = environment.get("XDG_CACHE_HOME", "")
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "dlspark"


def build_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables of an environment that change what is built."""
    return {
        name: value
        for name, value in sorted(environment.items())
        if value and BUILD_VARIABLES.fullmatch(name)
    }


def shelf(root: Path, environment: Mapping[str, str], cuda: Cuda) -> Shelf:
    """Computes the place of the wheel from everything that it depends on."""
    source = _pins(root / "setup" / "horovod.lock")
    version = _version_of("horovod", source)
    inputs = {
        "horovod": source,
        "torch": _version_of("torch", _pins(root / "setup" / "requirements.lock")),
        "python": f"{sys.version_info[0]}.{sys.version_info[1]} {sysconfig.get_config_var('SOABI')}",
        "platform": f"{sysconfig.get_platform()} {' '.join(platform.libc_ver())}",
        "cpu": " ".join(cpu_flags()),
        "settings": json.dumps(build_settings(environment)),
        "cuda": f"{cuda.home} {cuda.version}" if cuda.home else "none",
        "recipe": "".join(path.read_text() for path in sorted((root / "setup").glob("*.cmake"))),
    }
    folder = cache_folder(environment) / "wheels" / f"horovod-{version}-{_digest(inputs)}"
    return Shelf(folder, inputs, _compiler(environment))


def torch_cuda(root: Path) -> str:
    """The CUDA version that the pinned torch is built for."""
    return _version_of("cuda-toolkit", _pins(root / "setup" / "requirements.lock"))


def kept_wheel(place: Shelf) -> Path | None:
    """The wheel that is kept for these inputs, checked; None where there is none or only a corrupt one."""
    if place.own is not None:
        return _checked_wheel(place.own)
    folders = sorted(place.folder.glob("[!.]*"), key=lambda folder: folder.stat().st_mtime, reverse=True)
    return next((wheel for wheel in map(_checked_wheel, folders) if wheel), None)


def build_wheel(
    place: Shelf, *, root: Path, python: Path, environment: Mapping[str, str], cuda: Cuda
) -> Path:
    """Builds Horovod from its source package and puts the wheel on the shelf.

    Args:
        place: where the wheel is kept.
        root: the repository.
        python: the environment's Python, with torch and the build tools installed.
        environment: variables to build under.
        cuda: the toolkit to build with.

    Returns:
        The kept wheel.

    Raises:
        SetupError: the build failed, or what it made cannot be imported.
    """
    if place.own is None or place.compiler is None:
        raise SetupError("no C++ compiler to build Horovod with; on Debian: apt-get install g++")
    _make_folder(place.folder)
    with tempfile.TemporaryDirectory(prefix="dlspark-horovod-") as scratch:
        built = Path(scratch, "wheel")
        told = _build_environment(root, Path(scratch), python, environment, cuda)
        log = root / ".venv" / "horovod-build.log"
        # pip's own cache is left out: it would return a wheel that was built with other settings
        command = [python, "-m", "pip", "wheel", "-v", "--no-deps", "--no-build-isolation", "--no-cache-dir"]
        command += ["--require-hashes", "--no-binary", "horovod", "-w", built]
        command += ["-r", root / "setup" / "horovod.lock"]
        with step(f"building Horovod with {place.compiler['version']} (some minutes)"):
            run_quietly(command, log=log, doing="building Horovod", environment=told)
        wheel = next(built.glob("horovod-*.whl"))
        _try_out(wheel, Path(scratch, "unpacked"), python, environment, log)
        return _keep(wheel, place, place.own)


def cpu_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> list[str]:
    """Those of the instruction sets that Horovod's build looks for which this machine has."""
    try:
        words = set(cpuinfo.read_text().split())
    except OSError:
        return [platform.machine()]
    return [flag for flag in CPU_FLAGS if flag in words]


def num_jobs() -> int:
    """How many files are compiled at once: one a core, while memory lasts."""
    num_cores = len(os.sched_getaffinity(0))
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(1, min(num_cores, memory_bytes // MEMORY_BYTES_PER_JOB))


def _build_environment(
    root: Path, scratch: Path, python: Path, environment: Mapping[str, str], cuda: Cuda
) -> dict[str, str]:
    told = {
        "HOROVOD_WITH_PYTORCH": "1",
        "HOROVOD_WITHOUT_TENSORFLOW": "1",
        "HOROVOD_WITHOUT_MXNET": "1",
        "HOROVOD_WITH_GLOO": "1",
    }
    if not environment.get("HOROVOD_WITH_MPI"):
        told["HOROVOD_WITHOUT_MPI"] = "1"
    told |= cuda_toolkit.build_environment(cuda, environment)
    told["CMAKE_TOOLCHAIN_FILE"] = str(root / "setup" / "horovod-toolchain.cmake")
    told["CMAKE_POLICY_VERSION_MINIMUM"] = "3.5"  # CMake 4 refuses the 2.8 that Horovod's gloo asks for
    told["MAKEFLAGS"] = f"-j{num_jobs()}"  # else those of the `make` that started us count
    for name in ("MAKELEVEL", "MFLAGS", "MAKEOVERRIDES"):
        told.pop(name, None)
    if cuda.home is None and environment.get("HOROVOD_GPU", "").upper() != "ROCM":
        stand_in = scratch / "python-without-cuda"
        stand_in.write_text(PYTHON_WITHOUT_CUDA)
        stand_in.chmod(0o755)
        told |= {"DLSPARK_PYTHON": str(python), "DLSPARK_PYTHON_WITHOUT_CUDA": str(stand_in)}
    return told


def _try_out(wheel: Path, unpacked: Path, python: Path, environment: Mapping[str, str], log: Path) -> None:
    """Imports the wheel unpacked, beside the environment's torch: one that fails here is never kept."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(unpacked)
    run_quietly(
        [python, "-c", "import horovod.torch as hvd; assert hvd.gloo_built()"],
        log=log.with_name("horovod-import.log"),
        doing="importing the Horovod that was built",
        environment={**environment, "PYTHONPATH": str(unpacked)},
    )


def _keep(wheel: Path, place: Shelf, target: Path) -> Path:
    """Puts the wheel on the shelf: written beside, then renamed, so that no one sees half a folder."""
    beside = Path(tempfile.mkdtemp(prefix=".new-", dir=place.folder))
    try:
        shutil.copyfile(wheel, beside / wheel.name)
        (beside / "SHA256").write_text(f"{_sha256(beside / wheel.name)}  {wheel.name}\n")
        record = {**place.inputs, "compiler": place.compiler}
        (beside / "inputs.json").write_text(json.dumps(record, indent=2) + "\n")
        beside.chmod(0o755)
        beside.rename(target)
    except OSError:
        kept = _checked_wheel(target)  # another set-up may have been quicker
        if kept is None:
            raise
        return kept
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return target / wheel.name


def _checked_wheel(folder: Path) -> Path | None:
    if not folder.is_dir():
        return None
    try:
        digest, name = (folder / "SHA256").read_text().split()
        if _sha256(folder / name) == digest:
            return folder / name
        problem = f"{name} does not have the checksum in SHA256"
    except (OSError, ValueError) as error:
        problem = str(error)
    say(f"the kept Horovod wheel is corrupt and will be rebuilt: {folder}: {problem}")
    shutil.rmtree(folder, ignore_errors=True)
    return None


def _compiler(environment: Mapping[str, str]) -> dict[str, str] | None:
    command = compiler_command(environment)
    lines = (output_of([command, "--version"], environment) or "").splitlines()
    return {"command": Path(command).name, "version": lines[0].strip()} if lines else None


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SetupError(
            f"cannot write the cache folder {folder}: {error.strerror}; set DLSPARK_CACHE to another"
        ) from error


def _pins(lock: Path) -> str:
    """A lock file without its comments."""
    lines = (line.split(" #")[0].strip() for line in lock.read_text().splitlines())
    return "\n".join(line for line in lines if line and not line.startswith("#"))


def _version_of(package: str, pins: str) -> str:
    found = re.search(rf"(?m)^{package}==(\S+)", pins)
    if found is None:
        raise SetupError(f"the lock files do not pin {package}: run `make lock`")
    return found[1]


def _digest(inputs: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
