"""The keys that say what is watched while a training runs."""

from __future__ import annotations

from dlspark.config.section import Count, Section


class DiagnosticsConfig(Section):
    """What a training tells of its layers; advice from its losses is always given."""

    every_steps: Count | None = 50
    """Optimizer steps from one step whose layers are measured to the next: gradient norms, updates against
    weights, activations, dead and saturated units. null: no layer is measured."""
