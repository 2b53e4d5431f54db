"""The 1,797 real handwritten digits of scikit-learn as PNG class folders: the source builtin:digits.

They are the test set of Alpaydin and Kaynak (1998), UCI "Optical Recognition of Handwritten Digits": 8 x 8
pixels, values 0 to 16. They let the whole pipeline run on real images without a download.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dlspark import storage
from dlspark.data.images import encode_png
from dlspark.errors import OutputExistsError

NUM_DIGITS = 1797
_MARKER = "_digits.json"


def write_digits(folder: str) -> int:
    """Write the digits into class folders 0 to 9, as 8-bit gray PNG; a complete folder is left as it is.

    The values 0..16 become round(value * 255 / 16), so that 0 is black and 16 is white. A small file says
    whether the folder is complete, so that a call that was interrupted is finished by the next one.

    Args:
        folder: URL of a folder that is absent, empty, or was written by this function.

    Returns:
        The number of images in the folder, 1,797.

    Raises:
        OutputExistsError: the folder holds something else.
    """
    marker = storage.join(folder, _MARKER)
    if storage.exists(marker):
        if storage.read_json(marker)["complete"]:
            return NUM_DIGITS
    elif storage.list_names(folder):
        raise OutputExistsError(
            "the digits would be written into a folder that holds something else",
            where=storage.absolute(folder),
            fix="name an empty folder, or move its content away",
        )
    storage.write_json(marker, {"complete": False, "images": NUM_DIGITS})
    values, labels = _read_digits()
    pixels = np.rint(values * (255 / 16)).astype(np.uint8)[..., np.newaxis]
    for label in range(10):
        storage.make_folder(storage.join(folder, str(label)))
    filesystem, path = storage.resolve(folder)
    for index, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        # Not storage.write_bytes: the marker makes the whole atomic, and 1,797 flushes to disk take seconds.
        filesystem.pipe_file(storage.join(path, str(label), f"{index:04d}.png"), encode_png(image))
    storage.write_json(marker, {"complete": True, "images": NUM_DIGITS})
    return NUM_DIGITS


def _read_digits() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the values, float64 [1797, 8, 8], and labels, int64 [1797], of scikit-learn's `load_digits`.

    They are read from its file: importing scikit-learn takes longer than the ingest.
    """
    spec = find_spec("sklearn")
    assert spec is not None  # noqa: S101 - a dependency
    assert spec.origin is not None  # noqa: S101
    table = np.loadtxt(Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz", delimiter=",")
    return table[:, :-1].reshape(-1, 8, 8), table[:, -1].astype(np.int64)
