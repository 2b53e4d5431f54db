"""The keys that say what a dataset is: its images, its splits, its files, and how images are changed."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from dlspark.config.section import Count, Section, Share


class ImageConfig(Section):
    """What one image becomes at ingest."""

    size: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Height and width in pixels; null keeps the size the images have, which must then be one for all."""
    channels: Literal[1, 3] | None = None
    """1 gray, 3 RGB; null takes 1 if the first image is gray, else 3."""
    resize: Literal["auto", "none", "exact", "shorter", "pad"] = "auto"
    """none: another size is quarantined; exact: stretched; shorter: scaled to cover, the centre cut out; pad:
    scaled to fit, black around it; auto: exact where size is set, else none."""
    jpeg_scale: bool = True
    """Decode a JPEG at 1/2, 1/4 or 1/8 where a resize leaves that enough; faster, pixels close, not equal."""
    min_size: Count = 1
    """An image whose shorter side has fewer pixels in its file is quarantined."""
    constant: Literal["quarantine", "keep"] = "quarantine"
    """What happens to an image whose pixels are all the same."""

    @property
    def resize_policy(self) -> Literal["none", "exact", "shorter", "pad"]:
        """`resize` with auto decided."""
        if self.resize != "auto":
            return self.resize
        return "none" if self.size is None else "exact"

    @model_validator(mode="after")
    def _resize_needs_a_size(self) -> ImageConfig:
        if self.size is None and self.resize not in ("auto", "none"):
            raise ValueError(
                f"resize={self.resize} needs a size to resize to, got size=null; set image.size or "
                "image.resize=none"
            )
        return self


class DataConfig(Section):
    """How images become a published dataset, and how it is read."""

    class_from: Literal["first", "last"] = "first"
    """Class folders: the class is the first folder below the source, or the last one above the file."""
    classes: tuple[str, ...] | None = None
    """Names by label; images of other classes are quarantined. null: the classes of the source, sorted."""
    path_column: str = "path"
    """Lists (CSV or Parquet): the column with the path or URL of each image."""
    image_column: str | None = None
    """Tables: the binary column with the encoded image; null: image, or content where there is no image."""
    label_column: str = "label"
    """Lists and tables: the column with the class name."""
    key_column: str | None = None
    """Lists and tables: a stable unique name of each image; null: its path, else the hash of its bytes."""
    split_column: str | None = None
    """Lists and tables: the column with train, val or test; null: splits are drawn."""
    group_key: str | None = None
    """Images of one group share a split. Lists and tables: a column; else a regular expression whose first
    group, searched in the key, names the group."""
    stratify: bool = False
    """Meet the shares in every class; the price: images that are added may move others."""
    duplicates: Literal["drop", "keep"] = "drop"
    """Images with the same bytes as another: drop all but one, or keep them."""
    val_share: Share = 0.1
    """Share of the images for validation, in [0, 1); membership is a hash of each image's key."""
    test_share: Share = 0.1
    """Share of the images for the test, in [0, 1)."""
    split_seed: Annotated[int, Field(ge=0)] = 0
    """Another seed draws other splits."""
    storage: Literal["auto", "raw", "encoded"] = "auto"
    """raw: uint8 pixels; encoded: files; auto: raw up to raw_budget_bytes, else encoded; logged."""
    jpeg_quality: Annotated[int, Field(ge=1, le=100)] | None = None
    """encoded: images that cannot be stored as they came (resized, say) become JPEG files of this quality, in
    [1, 100], a fifth of the size and read four times as fast; null: PNG files, without loss."""
    raw_budget_bytes: Count = 8 * 1024**3
    """The decoded size of the whole dataset up to which auto stores raw pixels."""
    file_bytes: Count = 16 * 1024**2
    """Decoded bytes of one Parquet file (one row group) at most."""
    num_streams: Annotated[int, Field(ge=1, le=4096)] = 16
    """Canonical streams that a global batch is drawn from; fixed in the manifest."""
    max_quarantined: Annotated[float, Field(ge=0.0, le=1.0)] = 0.01
    """Share of the listed images that may be unreadable before ingest fails, in [0, 1]."""
    max_image_bytes: Count = 256 * 1024**2
    """An image file larger than this is quarantined unread."""
    max_image_pixels: Count = 100_000_000
    """An image with more pixels than this is quarantined undecoded."""
    reader: Literal["petastorm", "arrow"] = "petastorm"
    """Who reads the Parquet files in training; both give the same rows in the same order."""
    prefetch_batches: Count = 4
    """Batches that are prepared ahead of the step that uses them, if there is memory for them."""
    num_threads: Count | None = None
    """Threads of a worker that make batches; null: as many as it has cores."""
    memory_bytes: Count = 2 * 1024**3
    """What a worker may hold of a split: batches and their files, and in the rest files that stay in memory
    from one epoch to the next."""

    @model_validator(mode="after")
    def _leave_rows_for_training(self) -> DataConfig:
        if self.val_share + self.test_share >= 1.0:
            raise ValueError(
                f"val_share + test_share must be below 1, got {self.val_share} + {self.test_share}: "
                "no image would be left for training"
            )
        return self

    @model_validator(mode="after")
    def _stratify_without_groups(self) -> DataConfig:
        if self.stratify and self.group_key is not None:
            raise ValueError(
                f"stratify=true cannot keep groups together, got group_key={self.group_key}; unset one"
            )
        return self


class AugmentConfig(Section):
    """Random changes to training images: on the fly, each depends on (train.seed, epoch, row id) only."""

    mirror: bool = False
    """Mirror left to right with probability 1/2."""
    crop_padding: Annotated[int, Field(ge=0, le=64)] = 0
    """Pad by so many pixels (zeros) and crop at a random place."""
    crop_size: Count | None = None
    """Height and width that the network sees: a random crop in training, the centre elsewhere; null: all."""
    crop_min_area: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """Above 0: crop a random part of at least this share of the area and scale it to crop_size."""
    rotate_degrees: Annotated[float, Field(ge=0.0, le=180.0)] = 0.0
    """Rotate about the centre by up to so many degrees either way; black outside."""
    elastic: Annotated[float, Field(ge=0.0, le=64.0)] = 0.0
    """Distort smoothly, each point by up to so many pixels either way (Simard et al. 2003); black outside."""
    colour: Share = 0.0
    """Scale brightness, contrast and saturation by up to this share either way, in [0, 1)."""
    randaugment_ops: Annotated[int, Field(ge=0)] = 0
    """RandAugment: operations on each image, of 14 (shears, shifts, turns, colours, ...); 0: none. Slow."""
    randaugment_magnitude: Annotated[int, Field(ge=0, le=30)] = 9
    """Strength of all operations of RandAugment."""
    erase: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """Probability of a black rectangle of 2 to 20% of the area."""
    copies: Annotated[int, Field(ge=0, le=100)] = 0
    """Changed copies of each training image that ingest stores; on-the-fly changes are then off."""
    mixup_alpha: Annotated[float, Field(ge=0.0)] = 0.0
    """Above 0: train on share * image + (1 - share) * another, labels too; share from Beta(alpha, alpha)."""
    cutmix_alpha: Annotated[float, Field(ge=0.0)] = 0.0
    """Above 0: train on images with a rectangle of another, labels by area, 1 - its area from Beta(alpha,
    alpha). With both set, each image draws one of the two."""

    @property
    def changes(self) -> dict[str, Any]:
        """The changes to one image: the arguments of dlspark.data.augment.Augmentation."""
        return self.model_dump(exclude={"copies", *self.mixing})

    @property
    def mixing(self) -> dict[str, float]:
        """What mixes two images: the arguments of dlspark.data.mix.Mixing."""
        return {"mixup_alpha": self.mixup_alpha, "cutmix_alpha": self.cutmix_alpha}

    @property
    def switches(self) -> dict[str, Any]:
        """Those of the changes to one image that are on, by the name of their key."""
        # A strength without operations changes nothing.
        return {name: on for name, on in self.changes.items() if on and name != "randaugment_magnitude"}

    @model_validator(mode="after")
    def _copies_are_changed(self) -> AugmentConfig:
        if self.copies and not self.switches:
            raise ValueError(
                f"copies={self.copies} would repeat the images as they are; set mirror, crop_padding, "
                "rotate_degrees, elastic, colour, randaugment_ops or erase, or copies=0"
            )
        if self.copies and self.crop_size:
            raise ValueError(
                f"copies={self.copies} are stored in the size of the images, got crop_size={self.crop_size}; "
                "set image.size instead, or copies=0"
            )
        return self

    @model_validator(mode="after")
    def _one_kind_of_crop(self) -> AugmentConfig:
        if self.crop_min_area and self.crop_padding:
            raise ValueError(
                f"crop_min_area={self.crop_min_area} takes parts of the image, which crop_padding="
                f"{self.crop_padding} would not pad; set one of them to 0"
            )
        return self
