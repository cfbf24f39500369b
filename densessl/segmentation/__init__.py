"""Frozen features measured by segmentation: a linear head, named protocols, one confusion matrix."""
