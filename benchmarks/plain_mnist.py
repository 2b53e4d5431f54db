"""The peer of time_to_accuracy: the lecture's CNN for MNIST as one writes it by hand, in PyTorch alone.

    python -m benchmarks.plain_mnist DATASET --epochs 12 --until 0.99

All images are in memory as one float tensor; batches are slices of a random permutation. Prints one JSON line
at the first step and after each epoch, with the time.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import nn

NUM_PIXELS, BATCH, RATE = 28 * 28, 128, 1e-3
_CHUNK = 1000


def build_network() -> nn.Sequential:
    """Return the network."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout(0.25),
        nn.Flatten(),
        nn.Linear(64 * 12 * 12, 128),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(128, 10),
    )


def read_split(dataset: Path, split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images, float32 [n, 1, 28, 28] in [0, 1], and labels, int64 [n]."""
    images, labels = [], []
    for path in sorted((dataset / f"split={split}").glob("*.parquet")):
        table = pq.ParquetFile(path).read(columns=["image", "label"], use_threads=False)
        rows = [np.frombuffer(row, dtype=np.uint8)[-NUM_PIXELS:] for row in table["image"].to_pylist()]
        images.append(np.stack(rows).reshape(-1, 1, 28, 28))
        labels.append(table["label"].to_numpy())
    pixels = torch.from_numpy(np.concatenate(images))
    return pixels.float().div_(255), torch.from_numpy(np.concatenate(labels).astype(np.int64))


def train_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: torch.Tensor,
    labels: torch.Tensor,
    order: torch.Tensor,
) -> None:
    """Make one step for each 128 rows of an order."""
    model.train()
    for rows in order.split(BATCH):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images[rows]).float(), labels[rows])
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()


@torch.no_grad()
def accuracy(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the share of rows whose class is given."""
    model.eval()
    parts = zip(images.split(_CHUNK), labels.split(_CHUNK), strict=True)
    return sum(int((model(part).argmax(1) == truth).sum()) for part, truth in parts) / len(labels)


def main() -> None:
    """Train and say when."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--epochs", type=int, default=12, help="at most")
    parser.add_argument("--until", type=float, default=1.0, help="validation accuracy to end at")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    train, val = read_split(options.dataset, "train"), read_split(options.dataset, "val")
    mean, std = train[0].mean(), train[0].std()
    train, val = ((train[0] - mean) / std, train[1]), ((val[0] - mean) / std, val[1])
    model = build_network()
    if options.precision == "bf16":  # a call is a context: within one, the weights would stay as they are
        model.forward = torch.autocast("cpu", torch.bfloat16)(model.forward)  # type: ignore[method-assign]
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    _say(event="first_step")
    for epoch in range(options.epochs):
        train_epoch(model, optimizer, *train, torch.randperm(len(train[1])))
        reached = accuracy(model, *val)
        _say(event="epoch", epoch=epoch + 1, val_accuracy=reached)
        if reached >= options.until:
            return


def _say(**values: object) -> None:
    sys.stdout.write(json.dumps(values | {"time": time.time()}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
