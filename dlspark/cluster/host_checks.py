"""What one Spark task finds out about its host, for the driver to judge.

This file is shipped by value, with `connections`, and needs the standard library and pyspark only: it must
run, and say so, where dlspark is missing or another one. Storage is asked in threads that are left behind
when they do not answer: a mount that hangs is then named like any other fault.
"""

from __future__ import annotations

import hashlib
import platform
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dlspark.cluster.connections import Ports, listening, meet_others

MISSING = "missing"
DRIVER_FILE = "driver"
"""Name of the file that the driver puts into the probe folder."""
STORAGE_SECONDS = 6.0


def look_at_host(
    rows: Iterable[int],
    *,
    packages: Sequence[str],
    meeting: tuple[tuple[str, ...], int, str],
    ports: Ports | None,
    interface: str | None,
    manifest: str | None,
    run_dir: str | None,
    probe: str | None,
) -> Iterator[dict[str, Any]]:
    """Look at this host, in a task of a barrier stage.

    Args:
        rows: of the task's partition; not looked at.
        packages: whose versions are asked.
        meeting: with the other tasks; see `dlspark.cluster.meeting`.
        ports: on which the ranks would listen; None: any.
        interface: over which the ranks would talk; None: the one that leads to the address Spark knows.
        manifest: URL of the dataset's manifest; None: there is no dataset to read.
        run_dir: URL or path of the run directory, for the room on its disk; None: it is not looked at.
        probe: URL of a folder in the run directory, in which the driver has put `DRIVER_FILE`; None: none.

    Yields:
        The fields of a `HostRecord` that this host can tell.
    """
    from pyspark import BarrierTaskContext

    context = BarrierTaskContext.get()
    task = context.partitionId()
    addresses = [info.address.rpartition(":")[0].strip("[]") for info in context.getTaskInfos()]
    dataset = _Asked(lambda: _read_manifest(manifest))
    run = _Asked(lambda: (_use_probe(probe, task), free_bytes(run_dir)))
    # One task of each host listens: a range need not hold more ports than a launch takes there.
    ranges = dict.fromkeys((ports, None)) if addresses.index(addresses[task]) == task else ()
    with listening(ranges, interface, addresses[task], backlog=max(128, len(addresses))) as place:
        address, own_ports, cannot_listen = place
        met = meet_others(meeting, task, address, own_ports)
    dataset_digest, dataset_error = dataset.answer(None)
    (sees_driver_file, run_dir_free_bytes), run_dir_error = run.answer((True, None))
    yield {
        "task": task,
        "host": socket.gethostname(),
        "address": address,
        "cannot_listen": cannot_listen,
        "versions": installed_versions(packages),
        "has_horovod_torch": has_horovod_torch(),
        "temporary_free_bytes": shutil.disk_usage(tempfile.gettempdir()).free,
        "temporary_folder": tempfile.gettempdir(),
        "run_dir_free_bytes": run_dir_free_bytes,
        "shared_free_bytes": free_bytes("/dev/shm"),  # noqa: S108 - the kernel's name for shared memory
        "has_gpu": Path("/dev/nvidiactl").exists(),
        "dataset_digest": dataset_digest,
        "dataset_error": dataset_error,
        "sees_driver_file": sees_driver_file,
        "run_dir_error": run_dir_error,
        **met,
    }


def installed_versions(packages: Sequence[str]) -> dict[str, str]:
    """Return the version of Python and of each package, `missing` where there is none; imports no package."""
    versions = {"python": platform.python_version()}
    for package in packages:
        if find_spec(package) is None:
            # Its metadata may be there nevertheless, as those of an editable installation are.
            versions[package] = MISSING
            continue
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            # Spark's own Python, and what --py-files ships, may lie on the path without metadata.
            versions[package] = str(getattr(sys.modules.get(package), "__version__", MISSING))
    return versions


def has_horovod_torch() -> bool:
    """Tell whether Horovod's library for PyTorch was built here; it is not loaded, which would load torch."""
    try:
        spec = find_spec("horovod")
    except (ImportError, ValueError):
        return False
    return spec is not None and any(
        any(Path(folder, "torch").glob("mpi_lib_v2*")) for folder in spec.submodule_search_locations or ()
    )


def free_bytes(path: str | None) -> int | None:
    """Return the free bytes of the disk that holds a local path or its nearest parent; None if not local."""
    if path is None or not path.startswith("/"):
        return None
    found = next(folder for folder in (Path(path), *Path(path).parents) if folder.exists())
    return shutil.disk_usage(found).free


class _Asked:
    """A question to some storage, asked in a thread from now on."""

    def __init__(self, ask: Callable[[], Any]) -> None:
        self._answers: list[Any] = []
        self._error = f"no answer within {STORAGE_SECONDS:g} s"
        self._deadline = time.monotonic() + STORAGE_SECONDS

        def work() -> None:
            try:
                self._answers.append(ask())
            except Exception as error:  # noqa: BLE001 - each storage has its own; the driver is told
                line = (str(error).splitlines() or [""])[0]
                self._error = f"{type(error).__name__}: {line}"

        self._thread = threading.Thread(target=work, daemon=True)
        self._thread.start()

    def answer(self, otherwise: Any) -> tuple[Any, str | None]:
        """Return (what it came to, None), or (otherwise, the error)."""
        self._thread.join(max(0.0, self._deadline - time.monotonic()))
        return (self._answers[0], None) if self._answers else (otherwise, self._error)


def _read_manifest(url: str | None) -> str | None:
    if url is None:
        return None
    from dlspark import storage

    return hashlib.sha256(storage.read_bytes(url)).hexdigest()


def _use_probe(folder: str | None, task: int) -> bool:
    """Tell whether the driver's file is seen here; if it is, write a file beside it, read and remove it."""
    if folder is None:
        return True
    from dlspark import storage

    try:
        token = storage.read_bytes(storage.join(folder, DRIVER_FILE))
    except FileNotFoundError:
        return False
    url = storage.join(folder, f"task-{task:05d}")
    storage.write_bytes(url, token)
    if storage.read_bytes(url) != token:
        raise OSError("what was written is not what is read back")
    storage.remove_tree(url)
    return True
