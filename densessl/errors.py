"""What a user did and can mend, as opposed to what is broken in densessl."""


class UserError(ValueError):
    """Wrong input: the message names the key, file or line, and what would be right."""
