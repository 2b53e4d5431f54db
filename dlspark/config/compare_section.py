"""The keys that say which trainings are compared."""

from __future__ import annotations

from dlspark.config.section import Section


class CompareConfig(Section):
    """Trainings that differ in a few words."""

    runs: tuple[str, ...] = ()
    """One text for each training: the words in which it differs from the others, e.g. "optimizer=sgd
    optimizer.lr=0.1"."""
