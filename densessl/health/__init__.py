"""Whether a run learns or collapses: measures of its embeddings, their healthy ranges, and words."""
