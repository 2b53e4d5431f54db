"""The loaders that people use, each the way its documentation shows, as a process that reads epochs.

    python -m benchmarks.foreign_peers KIND FOLDER SETTING

FOLDER holds what `prepare` made of class folders of JPEG files. SETTING is `small` (32 pixels: crop out of a
padding of 4, mirror, batches of 256) or `photo` (random resized crop of 224, mirror, batches of 64); images
come out as normalised float32. For every line on stdin an epoch is read, and the number of its images
printed. All use two worker processes or threads, which live from epoch to epoch.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.io import ImageReadMode, decode_jpeg, read_file
from torchvision.transforms import v2

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZES = {"small": 32, "photo": 224}
BATCH_SIZES = {"small": 256, "photo": 64}
WORKERS = 2
_SHUFFLE_BUFFER = 5000


def pillow_changes(setting: str) -> Callable[[Any], torch.Tensor]:
    """Return the changes to a Pillow image, by torchvision's first transforms: the faster ones for Pillow."""
    crop = transforms.RandomCrop(32, padding=4) if setting == "small" else transforms.RandomResizedCrop(224)
    changes: Callable[[Any], torch.Tensor] = transforms.Compose(
        [
            *(_to_rgb, crop, transforms.RandomHorizontalFlip(), transforms.ToTensor()),
            transforms.Normalize(MEAN, STD),
        ]
    )
    return changes


def tensor_changes(setting: str) -> Callable[[Any], torch.Tensor]:
    """Return the changes to a uint8 tensor [C, H, W], by torchvision's second transforms."""
    crop = v2.RandomCrop(32, padding=4) if setting == "small" else v2.RandomResizedCrop(224, antialias=True)
    changes: Callable[[Any], torch.Tensor] = v2.Compose(
        [
            *(crop, v2.RandomHorizontalFlip(), v2.ToDtype(torch.float32, scale=True)),
            v2.Normalize(MEAN, STD),
        ]
    )
    return changes


def folder_pillow(folder: Path, setting: str) -> Iterable[Any]:
    """torchvision's ImageFolder with Pillow."""
    from torchvision.datasets import ImageFolder

    return _loader(ImageFolder(str(folder / "files"), pillow_changes(setting)), setting, shuffle=True)


def folder_torchvision(folder: Path, setting: str) -> Iterable[Any]:
    """torchvision's ImageFolder with torchvision's JPEG decoder."""
    from torchvision.datasets import ImageFolder

    files = ImageFolder(str(folder / "files"), tensor_changes(setting), loader=_decode)
    return _loader(files, setting, shuffle=True)


def hugging_face(folder: Path, setting: str) -> Iterable[Any]:
    """Hugging Face datasets on disk, with_transform."""
    import datasets

    dataset = datasets.load_from_disk(str(folder / "hugging_face"))
    return _loader(
        dataset.with_transform(partial(_change_columns, pillow_changes(setting))), setting, shuffle=True
    )


def webdataset(folder: Path, setting: str) -> Iterable[Any]:
    """WebDataset's shards."""
    import webdataset as wds

    shards = [str(path) for path in sorted((folder / "webdataset").glob("*.tar"))]
    samples = wds.WebDataset(shards, shardshuffle=len(shards), seed=0)
    samples = samples.shuffle(_SHUFFLE_BUFFER).decode("pil").to_tuple("jpg", "cls")
    return _loader(samples.map_tuple(pillow_changes(setting), _same), setting)


def mosaic(folder: Path, setting: str) -> Iterable[Any]:
    """Mosaic Streaming's shards."""
    from streaming import StreamingDataset
    from streaming.base.util import clean_stale_shared_memory

    clean_stale_shared_memory()
    changes = pillow_changes(setting)

    class Changed(StreamingDataset):  # type: ignore[misc] # untyped
        def __getitem__(self, index: int) -> Any:
            sample = super().__getitem__(index)
            return changes(sample["image"]), sample["label"]

    return _loader(
        Changed(local=str(folder / "mosaic"), shuffle=True, batch_size=BATCH_SIZES[setting]), setting
    )


def dali(folder: Path, setting: str) -> Iterable[Any]:
    """NVIDIA DALI on the CPU; its decoder cuts the random part out while it decodes."""
    from nvidia.dali import fn, pipeline_def, types
    from nvidia.dali.plugin.base_iterator import LastBatchPolicy
    from nvidia.dali.plugin.pytorch import DALIClassificationIterator

    @pipeline_def(
        batch_size=BATCH_SIZES[setting], num_threads=WORKERS, device_id=None, prefetch_queue_depth=2
    )
    def pipeline() -> Any:
        data, labels = fn.readers.file(
            file_root=str(folder / "files"), random_shuffle=True, name="files", initial_fill=_SHUFFLE_BUFFER
        )
        options: dict[str, Any] = {}
        if setting == "small":
            images = fn.decoders.image(data, output_type=types.RGB)
            # A window of 32 pixels somewhere over the image with 4 black pixels around it.
            images = fn.pad(images, axes=(0, 1), shape=(36, 36))
            images = fn.crop(
                images, crop=(40, 40), crop_pos_x=1.0, crop_pos_y=1.0, out_of_bounds_policy="pad"
            )
            options = {
                "crop": (32, 32),
                "crop_pos_x": fn.random.uniform(range=(0.0, 1.0)),
                "crop_pos_y": fn.random.uniform(range=(0.0, 1.0)),
            }
        else:
            images = fn.decoders.image_random_crop(data, output_type=types.RGB)
            images = fn.resize(images, size=(224, 224), antialias=True)
        images = fn.crop_mirror_normalize(
            images,
            mean=[255 * value for value in MEAN],
            std=[255 * value for value in STD],
            mirror=fn.random.coin_flip(probability=0.5),
            dtype=types.FLOAT,
            output_layout="CHW",
            **options,
        )
        return images, labels

    batches = DALIClassificationIterator(
        pipeline(), reader_name="files", last_batch_policy=LastBatchPolicy.PARTIAL, auto_reset=True
    )
    return _DaliBatches(batches)


class _DaliBatches:
    def __init__(self, batches: Any) -> None:
        self._batches = batches

    def __iter__(self) -> Any:
        for (batch,) in self._batches:
            yield batch["data"], batch["label"]


KINDS: dict[str, Callable[[Path, str], Iterable[Any]]] = {
    "ImageFolder, Pillow": folder_pillow,
    "ImageFolder, decode_jpeg": folder_torchvision,
    "Hugging Face datasets": hugging_face,
    "WebDataset": webdataset,
    "Mosaic Streaming": mosaic,
    "DALI on the CPU": dali,
}


def _loader(dataset: Any, setting: str, **options: Any) -> DataLoader[Any]:
    return DataLoader(
        dataset, batch_size=BATCH_SIZES[setting], num_workers=WORKERS, persistent_workers=True, **options
    )


def _to_rgb(image: Any) -> Any:
    return image.convert("RGB")


def _decode(path: str) -> torch.Tensor:
    return decode_jpeg(read_file(path), mode=ImageReadMode.RGB)


def _same(value: Any) -> Any:
    return value


def _change_columns(changes: Callable[[Any], torch.Tensor], columns: dict[str, Any]) -> dict[str, Any]:
    return {"image": [changes(image) for image in columns["image"]], "label": columns["label"]}


def prepare(folder: Path) -> None:
    """Write the files in `folder`/files in the forms of those who have their own."""
    import datasets
    import webdataset as wds
    from streaming import MDSWriter

    files = sorted((folder / "files").rglob("*.jpeg"))
    labels = [int(path.parent.name) for path in files]
    columns = {"image": [{"bytes": path.read_bytes(), "path": None} for path in files], "label": labels}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(str(folder / "hugging_face"))
    (folder / "webdataset").mkdir()
    shard_files = max(1, min(1000, len(files) // 8))
    with wds.ShardWriter(str(folder / "webdataset" / "%05d.tar"), maxcount=shard_files, verbose=0) as shards:
        for index, (path, label) in enumerate(zip(files, labels, strict=True)):
            shards.write({"__key__": f"{index:08d}", "jpg": path.read_bytes(), "cls": label})
    with MDSWriter(out=str(folder / "mosaic"), columns={"image": "jpeg", "label": "int"}) as samples:
        for path, label in zip(files, labels, strict=True):
            samples.write({"image": Image.open(path), "label": label})  # the file's own bytes


def main() -> None:
    """Serve epochs to the benchmark."""
    kind, folder, setting = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the libraries print too
    if kind == "prepare":
        prepare(folder)
        answers.write("null\n")
        return
    batches = None
    for _ in sys.stdin:
        # Made in the first epoch, which is not timed; so are the workers.
        batches = batches if batches is not None else KINDS[kind](folder, setting)
        number = 0
        for batch in batches:
            images, _labels = batch.values() if isinstance(batch, dict) else batch
            if tuple(images.shape[-2:]) != (SIZES[setting],) * 2:
                raise AssertionError(f"{kind}: images of shape {tuple(images.shape)}")
            number += len(images)
        answers.write(json.dumps(number) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
