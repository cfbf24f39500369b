"""Several methods under one budget: the rows, the processes that fill them, and what they come to."""
