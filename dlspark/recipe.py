"""From the configuration of a run to the parts of its training: network, loss, optimizer, schedule, step.

Rules that need the dataset (how many classes, is there a validation split) are checked here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from dlspark.config import Config
from dlspark.contracts import Preprocessing
from dlspark.data.manifest import Manifest
from dlspark.errors import ConfigError, DatasetError
from dlspark.models.build import build_model
from dlspark.training.diagnostics import DiagnosticsOptions
from dlspark.training.early_stopping import EarlyStopping
from dlspark.training.frozen import freeze
from dlspark.training.head import HeadOnFeatures, head_of
from dlspark.training.losses import Loss, balanced_weights, build_loss, expected_initial_loss
from dlspark.training.metrics import Figures, outputs_of
from dlspark.training.optimizers import build_optimizer, momentum_schedule, scale_lr
from dlspark.training.reactions import Action, ReactionOptions
from dlspark.training.schedules import Schedule, build_schedule
from dlspark.training.start import load_start
from dlspark.training.step import StepOptions
from dlspark.training.views import NO_VIEWS, Views

if TYPE_CHECKING:
    from torch import nn

_NOT_OF_THE_OPTIMIZER = {"name", "lr_scaling", "momentum_start", "momentum_epochs"}


def build_network(config: Config, manifest: Manifest) -> nn.Module:
    """Return the network of a run, sized for its dataset, with first weights from torch's generator.

    Raises:
        DatasetError: the images are smaller than the crop.
        ModelError: the network does not fit the images.
    """
    preprocessing = preprocessing_of(config, manifest)
    height, width = preprocessing.input_size
    return build_model(
        config.model.name,
        channels=preprocessing.image.channels,
        height=height,
        width=width,
        num_classes=len(manifest.classes),
        **config.model.model_dump(exclude={"name"}),
    )


def initial_model(config: Config, manifest: Manifest, *, rank: int, run_dir: str, resumes: bool) -> nn.Module:
    """Return the network of a run before its first step, on the CPU, and seed torch's generator for dropout.

    What is frozen is so on all ranks. Of weights that were made elsewhere only rank 0 has the values, which
    the others take over when the training starts; a run that goes on has them in its snapshot.

    Args:
        config: of the run.
        manifest: of its dataset.
        rank: of this process; each has its own dropout.
        run_dir: URL of the run directory.
        resumes: the run goes on from a snapshot.

    Raises:
        DatasetError: the images are smaller than the crop.
        ModelError: the network does not fit the images, or the first weights are missing or damaged.
    """
    torch.manual_seed(config.train.seed)
    model = build_network(config, manifest)
    if config.transfer.weights is not None and rank == 0 and not resumes:
        load_start(run_dir, model)
    freeze(model, config.transfer.trainable)
    own_seed = np.random.SeedSequence([config.train.seed, rank]).generate_state(1)
    torch.manual_seed(int(own_seed[0]))
    return model


def head_of_run(config: Config, manifest: Manifest, network: nn.Module) -> HeadOnFeatures:
    """Return the head of the network of a run, to be trained on features.

    Args:
        config: of the run.
        manifest: of its dataset.
        network: of the run, on any device, also "meta"; what is frozen is so.

    Raises:
        ModelError: see `dlspark.training.head.head_of`.
    """
    preprocessing = preprocessing_of(config, manifest)
    return head_of(network, (preprocessing.image.channels, *preprocessing.input_size))


def preprocessing_of(config: Config, manifest: Manifest) -> Preprocessing:
    """Return what lies between an image and the network of a run: the dataset's, and the run's crop.

    Raises:
        DatasetError: the images are smaller than the crop.
    """
    image, crop = manifest.preprocessing.image, config.augment.crop_size
    if crop and crop > min(image.height, image.width):
        raise DatasetError(
            "the images are smaller than the crop",
            got=f"augment.crop_size={crop}",
            allowed=f"at most {min(image.height, image.width)}",
            fix="lower augment.crop_size, or ingest with a larger image.size",
        )
    return replace(manifest.preprocessing, crop=crop)


def views_of(config: Config, trained: Views = NO_VIEWS) -> Views:
    """Return the views of an image: as configured, and where a key is null, those of the training."""
    return replace(trained, **config.views.given)


def rows_of_a_step(config: Config, num_rows: int) -> int:
    """Return the rows of an optimizer step over all ranks: all of them for optimizer=gd.

    Args:
        config: of the run.
        num_rows: of the training split.
    """
    return num_rows if config.optimizer.name == "gd" else config.train.global_batch_size


def optimizer_of(config: Config, model: nn.Module) -> torch.optim.Optimizer:
    """Return the optimizer of a run, at the base learning rate of the head."""
    options = config.optimizer.model_dump(exclude=_NOT_OF_THE_OPTIMIZER)
    return build_optimizer(model, config.optimizer.name, depth_decay=config.transfer.depth_decay, **options)


def base_lr_of(config: Config, num_ranks: int) -> float:
    """Return the learning rate that the schedule multiplies; another one than optimizer.lr is logged."""
    return scale_lr(config.optimizer.lr, config.optimizer.lr_scaling, num_ranks=num_ranks)


def schedule_of(config: Config, *, steps_per_epoch: int, has_val: bool) -> Schedule:
    """Return the schedule of the learning rate of a run.

    Args:
        config: of the run.
        steps_per_epoch: of the training split.
        has_val: whether there is a validation split.

    Raises:
        ConfigError: schedule=plateau without a validation split.
    """
    if config.schedule.name == "plateau" and not has_val:
        raise ConfigError(
            "schedule=plateau follows the validation loss, and the dataset has no val split",
            where="schedule",
            fix="choose another schedule, or ingest with data.val_share above 0",
        )
    return build_schedule(
        config.schedule.name,
        steps_per_epoch=steps_per_epoch,
        epochs=config.train.epochs,
        **config.schedule.model_dump(exclude={"name"}),
    )


def step_options_of(config: Config, *, class_rows: Sequence[int], steps_per_epoch: int) -> StepOptions:
    """Return what each step of a run does.

    Args:
        config: of the run.
        class_rows: rows of the training split by class.
        steps_per_epoch: of the training split.

    Raises:
        ConfigError: there are not as many class weights as classes.
    """
    num_parts = config.train.accumulate_steps
    if config.optimizer.name == "gd":
        num_parts = -(-sum(class_rows) // config.train.global_batch_size)
    bounds = config.regularize
    return StepOptions(
        loss=loss_of(config, class_rows),
        num_parts=num_parts,
        all_ranks_compute=config.train.sync_batch_norm,
        momentum=_momentum_of(config, steps_per_epoch),
        l1=bounds.l1,
        clip_norm=bounds.clip_norm,
        clip_value=bounds.clip_value,
        max_squared_norm=bounds.max_squared_norm,
    )


def loss_of(config: Config, class_rows: Sequence[int]) -> Loss:
    """Return the loss of a run.

    Args:
        config: of the run.
        class_rows: rows of the training split by class.

    Raises:
        ConfigError: there are not as many class weights as classes.
    """
    options = config.loss.model_dump(exclude={"name", "class_weights"})
    weights = config.loss.class_weights
    if isinstance(weights, tuple) and len(weights) != len(class_rows):
        raise ConfigError(
            "not as many class weights as classes",
            got=f"{len(weights)} weights",
            allowed=f"{len(class_rows)}, one for each class in the order of their names",
            where="loss.class_weights",
        )
    if weights == "balanced":
        weights = balanced_weights(class_rows)
    return build_loss(config.loss.name, class_weights=None if weights == "none" else weights, **options)


def figures_of(config: Config, num_classes: int) -> Figures:
    """Return what an evaluation of a run counts beside loss and confusion."""
    top_k = config.train.top_k
    return Figures(
        top_k=top_k if top_k is not None and top_k < num_classes else None,
        outputs=outputs_of(config.loss.name, config.loss.model_dump().get("outputs", "softmax")),
    )


def early_stopping_of(config: Config, *, has_val: bool) -> EarlyStopping | None:
    """Return what ends a run early; None: nothing does.

    Raises:
        ConfigError: the metric is of the validation, and there is no such split.
    """
    keys = config.train.early_stopping
    if keys.patience_epochs is None:
        return None
    if keys.metric.startswith("val_") and not has_val:
        raise ConfigError(
            f"early stopping follows {keys.metric}, and the dataset has no val split",
            where="train.early_stopping.metric",
            fix="set it to train_loss or train_accuracy, or ingest with data.val_share above 0",
        )
    return EarlyStopping(
        patience_epochs=keys.patience_epochs, metric=keys.metric, min_improvement=keys.min_improvement
    )


def diagnostics_of(config: Config, num_classes: int) -> DiagnosticsOptions:
    """Return what is watched in a run; class weights of any mean leave no theory of the first loss."""
    options = config.loss.model_dump(include={"focal_gamma", "outputs", "over_outputs"})
    known = isinstance(config.loss.class_weights, str)
    return DiagnosticsOptions(
        every_steps=config.diagnostics.every_steps,
        replicas_every_steps=config.diagnostics.replicas_every_steps,
        expected_loss=expected_initial_loss(config.loss.name, num_classes=num_classes, **options)
        if known
        else None,
        starts_trained=config.transfer.weights is not None,
    )


def reactions_of(config: Config) -> ReactionOptions:
    """Return what a run does about its own advice."""
    keys = config.train.reactions
    actions: dict[str, Action | None] = {
        "divergence": keys.divergence,
        "plateau": keys.plateau,
        "overfitting": keys.overfitting,
        "underfitting": keys.underfitting,
    }
    return ReactionOptions(
        actions={advice: action for advice, action in actions.items() if action is not None},
        rate_factor=keys.rate_factor,
        max_roll_backs=keys.max_roll_backs,
    )


def _momentum_of(config: Config, steps_per_epoch: int) -> Schedule | None:
    values = config.optimizer.model_dump()
    if values.get("momentum_start") is None:
        return None
    return momentum_schedule(
        values["momentum_start"],
        values["momentum"] if "momentum" in values else values["betas"][0],
        epochs=values["momentum_epochs"],
        steps_per_epoch=steps_per_epoch,
    )
