"""One page about runs: what was run, how it went, what it made, and how to do it again."""
