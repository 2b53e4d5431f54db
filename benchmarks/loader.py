r"""The loader against those that people use and against an array in memory, in one run.

    python -m benchmarks.loader --mnist ../shared/data/mnist.tar.gz \
        --photos ../shared/data/imagenet-sample.tar

An epoch of shuffled batches of normalised float32 images, with which nothing is done; each peer is a process
of its own that uses both cores, they run in turn after one warm-up, and ratios are taken turn by turn.

mnist: 60,000 images of 28 x 28, crop out of a padding of 2, mirror, batches of 128.
small: 50,000 parts of photographs as JPEG files of 32 x 32, crop out of a padding of 4, mirror, batches of
256.
photo: 2,004 photographs, random resized crop of 224, mirror, batches of 64; the files as they came, and
resized to a shorter side of 256. dlspark has them ingested at 256 x 256, raw and as JPEG files of quality 90.

memory: an array, the same augmentation in as many threads as there are cores; the limit. first: dlspark's
first epoch in a training, every file from storage; later: the others. The foreign peers' environment is made
by this command, in some minutes the first time.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.foreign_peers import KINDS
from benchmarks.loader_peers import (
    read_first_epoch,
    read_later_epoch,
    read_memory,
    read_petastorm,
    unprepared,
)
from benchmarks.peer_environment import peer_python
from benchmarks.peers import ForeignPeer, Peer, foreign_command
from benchmarks.runs import run_dlspark, say
from benchmarks.workloads import (
    PHOTO,
    SMALL,
    SMALL_COLOUR,
    make_photos,
    make_resized,
    make_small,
    unpack_mnist,
)
from dlspark.cluster.session import spark_session

Runs = dict[str, Callable[[int], None]]
NUM_SMALL, NUM_MNIST, COPIES = 50_000, 60_000, 6


def main() -> None:
    """Make the images and the datasets, then run everybody in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--mnist", type=Path, help="mnist.tar.gz: train/0..9/*.png")
    parser.add_argument("--photos", type=Path, help="imagenet-sample.tar: *.JPEG")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="dlspark-benchmark-") as scratch:
        folder = Path(scratch)
        if options.mnist:
            measure_mnist(options.mnist, folder / "mnist", options.repeats)
        if options.photos:
            measure_small(options.photos, folder / "small", options.repeats)
            measure_photos(options.photos, folder / "photo", options.repeats)


def measure_mnist(archive: Path, folder: Path, repeats: int) -> None:
    """Measure dlspark against memory."""
    _ingest(unpack_mnist(archive, folder), SMALL, {folder / "raw": {"storage": "raw"}})
    say(f"mnist: {NUM_MNIST:,} images of 28 x 28, images/s")
    with ExitStack() as stack:
        rates = _measure(_own_peers(stack, {"": folder / "raw"}, "mnist"), NUM_MNIST, repeats)
    _say_ratios(rates, _OWN_RATIOS)


def measure_small(archive: Path, folder: Path, repeats: int) -> None:
    """Measure everybody on images of CIFAR's size."""
    files = make_small(archive, folder / "made", NUM_SMALL).rename(folder / "files")
    _prepare_peers(folder)
    raw, encoded = folder / "raw", folder / "encoded"
    forms = {raw: {"storage": "raw"}, encoded: {"storage": "encoded"}}
    # Some parts are of one colour, and some of these equal: everybody reads them.
    _ingest(files, SMALL_COLOUR, forms, duplicates="keep", refuse_constant=False)
    say(f"small: {NUM_SMALL:,} images of 32 x 32, images/s")
    with ExitStack() as stack:
        runs = _own_peers(stack, {"": raw}, "small")
        runs |= _foreign_peers(stack, folder, "small", NUM_SMALL)
        petastorm = stack.enter_context(Peer(unprepared, read_petastorm))
        runs["Petastorm's own way"] = partial(petastorm.run, encoded, "small", NUM_SMALL)
        rates = _measure(runs, NUM_SMALL, repeats)
    peers = tuple(name for name in rates if name in KINDS or name.startswith("Petastorm"))
    in_python = tuple(name for name in peers if not name.startswith("DALI"))
    mine = ("dlspark petastorm, later", "dlspark petastorm, first")
    _say_ratios(rates, (*_OWN_RATIOS, *((name, others) for others in (peers, in_python) for name in mine)))


def measure_photos(archive: Path, folder: Path, repeats: int) -> None:
    """Measure everybody on photographs."""
    photos, resized = folder / "originals", folder / "resized"
    for parent in (photos, resized):
        parent.mkdir(parents=True)
    make_photos(archive, folder / "made", copies=COPIES).rename(photos / "files")
    make_resized(photos / "files", folder / "made").rename(resized / "files")
    for made in (photos, resized):
        _prepare_peers(made)
    raw, encoded = folder / "raw", folder / "encoded"
    forms = {raw: {"storage": "raw"}, encoded: {"storage": "encoded", "jpeg_quality": 90}}
    # Half of the images are copies, which ingest would leave out.
    number = _ingest(photos / "files", PHOTO, forms, duplicates="keep")
    say(f"photo: {number:,} photographs, images/s")
    with ExitStack() as stack:
        runs = _own_peers(stack, {"raw ": raw, "encoded ": encoded}, "photo")
        for name, made in (("originals", photos), ("resized", resized)):
            foreign = _foreign_peers(stack, made, "photo", number)
            runs |= {f"{kind}, {name}": run for kind, run in foreign.items()}
        rates = _measure(runs, number, repeats)
    _say_ratios(
        rates,
        [
            (f"dlspark {form} petastorm, {epochs}", (peer,))
            for peer in ("DALI on the CPU, resized", "ImageFolder, Pillow, originals", "memory")
            for form in ("raw", "encoded")
            for epochs in ("later", "first")
        ],
    )


_OWN_RATIOS = tuple(
    (f"dlspark {reader}, {epochs}", ("memory",))
    for reader in ("petastorm", "arrow")
    for epochs in ("later", "first")
)


def _ingest(source: Path, image: Any, datasets: Mapping[Path, Mapping[str, Any]], **options: Any) -> int:
    """Ingest all images for training, once for each dataset with its options; return their number."""
    with spark_session("local[2]", "dlspark benchmark") as spark:
        for dataset, own in datasets.items():
            changes = {"val_share": 0.0, "test_share": 0.0, **own, **options}
            form = changes.pop("storage")
            made = run_dlspark(spark, source, image, dataset, form, **changes)
    return made.manifest.splits["train"].rows


def _prepare_peers(folder: Path) -> None:
    subprocess.run(
        **foreign_command(peer_python(), "prepare", folder, "none"), check=True, capture_output=True
    )


def _own_peers(stack: ExitStack, datasets: Mapping[str, Path], setting: str) -> Runs:
    memory = stack.enter_context(Peer(unprepared, read_memory))
    raw = next(iter(datasets.values()))
    runs: Runs = {"memory": partial(memory.run, raw, setting)}
    for form, dataset in datasets.items():
        for reader in ("petastorm", "arrow"):
            first = stack.enter_context(Peer(unprepared, read_first_epoch))
            later = stack.enter_context(Peer(unprepared, read_later_epoch))
            runs[f"dlspark {form}{reader}, first"] = partial(first.run, dataset, setting, reader)
            runs[f"dlspark {form}{reader}, later"] = partial(later.run, dataset, setting, reader)
    return runs


def _foreign_peers(stack: ExitStack, folder: Path, setting: str, num_images: int) -> Runs:
    python = peer_python()
    peers = {kind: stack.enter_context(ForeignPeer(python, kind, folder, setting)) for kind in KINDS}

    def run(kind: str, _: int) -> None:
        peers[kind].run(num_images)

    return {kind: partial(run, kind) for kind in KINDS}


def _measure(runs: Runs, num_images: int, repeats: int) -> dict[str, list[float]]:
    """Run each in turn with the number of the epoch, once more than asked for; print and return the rates."""
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            started = time.perf_counter()
            run(repeat)
            if repeat:
                rates[name].append(num_images / (time.perf_counter() - started))
    for name, values in rates.items():
        say(f"  {name:<36} {statistics.median(values):>9,.0f}  [{min(values):,.0f} - {max(values):,.0f}]")
    return rates


def _say_ratios(rates: Mapping[str, list[float]], pairs: Sequence[tuple[str, Sequence[str]]]) -> None:
    """Print how many times faster a run is than another, or than the fastest of others, turn by turn."""
    for name, others in pairs:
        limits = [max(turn) for turn in zip(*(rates[other] for other in others), strict=True)]
        ratios = [mine / limit for mine, limit in zip(rates[name], limits, strict=True)]
        against = others[0] if len(others) == 1 else f"fastest of {len(others)} peers"
        say(f"  {name} / {against}: {statistics.median(ratios):.2f} [{min(ratios):.2f} - {max(ratios):.2f}]")


if __name__ == "__main__":
    main()
