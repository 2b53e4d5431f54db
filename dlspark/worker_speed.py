"""What one rank does when the speed of a network on N ranks is measured: steps of a training without data."""

from __future__ import annotations

import numpy as np
import torch

from dlspark.cluster.devices import device_of
from dlspark.config import Config
from dlspark.contracts import Batch, Communicator, WorkerTask
from dlspark.data.manifest import read_manifest
from dlspark.recipe import build_network, optimizer_of, preprocessing_of
from dlspark.training.precision import choose_precision
from dlspark.training.replicas import broadcast_state
from dlspark.training.step_speed import StepSpeed, measure_steps
from dlspark.training.sync_batch_norm import synchronise_batch_norm

_SECONDS = 4.0


def run_steps(task: WorkerTask, communicator: Communicator) -> StepSpeed:
    """Measure steps of the network of a run on noise, each rank with train.global_batch_size rows of its own.

    Raises:
        ModelError: the network does not fit the images of the dataset.
    """
    config = Config.model_validate(task.config)
    manifest = read_manifest(task.dataset)
    device = device_of(communicator)
    model = build_network(config, manifest).to(device)
    if config.train.sync_batch_norm:
        synchronise_batch_norm(model, communicator)
    broadcast_state(model, communicator)
    num_rows = config.train.global_batch_size
    preprocessing = preprocessing_of(config, manifest)
    noise = torch.Generator().manual_seed(communicator.rank)
    shape = (num_rows, preprocessing.image.channels, *preprocessing.input_size)
    batch = Batch(
        step=0,
        global_rows=num_rows * communicator.size,
        row_ids=np.arange(num_rows),
        images=torch.randn(shape, generator=noise).to(device),
        labels=torch.randint(len(manifest.classes), (num_rows,), generator=noise).to(device),
    )
    return measure_steps(
        *(model, optimizer_of(config, model), communicator, batch),
        precision=choose_precision(config.train.precision, device),
        device=device,
        seconds=_SECONDS,
        compression=config.train.gradient_compression,
        reduction=config.train.gradient_reduction,
    )
