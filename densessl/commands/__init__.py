"""One file a command: arguments in, one call of the library."""
