"""Training loops: batches to checkpoints."""
