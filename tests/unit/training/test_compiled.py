"""A network through torch.compile learns what the same network learns without."""

from __future__ import annotations

import pytest
from torch._dynamo.utils import counters

from dlspark.training.checkpoint_writer import SilentCheckpoints
from dlspark.training.diagnostics import DiagnosticsOptions
from dlspark.training.optimizers import build_optimizer
from dlspark.training.trainer import fit
from tests.unit.training.doubles import ListTracker, MemorySource, run_ranks
from tests.unit.training.small_network import CPU, IMAGES, LABELS, NUM_CLASSES, assert_close, network


# torch's own, when it imports its compiler.
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
def test_the_curve_and_the_weights_are_those_of_the_network_as_written() -> None:
    """The last batch is smaller, and measured steps, whose hooks compiled layers do not call, are among."""
    counters.clear()
    models, trackers = [network(), network()], [ListTracker(), ListTracker()]
    for model, tracker, compiles in zip(models, trackers, (False, True), strict=True):
        assert not counters["stats"]
        run_ranks(
            1,
            lambda ranks, model=model, tracker=tracker, compiles=compiles: fit(
                *(model, build_optimizer(model, "momentum", lr=0.1), lambda step: 1.0),
                MemorySource(IMAGES, LABELS, global_batch_size=8, seed=1),
                MemorySource(IMAGES, LABELS, global_batch_size=8),
                *(ranks, tracker, SilentCheckpoints(lambda: False)),
                epochs=2,
                num_classes=NUM_CLASSES,
                base_lr=0.1,
                precision="fp32",
                device=CPU,
                diagnostics=DiagnosticsOptions(every_steps=3),
                compiles=compiles,
            ),
        )
    assert counters["stats"]["unique_graphs"] >= 1
    plain, compiled = trackers
    assert compiled.values("step/loss") == pytest.approx(plain.values("step/loss"), rel=1e-5)
    assert compiled.values("val_loss") == pytest.approx(plain.values("val_loss"), rel=1e-5)
    names = [name for name in plain.metrics if name.startswith("layer/")]
    assert names
    for name in names:
        assert compiled.values(name) == pytest.approx(plain.values(name), rel=1e-4, abs=1e-6)
    assert_close(models[1], models[0])
