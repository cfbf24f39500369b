"""Pictures in, views out."""
