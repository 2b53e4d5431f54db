"""One optimisation of one network: losses, optimizers, schedules, metrics, checkpoints, the train loop."""
