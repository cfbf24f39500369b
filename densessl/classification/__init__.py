"""Pooled features measured by classification: nearest neighbours, linear layers, fine-tuning on few labels."""
