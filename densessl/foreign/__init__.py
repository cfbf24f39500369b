"""Weights of other projects: reading their files, finding the backbone, naming its parts as we do."""
