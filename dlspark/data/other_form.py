"""A sample of a dataset in a storage form of choice, to see what the other form would cost to read."""

from __future__ import annotations

import dataclasses

from dlspark import storage
from dlspark.data.columns import FileColumns, pixels_of
from dlspark.data.images import encode_png
from dlspark.data.layout import FilePlace
from dlspark.data.manifest import FileEntry, Manifest, SplitEntry
from dlspark.data.parquet_file import FileReport, FileRows, Provenance, Storage, store_rows
from dlspark.data.verify import read_file


def copy_in_form(dataset: str, manifest: Manifest, form: Storage, target: str, *, max_rows: int) -> Manifest:
    """Write the first files of the train split again, in a storage form.

    Args:
        dataset: URL.
        manifest: of the dataset.
        form: of the copy; images of storage encoded become PNG.
        target: URL of the copy's folder.
        max_rows: the copy ends with the file that reaches them.

    Returns:
        The manifest of the copy, which is not written: nobody is to take it for a dataset.

    Raises:
        DatasetError: a file is missing or damaged.
    """
    entries: list[FileEntry] = []
    for index, entry in enumerate(manifest.splits["train"].files):
        if sum(written.rows for written in entries) >= max_rows:
            break
        rows = _rows_of(dataset, manifest, entry, form)
        report = store_rows(rows, FilePlace(split="train", index=index), dataset=target, attempt="copy")
        entries.append(_entry_of(report))
    num_rows = sum(entry.rows for entry in entries)
    empty = SplitEntry(rows=0, class_rows=(0,) * len(manifest.classes), files=())
    split = dataclasses.replace(empty, rows=num_rows, files=tuple(entries))
    return dataclasses.replace(
        manifest, storage=form, splits={"train": split, "val": empty, "test": empty}, quarantine_files=()
    )


def _rows_of(dataset: str, manifest: Manifest, entry: FileEntry, form: Storage) -> FileRows:
    image = manifest.preprocessing.image
    table = read_file(dataset, entry)
    columns = FileColumns(
        row_ids=table["row_id"].to_numpy(),
        labels=table["label"].to_numpy(),
        images=table["image"].chunk(0),
    )
    pixels = pixels_of(columns, image, manifest.storage, where=storage.join(dataset, entry.path))
    origins = zip(*(table[name].to_pylist() for name in Provenance._fields), strict=True)
    rows = FileRows(image, form, most=table.num_rows)
    names = (table["row_id"].to_pylist(), table["key"].to_pylist(), table["label"].to_pylist())
    for row_id, key, label, picture, origin in zip(*names, pixels, origins, strict=True):
        encoded = encode_png(picture) if form == "encoded" else b""
        rows.append(row_id, key, label, picture, Provenance(*origin), encoded=encoded)
    return rows


def _entry_of(report: FileReport) -> FileEntry:
    assert report.path is not None  # noqa: S101 - a file of a manifest has rows
    return FileEntry(
        path=report.path,
        rows=report.rows,
        num_bytes=report.num_bytes,
        checksum=report.checksum,
        min_row_id=report.min_row_id,
        max_row_id=report.max_row_id,
    )
