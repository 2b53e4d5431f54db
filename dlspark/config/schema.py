"""The typed configuration: every key a user may set, with its meaning, unit, range and default.

The files of conf/ carry the same keys; tests hold the two together. Objects are frozen and keyword-only, and
only pipelines/, dlspark.worker and dlspark.recipe unpack them: the rooms below take plain arguments.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from dlspark.config.checkpoint_section import CheckpointConfig
from dlspark.config.compare_section import CompareConfig
from dlspark.config.data_sections import AugmentConfig, DataConfig, ImageConfig
from dlspark.config.diagnostics_section import DiagnosticsConfig
from dlspark.config.loss_sections import CrossEntropyConfig, LossConfig
from dlspark.config.lr_find_section import LrFindConfig
from dlspark.config.model_sections import MnistCnnConfig, ModelConfig
from dlspark.config.optimizer_sections import AdamConfig, OptimizerConfig
from dlspark.config.schedule_sections import ConstantConfig, ScheduleConfig
from dlspark.config.section import Count, Positive, Section
from dlspark.config.train_sections import RegularizeConfig, TrainConfig
from dlspark.config.transfer_section import TransferConfig
from dlspark.config.views_section import ViewsConfig

_FIRST_PORT, _LAST_PORT = 1024, 65535
"""Those that need no right of their own to listen on."""


class ClusterConfig(Section):
    """Where the work runs."""

    backend: Literal["auto", "horovod", "torch", "local"] = "horovod"
    """horovod, torch: processes on the Spark executors, connected by Horovod or by torch.distributed (gloo,
    nccl on GPUs); local: one process on the driver, no Spark; auto: horovod where it is built, else torch."""
    workers: Count = 2
    """Processes that train together."""
    min_workers: Count | None = None
    """With how few a training goes on that lost some; null: with no fewer than workers."""
    max_restarts: Annotated[int, Field(ge=0)] = 2
    """How often a training that lost a worker is started again from its last checkpoint by itself."""
    master: str = "local-cluster[2,1,2048]"
    """The Spark master of a session that dlspark opens itself; a session that is there already is used."""
    slots_timeout_seconds: Positive = 20.0
    """How long to wait for executors before too few slots are an error."""
    start_timeout_seconds: Positive = 120.0
    """How long the workers may take to find each other."""
    stall_timeout_seconds: Positive = 300.0
    """How long a worker may stand still in one part of a step (waiting for data, computing), a batch of an
    evaluation or a save. Then all leave their Python stacks in the run directory, and the late one is named.
    Waits for other workers do not count, nor what comes before the workers have found each other; until its
    first step is done, a worker has four times as long. Not watched with backend=local."""
    threads_per_worker: Count | None = None
    """torch threads of a worker; null: the host's cores shared by the workers on it."""
    port_range: str | None = None
    """First and last port that dlspark listens on, on driver and executors, as 40000-40100, in [1024, 65535];
    null: any that is free. A run takes one on a host at a time, two where the driver is on it too. gloo and
    NCCL join the workers on ports that the kernel chooses, so a firewall between executors must let those of
    net.ipv4.ip_local_port_range through too."""
    network_interface: str | None = None
    """Interface, as eth0, over which workers find and talk to each other, of one name on all their hosts;
    null: the one that leads to another worker's host."""

    @property
    def ports(self) -> tuple[int, int] | None:
        """The first and the last port of `port_range`; None: any port."""
        if self.port_range is None:
            return None
        first, last = self.port_range.split("-")
        return int(first), int(last)

    @field_validator("port_range")
    @classmethod
    def _is_a_range(cls, value: str | None) -> str | None:
        if value is None:
            return None
        match = re.fullmatch(r"(\d{1,5})-(\d{1,5})", value)
        if match is None or not _FIRST_PORT <= int(match[1]) <= int(match[2]) <= _LAST_PORT:
            raise ValueError(
                f"got {value!r}; write the first and the last port as 40000-40100, both in "
                f"[{_FIRST_PORT}, {_LAST_PORT}]"
            )
        return value


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
    resume: Literal["auto", "never"] = "auto"
    """auto: `train` goes on with the run that run_dir holds; never: refuses such a run_dir."""
    split: Literal["train", "val", "test"] = "test"
    """The split that `evaluate` reads."""
    num_classes: Annotated[int, Field(ge=2)] | None = None
    """Classes of the network that `arch` describes; null takes those of the dataset."""
    step: Count | None = None
    """The step of the run that `replay` makes again, from 1, as in the run's metrics."""
    experiment: str | None = None
    """The file of conf/experiment that was chosen."""
    image: ImageConfig = ImageConfig()
    data: DataConfig = DataConfig()
    model: ModelConfig = MnistCnnConfig()
    transfer: TransferConfig = TransferConfig()
    loss: LossConfig = CrossEntropyConfig()
    optimizer: OptimizerConfig = AdamConfig()
    schedule: ScheduleConfig = ConstantConfig()
    regularize: RegularizeConfig = RegularizeConfig()
    augment: AugmentConfig = AugmentConfig()
    train: TrainConfig = TrainConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    diagnostics: DiagnosticsConfig = DiagnosticsConfig()
    lr_find: LrFindConfig = LrFindConfig()
    cluster: ClusterConfig = ClusterConfig()
    tracking: TrackingConfig = TrackingConfig()
    views: ViewsConfig = ViewsConfig()
    predict: PredictConfig = PredictConfig()
    compare: CompareConfig = CompareConfig()

    @model_validator(mode="after")
    def _fewer_workers_learn_the_same(self) -> Config:
        fewest, workers, scaling = self.cluster.min_workers, self.cluster.workers, self.optimizer.lr_scaling
        if fewest is not None and fewest > workers:
            raise ValueError(f"cluster.min_workers={fewest} is more than cluster.workers={workers}; lower it")
        if fewest not in (None, workers) and scaling != "none":
            raise ValueError(
                f"optimizer.lr_scaling={scaling} makes the learning rate depend on the number of workers, "
                f"got cluster.min_workers={fewest} below cluster.workers={workers}; leave one of the two out"
            )
        return self

    @model_validator(mode="after")
    def _adasum_adds_pairs_of_workers(self) -> Config:
        if self.train.gradient_reduction != "adasum":
            return self
        fewest, workers = self.cluster.min_workers, self.cluster.workers
        below = 2 ** (workers.bit_length() - 1)
        if workers != below:
            raise ValueError(
                "train.gradient_reduction=adasum adds pairs of workers, and pairs of those, got "
                f"cluster.workers={workers}; set it to {below} or {2 * below}"
            )
        if fewest not in (None, workers):
            raise ValueError(
                "train.gradient_reduction=adasum makes the result depend on the number of workers, got "
                f"cluster.min_workers={fewest} below cluster.workers={workers}; leave one of the two out"
            )
        return self

    @model_validator(mode="after")
    def _local_is_one_process(self) -> Config:
        if self.cluster.backend == "local" and self.cluster.workers != 1:
            raise ValueError(
                f"cluster.backend=local is one process, got cluster.workers={self.cluster.workers}; "
                "set cluster.workers=1 or cluster.backend=horovod"
            )
        return self

    @model_validator(mode="after")
    def _gd_cuts_its_step_itself(self) -> Config:
        if self.optimizer.name == "gd" and self.train.accumulate_steps != 1:
            raise ValueError(
                "optimizer=gd adds up the gradients of train.global_batch_size rows at a time by itself, "
                f"got train.accumulate_steps={self.train.accumulate_steps}; set it to 1"
            )
        return self

    @model_validator(mode="after")
    def _cached_features_are_of_images_that_stay(self) -> Config:
        mixing = {name: alpha for name, alpha in self.augment.mixing.items() if alpha}
        changing = mixing | ({} if self.augment.copies else self.augment.switches)
        if self.transfer.cache_features and changing:
            found = " ".join(f"augment.{name}={value}".lower() for name, value in changing.items())
            fields = type(self.augment).model_fields
            off = " ".join(f"augment.{name}={fields[name].default}".lower() for name in changing)
            raise ValueError(
                "transfer.cache_features=true computes the features of each image once, got "
                f"{found}, which makes it another image in each epoch; set {off.replace('none', 'null')}, "
                "or transfer.cache_features=false"
            )
        return self
