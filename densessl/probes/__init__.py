"""Small evaluations of the backbone while it is trained."""
