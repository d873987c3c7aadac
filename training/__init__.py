"""A network learns from photographs: batches, steps, checkpoints."""
