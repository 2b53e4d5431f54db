"""What the audit finds on MNIST with planted twins: recall by kind, false alarms, seconds.

python -m benchmarks.audit ARCHIVE [SHEET.png]: ARCHIVE is a tar file of train/<class>/*.png and
test/<class>/*.png; of the train images every tenth becomes val. Twins are planted across splits, seeded.
"""

from __future__ import annotations

import io
import json
import sys
import tarfile
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from dlspark.cluster.session import spark_session
from dlspark.contracts import Split
from dlspark.data.audit.audit import audit
from dlspark.data.audit.clusters import read_pairs
from dlspark.data.audit.pixels import pixels_of_pairs
from dlspark.inspection.pairs_sheet import draw_pairs
from dlspark.progress import show_progress
from tests.unit.data.audit.planted import NEAR_KINDS, Planted, near_twin, png_of, write_dataset

PER_KIND = 100
SEED = 7
EXACT_KINDS = ("same_bytes", "same_pixels")


def read_images(archive: str) -> list[Planted]:
    rows = []
    with tarfile.open(archive) as tar:
        for member in tar:
            if not member.name.endswith(".png"):
                continue
            folder, label, _ = member.name.rsplit("/", 3)[-3:]
            data = tar.extractfile(member).read()  # type: ignore[union-attr]
            split: Split = "test" if folder.endswith("test") else "val" if len(rows) % 10 == 0 else "train"
            pixels = np.asarray(Image.open(io.BytesIO(data)).convert("L"))[..., None]
            rows.append(Planted(member.name, int(label), split, pixels, data))
    return rows


def plant(rows: list[Planted]) -> dict[tuple[str, str], str]:
    """Add twins to the rows; return the kind of each planted pair by its sorted keys."""
    rng = np.random.default_rng(SEED)
    kinds = (*EXACT_KINDS, *NEAR_KINDS)
    chosen = rng.choice(len(rows), PER_KIND * len(kinds), replace=False)
    planted = {}
    for place, index in enumerate(chosen.tolist()):
        kind, row = kinds[place % len(kinds)], rows[index]
        pixels = row.pixels if kind in EXACT_KINDS else near_twin(row.pixels, kind, rng)
        source = row.source if kind == "same_bytes" else png_of(pixels, place % 256)
        key = f"planted/{kind}/{place}.png"
        rows.append(Planted(key, row.label, "train" if row.split == "test" else "test", pixels, source))
        planted[tuple(sorted((row.key, key)))] = kind
    return planted


def main() -> None:
    rows = read_images(sys.argv[1])
    planted = plant(rows)
    with tempfile.TemporaryDirectory() as folder:
        manifest = write_dataset(folder, rows, classes=[str(digit) for digit in range(10)], file_rows=4000)
        with spark_session("local[2]", "audit") as spark, show_progress("audit", "tasks") as progress:
            spark.range(1).count()
            started = time.monotonic()
            report = audit(spark, folder, manifest, progress=progress)
            seconds = time.monotonic() - started
        pairs = read_pairs(folder).to_pylist()
        found = {tuple(sorted((pair["key_a"], pair["key_b"]))): pair for pair in pairs}
        recall = Counter(kind for names, kind in planted.items() if names in found)
        false = [pair for names, pair in found.items() if names not in planted]
        print(json.dumps({k: v for k, v in report.to_json().items() if k != "examples"}, indent=1))
        for kind in (*EXACT_KINDS, *NEAR_KINDS):
            print(f"{kind:16s} {recall[kind]:4d} of {PER_KIND}")
        near = sum(recall[kind] for kind in NEAR_KINDS)
        print(
            f"near in all      {near} of {PER_KIND * len(NEAR_KINDS)}:"
            f" {near / PER_KIND / len(NEAR_KINDS):.1%}"
        )
        print(f"unplanted pairs  {len(false)}, by kind {dict(Counter(pair['kind'] for pair in false))},")
        print(f"  by transform {dict(Counter(pair['transform'] for pair in false))},")
        print(f"  by label {dict(Counter(pair['label_a'] for pair in false).most_common())},")
        print(f"  with different labels {sum(pair['label_conflict'] for pair in false)}")
        print(f"  similarity >= 0.99: {sum(pair['similarity'] >= 0.99 for pair in false)}; {seconds:.1f} s")
        if len(sys.argv) > 2:
            rng = np.random.default_rng(SEED)
            some = [false[i] for i in rng.choice(len(false), min(40, len(false)), replace=False).tolist()]
            pixels = pixels_of_pairs(folder, manifest, some)
            sheet = [(pair, *both) for pair, both in zip(some, pixels, strict=True)]
            draw_pairs(sheet, str(Path(sys.argv[2]).resolve()), classes=manifest.classes)


if __name__ == "__main__":
    main()
