"""The train loop says where it is: each step, evaluation and save, with the step that its metrics have."""

from __future__ import annotations

from dlspark.cluster.communicator import LocalCommunicator
from dlspark.cluster.whereabouts import RankWhereabouts
from dlspark.contracts import Phase
from dlspark.training.checkpoint_writer import SilentCheckpoints
from dlspark.training.optimizers import build_optimizer
from dlspark.training.trainer import fit
from tests.unit.training.doubles import ListTracker, MemorySource
from tests.unit.training.small_network import CPU, IMAGES, LABELS, NUM_CLASSES, NUM_ROWS, network


class _Listing(RankWhereabouts):
    """Keeps each place that is noted."""

    def __init__(self) -> None:
        super().__init__()
        self.noted: list[tuple[int | None, str]] = []

    def note(self, phase: Phase, *, step: int | None = None) -> None:
        super().note(phase, step=step)
        assert self.place is not None
        self.noted.append((self.place.step, phase))


def test_a_training_notes_data_and_computing_of_each_step_then_evaluation_and_save() -> None:
    communicator = LocalCommunicator()
    communicator.whereabouts = listing = _Listing()
    model = network()
    fit(
        model,
        build_optimizer(model, "sgd", lr=0.01),
        lambda step: 1.0,
        MemorySource(IMAGES, LABELS, global_batch_size=NUM_ROWS // 2),
        MemorySource(IMAGES, LABELS, global_batch_size=NUM_ROWS // 3),
        communicator,
        ListTracker(),
        SilentCheckpoints(lambda: False),
        epochs=2,
        num_classes=NUM_CLASSES,
        base_lr=0.01,
        precision="fp32",
        device=CPU,
    )
    expected = []
    for step in (1, 2, 3, 4):
        expected += [(step, "data"), (step, "compute")]
        if step % 2 == 0:
            expected += [(step, "evaluation")] * 4 + [(step, "save")]
    assert listing.noted == expected
