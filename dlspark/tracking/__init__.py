"""What a run leaves behind: the journal the workers write, its shipping to MLflow, the model registry."""
