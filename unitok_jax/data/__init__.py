"""From files to packed rows: sources, tasks, mixing, packing, batches."""
