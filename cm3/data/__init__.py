"""Raw records to training batches, one file an arrow: mask, pack, load."""
