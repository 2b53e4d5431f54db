"""What one rank does: communicator, loader, model, fit. The only file that knows all the rooms of a rank.

The function is top-level, so that it is picklable by reference; what it gets from the driver is one
WorkerTask of plain values. The same code runs under Horovod, and in one local process.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from functools import partial

import torch
from torch import nn

from dlspark import storage
from dlspark.cluster.devices import device_of
from dlspark.config import Config
from dlspark.contracts import Communicator, Split, Tracker, TrainResult, WorkerTask
from dlspark.data.augment import Augmentation
from dlspark.data.feature_files import as_dataset
from dlspark.data.loader import Loader, open_split
from dlspark.data.manifest import Manifest, read_manifest
from dlspark.data.mix import NO_MIXING, Mixing
from dlspark.errors import DatasetError
from dlspark.recipe import (
    base_lr_of,
    diagnostics_of,
    early_stopping_of,
    figures_of,
    head_of_run,
    initial_model,
    optimizer_of,
    preprocessing_of,
    reactions_of,
    rows_of_a_step,
    schedule_of,
    step_options_of,
    views_of,
)
from dlspark.tracking.journal import JournalTracker, SilentTracker
from dlspark.training.checkpoint import CheckpointDescription, save_checkpoint
from dlspark.training.checkpoint_writer import Checkpoints, CheckpointWriter, SilentCheckpoints
from dlspark.training.head import HeadOnFeatures, tensors_of_body
from dlspark.training.precision import choose_precision
from dlspark.training.snapshots import checkpoints_folder, final_checkpoint, read_snapshot
from dlspark.training.stopping import sigterm_as_request
from dlspark.training.sync_batch_norm import synchronise_batch_norm
from dlspark.training.trainer import fit
from dlspark.training.training_state import Snapshot
from dlspark.training.weight_average import WeightAverage

_log = logging.getLogger(__name__)


def run_training(task: WorkerTask, communicator: Communicator) -> TrainResult:
    """Train one replica; all ranks return the same figures.

    Raises:
        DatasetError: the dataset is not the one that the driver read.
        ModelError: the network does not fit the images, or the loss is not finite.
        ConfigError: a choice needs what the dataset does not have.
    """
    config = Config.model_validate(task.config)
    manifest = read_the_same_dataset(task)
    device = device_of(communicator)
    precision = choose_precision(config.train.precision, device)
    is_first = communicator.rank == 0
    describe = _describer(config, manifest)
    resume = read_snapshot(task.resume_from) if task.resume_from else None
    network = initial_model(
        *(config, manifest), rank=communicator.rank, run_dir=task.run_dir, resumes=resume is not None
    )
    model, dataset, rows, beside = network, task.dataset, manifest, dict[str, torch.Tensor]()
    if task.features is not None:
        model, resume = _head_alone(config, manifest, network, resume)
        dataset, rows = task.features, as_dataset(task.features, manifest)
        beside = tensors_of_body(network, model)
    model.to(device)
    if config.train.sync_batch_norm:
        num_layers = synchronise_batch_norm(model, communicator)
        _log.info("%d layers of batch normalisation are over the rows of all workers", num_layers)
    decay = config.regularize.ema_decay
    average = None if decay is None else WeightAverage(model, decay)
    opened = partial(
        open_source,
        *(config, dataset, rows),
        rank=communicator.rank,
        num_ranks=communicator.size,
        device=device,
    )
    with ExitStack() as stack:
        train = stack.enter_context(opened("train"))
        has_val = manifest.splits["val"].rows > 0
        val = stack.enter_context(opened("val")) if has_val else None
        told_to_stop = stack.enter_context(sigterm_as_request())
        tracker: Tracker = SilentTracker()
        checkpoints: Checkpoints = SilentCheckpoints(told_to_stop)
        if is_first:
            tracker = stack.enter_context(JournalTracker(task.run_dir, f"rank0-{task.attempt:03d}"))
            checkpoints = stack.enter_context(
                CheckpointWriter(
                    checkpoints_folder(task.run_dir),
                    describe=describe,
                    told_to_stop=told_to_stop,
                    resumed_from=task.resume_from,
                    beside=beside,
                    **config.checkpoint.model_dump(),
                )
            )
        fitted = fit(
            model,
            optimizer_of(config, model),
            schedule_of(config, steps_per_epoch=train.num_steps, has_val=has_val),
            train,
            val,
            communicator,
            tracker,
            checkpoints,
            resume=resume,
            epochs=config.train.epochs,
            num_classes=len(manifest.classes),
            base_lr=base_lr_of(config, communicator.size),
            precision=precision,
            device=device,
            compression=config.train.gradient_compression,
            reduction=config.train.gradient_reduction,
            options=step_options_of(
                config,
                class_rows=manifest.splits["train"].class_rows,
                steps_per_epoch=train.num_steps,
            ),
            average=average,
            figures=figures_of(config, len(manifest.classes)),
            early_stopping=early_stopping_of(config, has_val=has_val),
            diagnostics=diagnostics_of(config, len(manifest.classes)),
            reactions=reactions_of(config),
            compiles=config.train.compile,
            evidence_folder=storage.join(task.run_dir, "diverged"),
        )
    communicator.whereabouts.note("save")
    checkpoint = final_checkpoint(task.run_dir)
    if is_first and fitted.stopped:
        _log.warning("told to stop (SIGTERM): the training is saved after step %d", fitted.steps)
    elif is_first:
        description = describe(epoch=fitted.kept_epoch, step=fitted.kept_step, metrics=fitted.metrics)
        with nullcontext() if average is None else average.swapped_in():
            save_checkpoint(checkpoint, network, description)
    return TrainResult(
        rank=communicator.rank,
        host=communicator.host,
        steps=fitted.steps,
        epochs=fitted.epochs,
        images_per_second=fitted.images_per_second,
        train_seconds=fitted.train_seconds,
        validation=fitted.validation,
        precision=precision,
        device=str(device),
        checkpoint=checkpoint,
        stopped=fitted.stopped,
    )


def _head_alone(
    config: Config, manifest: Manifest, network: nn.Module, resume: Snapshot | None
) -> tuple[HeadOnFeatures, Snapshot | None]:
    """Return the head of a network, and the part of the snapshot that is its; the network gets it all."""
    head = head_of_run(config, manifest, network)
    _log.info("the head %s is trained alone, on %d features of each row", head.path, head.num_features)
    if resume is None:
        return head, None
    network.load_state_dict(dict(resume.model))
    return head, replace(resume, model={name: resume.model[name] for name in head.state_dict()})


def read_the_same_dataset(task: WorkerTask) -> Manifest:
    """Return the manifest of the dataset of a task, as the driver read it.

    Raises:
        DatasetError: it is another one by now, or gone.
    """
    manifest = read_manifest(task.dataset)
    if manifest.fingerprint != task.fingerprint:
        raise DatasetError(
            "the dataset changed after the run was started",
            got=f"fingerprint {manifest.fingerprint}",
            allowed=task.fingerprint,
            where=task.dataset,
            fix="start the run again, or restore the dataset",
        )
    return manifest


def open_source(
    config: Config,
    dataset: str,
    manifest: Manifest,
    split: Split,
    *,
    rank: int,
    num_ranks: int,
    training: bool = True,
    device: torch.device | None = None,
) -> Loader:
    """Open a split for a rank as a run does: only training rows, in training, are shuffled and changed.

    Args:
        config: of the run.
        dataset: URL.
        manifest: of the dataset; for an evaluation with the preprocessing of the training.
        split: which rows.
        rank: in [0, num_ranks).
        num_ranks: of the run.
        training: False for an evaluation.
        device: where the batches go; None: they stay on the CPU.

    Raises:
        DatasetError: see `open_split`.
    """
    if training:
        manifest = replace(manifest, preprocessing=preprocessing_of(config, manifest))
    shuffle = training and split == "train"
    on_the_fly = shuffle and not config.augment.copies
    return open_split(
        dataset,
        manifest,
        split,
        global_batch_size=rows_of_a_step(config, manifest.splits[split].rows)
        if shuffle
        else config.train.global_batch_size,
        seed=config.train.seed,
        rank=rank,
        num_ranks=num_ranks,
        shuffle=shuffle,
        augmentation=Augmentation(**config.augment.changes) if on_the_fly else Augmentation(),
        mixing=Mixing(**config.augment.mixing) if shuffle else NO_MIXING,
        reader=config.data.reader,
        prefetch_batches=config.data.prefetch_batches,
        num_threads=config.data.num_threads,
        memory_bytes=config.data.memory_bytes,
        num_epochs=config.train.epochs if shuffle else 1,
        device=device or torch.device("cpu"),
    )


def _describer(config: Config, manifest: Manifest) -> Callable[..., CheckpointDescription]:
    """Return what describes a checkpoint of the run, given its epoch, step and metrics."""
    return partial(
        CheckpointDescription,
        model=config.model.name,
        model_options=config.model.model_dump(mode="json", exclude={"name"}),
        preprocessing=preprocessing_of(config, manifest),
        classes=manifest.classes,
        fingerprint=manifest.fingerprint,
        views=views_of(config),
    )
