"""Pretraining: processes, engine, optimiser, run folder and the loop."""
