"""The keys that say what is watched while a training runs."""

from __future__ import annotations

from dlspark.config.section import Count, Section


class DiagnosticsConfig(Section):
    """What a training watches of itself; advice from its losses is always given."""

    every_steps: Count | None = 50
    """Optimizer steps from one step whose layers are measured to the next: gradient norms, updates against
    weights, activations, dead and saturated units. null: no layer is measured."""
    replicas_every_steps: Count | None = 100
    """Optimizer steps from one comparison of the workers' weights and optimizer state, bit for bit, to the
    next; they are compared at the end of each epoch and before each checkpoint too. null: never."""
