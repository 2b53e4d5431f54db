"""Images on storage to batches in memory: sources, decoding, splits, the published dataset, loading."""
