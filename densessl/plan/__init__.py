"""What this machine makes of a recipe: measured for a minute, extrapolated to its end, and what to change."""
