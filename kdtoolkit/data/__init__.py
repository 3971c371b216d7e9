"""Data: from files or the hub to rows on disk, tokens, batches."""
