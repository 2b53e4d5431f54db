"""Pictures of a run: learning curves, the confusion matrix."""
