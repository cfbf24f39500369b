"""Pictures of what a backbone sees: a kind a file, each a function of maps; the figures, and the page."""
