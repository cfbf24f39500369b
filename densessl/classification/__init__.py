"""Frozen pooled features measured by classification: nearest neighbours and a linear probe, one protocol."""
