"""The texts of --help, made from the schema and the files of conf/: they cannot say what is not there."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from dlspark.config.describe import VARIANT_GROUPS, Key, describe_fields, list_choices, list_keys

STAGES = {
    "ingest": "images -> a dataset of Parquet files with train, val and test splits (Spark)",
    "arch": "a network and an image size -> its layers with sizes, parameters, memory and multiply-adds",
    "train": "a dataset -> a trained network and its MLflow run (Horovod on Spark, or one process)",
    "evaluate": "a run -> loss, accuracy and confusion matrix of a split, each row counted once",
    "register": "a run -> a version of a registered model, and the alias on it",
    "predict": "images and a model -> labels and probabilities in Parquet (Spark)",
    "full": "all of it: ingest, train, evaluate, register",
    "compare": "a dataset -> trainings that differ in a few words, in one picture and below one MLflow run",
    "replay": "a run -> the batch of one of its steps: rows, pixels as trained on, and the loss of each",
    "bench-loader": "a dataset -> how fast it is read, by reader, threads and storage, beside the network",
    "lr-find": "a dataset and a network -> the learning rate at which the loss falls fastest, and a picture",
    "bench-scale": "a dataset -> images per second of the network on 1 to N workers, by backend",
    "doctor": "look at Java, Spark and its hosts, Horovod and tracking, launch once; say what to repair",
    "sync": "send what MLflow does not have yet of a run (its server was away)",
}
"""Stage -> what it does, in the order of the data path."""

DATA_VERBS = {
    "show": "print the card of a dataset and draw a sheet of its images",
    "verify": "prove the files against the manifest; --repair makes damaged ones again from the source",
    "diff": "what is added, removed, relabelled, moved or changed from a first dataset to a second",
    "audit": "find twins within and across splits; --fix moves those that leak to train",
    "quarantine": "list the images that were left out; --retry tries them again, --accept settles them",
}
"""Verb of `dlspark data` -> what it does."""

CACHE_VERBS = {
    "ls": "list the features that trainings of a head have kept in a folder of runs",
    "gc": "remove those that no training has used for 30 days, or unused_days=N; none that is in use",
}
"""Verb of `dlspark cache` -> what it does."""

_CLUSTER = ("cluster.master",)
_LAUNCH = ("cluster.",)
_READ = ("data.reader", "data.prefetch_batches", "data.num_threads", "data.memory_bytes")
_TRACK = ("tracking.uri", "tracking.experiment", "tracking.run_name", "tracking.system_metrics_seconds")
_REGISTER = ("tracking.registered_model", "tracking.alias")
_INGEST = ("source", "dataset", "overwrite", "image.", "data.", "augment.")
_STEP = ("model.", "transfer.", "loss.", "optimizer.", "regularize.", "augment.", "train.")
_FIT = (*_STEP, "schedule.")
_TRAIN = ("dataset", "run_dir", "overwrite", "resume", *_FIT, "checkpoint.", "diagnostics.", *_READ)
_KEYS: dict[str, tuple[str, ...]] = {
    "ingest": (*_INGEST, *_CLUSTER),
    "arch": (
        "dataset",
        "num_classes",
        "image.size",
        "image.channels",
        "model.",
        "augment.crop",
        "train.seed",
    ),
    "lr-find": ("dataset", "lr_find.", *_STEP, *_READ),
    "train": (*_TRAIN, *_LAUNCH, *_TRACK),
    "evaluate": ("run_dir", "dataset", "split", *_READ, *_LAUNCH, *_TRACK),
    "register": ("run_dir", "tracking.uri", *_REGISTER),
    "predict": ("source", "overwrite", "predict.", "tracking.uri", *_CLUSTER),
    "full": (*_INGEST, *_TRAIN, *_LAUNCH, "tracking."),
    "compare": ("compare.", *_TRAIN, *_LAUNCH, *_TRACK),
    "replay": ("run_dir", "dataset", "step", *_READ),
    "bench-loader": ("dataset", *_FIT, *_READ),
    "bench-scale": ("dataset", "model.", "optimizer.", "train.", *_LAUNCH),
    "doctor": ("dataset", "run_dir", "data.reader", "cluster.", "tracking.uri"),
    "sync": ("run_dir", "tracking.uri"),
}
_RECIPE = ("loss", "optimizer", "schedule")
_GROUPS: dict[str, tuple[str, ...]] = {
    "ingest": ("experiment", "data", "augment", "cluster"),
    "arch": ("experiment", "model", "augment"),
    "lr-find": ("experiment", "model", "loss", "optimizer", "augment"),
    "train": ("experiment", "model", *_RECIPE, "augment", "data", "cluster", "tracking"),
    "evaluate": ("experiment", "cluster", "tracking"),
    "register": ("experiment", "tracking"),
    "predict": ("experiment", "cluster", "tracking"),
    "full": ("experiment", "model", *_RECIPE, "augment", "data", "cluster", "tracking"),
    "compare": ("experiment", "model", *_RECIPE, "augment", "data", "cluster", "tracking"),
    "replay": ("experiment",),
    "bench-loader": ("experiment", "model", "loss", "optimizer", "augment"),
    "bench-scale": ("experiment", "model", "optimizer", "cluster"),
    "doctor": ("experiment", "cluster", "tracking"),
    "sync": ("experiment", "tracking"),
}


def general_help() -> str:
    """Return the text of `dlspark --help`."""
    stages = "\n".join(f"  {name:<12} {text}" for name, text in STAGES.items())
    return f"""\
dlspark <stage> key=value ... [--debug]

From a folder of images to a registered CNN: Spark ingests, Horovod trains, MLflow records.

stages
{stages}
  data         {", ".join(DATA_VERBS)}: commands on a dataset, see dlspark data --help
  cache        {", ".join(CACHE_VERBS)}: what is kept to save work, see dlspark cache --help

examples
  dlspark full experiment=digits
  dlspark ingest source=/data/flowers dataset=/data/flowers.ds image.size=64
  dlspark arch model=lenet5 image.size=32 image.channels=1 num_classes=10
  dlspark train dataset=/data/flowers.ds run_dir=runs/a model=resnet18 optimizer=sgd optimizer.lr=0.05
  dlspark evaluate run_dir=runs/a split=test
  dlspark predict source=/data/new predict.model=runs/a predict.output=/data/labels

keys that matter
  source dataset run_dir overwrite            where things are
  model loss optimizer schedule augment       choices, each a file of conf/: model=lenet5
  train.epochs train.global_batch_size train.seed optimizer.lr
  cluster.backend (horovod, torch, local, auto)  cluster.workers  cluster.master
  tracking.uri tracking.experiment
  experiment                                  a whole recipe, a file of conf/experiment

`dlspark <stage> --help` lists the keys of a stage with their defaults. The files of conf/ hold the same keys;
what stands on the command line wins over an experiment, and an experiment over the other files.

Messages go to stderr; stdout carries the result as one JSON object on its last line.
Exit codes: 0 done, 2 an error you can repair, 1 an unexpected error, 130 interrupted.
options: --debug (tracebacks, more messages), --help, --version
"""


def data_help() -> str:
    """Return the text of `dlspark data --help`."""
    verbs = "\n".join(f"  {name:<11} {text}" for name, text in DATA_VERBS.items())
    return f"""\
dlspark data <verb> PATH [PATH] [--option] [key=value ...]

Commands on a published dataset.

verbs
{verbs}

examples
  dlspark data show /data/flowers.ds augment=mirror_crop
  dlspark data verify /data/flowers.ds
  dlspark data diff /data/flowers.old /data/flowers.ds
  dlspark data audit /data/flowers.ds --fix
  dlspark data quarantine /data/flowers.ds --retry

Messages go to stderr; stdout carries the result as one JSON object on its last line.
Exit codes: 0 done, 2 the dataset is not what it should be, or an error you can repair.
"""


def cache_help() -> str:
    """Return the text of `dlspark cache --help`."""
    verbs = "\n".join(f"  {name:<4} {text}" for name, text in CACHE_VERBS.items())
    return f"""\
dlspark cache <verb> PATH [unused_days=N]

What dlspark keeps to save work: the features of transfer.cache_features=true, in dlspark-features/ of PATH,
the folder that holds the runs. They may also be removed by hand; who needs them computes them again.

verbs
{verbs}

examples
  dlspark cache ls runs
  dlspark cache gc runs unused_days=7

Messages go to stderr; stdout carries the result as one JSON object on its last line.
"""


def stage_help(stage: str) -> str:
    """Return the text of `dlspark <stage> --help`."""
    lines = [f"dlspark {stage} key=value ... [--debug]", "", STAGES[stage], ""]
    lines.append("choices (the files of conf/)")
    for group in _GROUPS[stage]:
        lines.extend(_wrap(f"  {group:<11} ", ", ".join(list_choices(group))))
    heading = ""
    for key in list_keys():
        if not key.name.startswith(_KEYS[stage]) or (key.name == "experiment"):
            continue
        above = _heading(key)
        if above != heading:
            heading = above
            lines.extend(("", heading))
        lines.extend(_describe_key(key))
    return "\n".join(lines) + "\n"


def _heading(key: Key) -> str:
    section = key.name.rpartition(".")[0]
    if section in VARIANT_GROUPS:
        return f"{section}={key.section.model_fields['name'].default}"
    return section or "where things are"


def _describe_key(key: Key) -> Sequence[str]:
    default = key.field.default
    shown = "null" if default is None else str(default).lower() if isinstance(default, bool) else str(default)
    sentence = describe_fields(key.section).get(key.name.rpartition(".")[2], "")
    return [f"  {key.name}={shown}", *_wrap("      ", f"{key.allowed}. {sentence}".strip())]


def _wrap(first: str, text: str) -> list[str]:
    return textwrap.wrap(text, width=100, initial_indent=first, subsequent_indent=" " * len(first))
