"""The typed configuration: every key a user may set, with its meaning, unit, range and default.

The files of conf/ carry the same keys; tests hold the two together. Objects are frozen and keyword-only, and
only pipelines/ and dlspark.worker unpack them: the rooms below take plain arguments.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Share = Annotated[float, Field(ge=0.0, lt=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=1)]
Activation = Literal["sigmoid", "tanh", "relu", "leaky_relu"]


class Section(BaseModel):
    """A part of the configuration: an unknown key, a wrong type or a value out of range is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, protected_namespaces=())


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
    """raw: uint8 pixels; encoded: PNG bytes; auto: raw up to raw_budget_bytes, else encoded; logged."""
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
    """Batches that are prepared ahead of the step that uses them."""

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


class MlpConfig(Section):
    """Fully connected layers on the flattened image; no hidden layer makes it a (multi-class) perceptron."""

    name: Literal["mlp"] = "mlp"
    hidden: tuple[Count, ...] = (500, 500)
    """Units of each hidden layer."""
    activation: Activation = "relu"
    dropout_input: Share = 0.0
    """Share of the inputs set to 0 in training."""
    dropout_hidden: Share = 0.0
    """Share of the hidden units set to 0 in training."""


class LeNet5Config(Section):
    """LeNet-5 (LeCun et al. 1998): convolution 6, pool, convolution 16, pool, dense 120, dense 84."""

    name: Literal["lenet5"] = "lenet5"
    activation: Activation = "tanh"


class MnistCnnConfig(Section):
    """The lecture's CNN: conv 32, conv 64, subsample 2x2, dropout, dense, dropout, output."""

    name: Literal["mnist_cnn"] = "mnist_cnn"
    widths: tuple[Count, Count] = (32, 64)
    """Filters of the two 3x3 convolutions."""
    padding: Literal["valid", "same"] = "valid"
    """valid: no padding, each convolution takes 2 pixels; same: the size is kept (for tiny images)."""
    dense: Count = 128
    """Units of the dense layer."""
    activation: Activation = "relu"
    dropout_features: Share = 0.25
    """After the subsampling."""
    dropout_dense: Share = 0.5
    """After the dense layer."""


class ResNet18Config(Section):
    """torchvision's ResNet-18 (He et al. 2015), with batch normalisation."""

    name: Literal["resnet18"] = "resnet18"
    stem: Literal["auto", "imagenet", "small"] = "auto"
    """imagenet: 7x7 stride 2 and pool; small: 3x3 stride 1, no pool; auto: small up to 64 pixels."""


ModelConfig = Annotated[
    MlpConfig | LeNet5Config | MnistCnnConfig | ResNet18Config, Field(discriminator="name")
]


class SgdConfig(Section):
    """Stochastic gradient descent, with momentum where asked (torch.optim.SGD)."""

    name: Literal["sgd"] = "sgd"
    lr: Positive = 0.1
    """Learning rate of the global batch; never scaled by the number of workers."""
    momentum: Share = 0.0
    nesterov: bool = False
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    """L2 penalty on weights; norms and biases are left out."""

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> SgdConfig:
        if self.nesterov and self.momentum == 0.0:
            raise ValueError("nesterov=true needs a momentum above 0, got momentum=0")
        return self


class AdamConfig(Section):
    """Adam (Kingma and Ba 2015) or AdamW (Loshchilov and Hutter 2019)."""

    name: Literal["adam", "adamw"] = "adam"
    lr: Positive = 0.001
    """Learning rate; never scaled by the number of workers."""
    betas: tuple[Share, Share] = (0.9, 0.999)
    eps: Positive = 1e-8
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    """On weights only; norms and biases are left out."""


OptimizerConfig = Annotated[SgdConfig | AdamConfig, Field(discriminator="name")]


class ScheduleConfig(Section):
    """The learning rate over the optimizer steps of the run, as a factor on optimizer.lr."""

    name: Literal["constant", "cosine", "step", "exponential"] = "constant"
    warmup_epochs: Annotated[float, Field(ge=0.0)] = 0.0
    """Linear rise from 0 over so many epochs."""
    step_epochs: Count = 10
    """step: epochs between two falls."""
    gamma: Annotated[float, Field(gt=0.0, le=1.0)] = 0.1
    """step: factor at each fall; exponential: factor per epoch."""


class AugmentConfig(Section):
    """Random changes to training images: on the fly, each depends on (train.seed, epoch, row id) only."""

    mirror: bool = False
    """Mirror left to right with probability 1/2."""
    crop_padding: Annotated[int, Field(ge=0, le=64)] = 0
    """Pad by so many pixels (zeros) and crop back at a random place."""
    rotate_degrees: Annotated[float, Field(ge=0.0, le=180.0)] = 0.0
    """Rotate about the centre by up to so many degrees either way; black outside."""
    colour: Share = 0.0
    """Scale brightness, contrast and saturation by up to this share either way, in [0, 1)."""
    erase: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """Probability of a black rectangle of 2 to 20% of the area."""
    copies: Annotated[int, Field(ge=0, le=100)] = 0
    """Changed copies of each training image that ingest stores; on-the-fly changes are then off."""

    @property
    def changes(self) -> dict[str, Any]:
        """All but `copies`: the arguments of dlspark.data.augment.Augmentation."""
        return self.model_dump(exclude={"copies"})

    @model_validator(mode="after")
    def _copies_are_changed(self) -> AugmentConfig:
        if self.copies and not any(self.changes.values()):
            raise ValueError(
                f"copies={self.copies} would repeat the images as they are; set mirror, crop_padding, "
                "rotate_degrees, colour or erase, or copies=0"
            )
        return self


class TrainConfig(Section):
    """The optimisation."""

    epochs: Count = 12
    global_batch_size: Count = 128
    """Rows of one optimizer step over all workers; the last batch of an epoch may be smaller."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the initial weights, the shuffle, the augmentation and dropout."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bf16 autocast where the hardware has it, else fp32; evaluation is always fp32."""


class ClusterConfig(Section):
    """Where the work runs."""

    backend: Literal["horovod", "local"] = "horovod"
    """horovod: processes on the Spark executors; local: one process on the driver, no Spark."""
    workers: Count = 2
    """Processes that train together."""
    master: str = "local-cluster[2,1,2048]"
    """The Spark master of a session that dlspark opens itself; a session that is there already is used."""
    slots_timeout_seconds: Positive = 20.0
    """How long to wait for executors before too few slots are an error."""
    start_timeout_seconds: Positive = 120.0
    """How long the workers may take to find each other."""
    threads_per_worker: Count | None = None
    """torch threads of a worker; null: the host's cores shared by the workers on it."""


class TrackingConfig(Section):
    """Where runs are recorded."""

    uri: str = "sqlite:///mlflow.db"
    """MLflow tracking URI; a sqlite path is relative to the working directory of the driver."""
    experiment: str = "dlspark"
    run_name: str | None = None
    system_metrics_seconds: Positive = 5.0
    """Sampling interval of processor, memory, disk and network of the driver's host."""
    registered_model: str | None = None
    """The name under which `full` registers the model; null registers none."""
    alias: str = "champion"
    """The alias that is moved to the registered version."""


class PredictConfig(Section):
    """Scoring of images with Spark."""

    model: str | None = None
    """A run directory, or an MLflow model URI (models:/digits@champion)."""
    output: str | None = None
    """Folder of the Parquet files that are written."""
    batch_size: Count = 256
    """Images that go through the network at once."""


class Config(Section):
    """One run of one stage."""

    source: str | None = None
    """Class folders (pre-split or not), a CSV or Parquet list, table:NAME, MNIST's or CIFAR-10's binary
    files, or builtin:digits."""
    dataset: str | None = None
    """Folder of the published dataset."""
    run_dir: str | None = None
    """Folder of the run: checkpoints, journal, resolved configuration; on storage every worker reaches."""
    overwrite: bool = False
    """Replace an output of dlspark that is there already."""
    split: Literal["train", "val", "test"] = "test"
    """The split that `evaluate` reads."""
    experiment: str | None = None
    """The file of conf/experiment that was chosen."""
    image: ImageConfig = ImageConfig()
    data: DataConfig = DataConfig()
    model: ModelConfig = MnistCnnConfig()
    optimizer: OptimizerConfig = AdamConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    augment: AugmentConfig = AugmentConfig()
    train: TrainConfig = TrainConfig()
    cluster: ClusterConfig = ClusterConfig()
    tracking: TrackingConfig = TrackingConfig()
    predict: PredictConfig = PredictConfig()

    @model_validator(mode="after")
    def _local_is_one_process(self) -> Config:
        if self.cluster.backend == "local" and self.cluster.workers != 1:
            raise ValueError(
                f"cluster.backend=local is one process, got cluster.workers={self.cluster.workers}; "
                "set cluster.workers=1 or cluster.backend=horovod"
            )
        return self
