"""The one error that a person can mend."""


class InputError(ValueError):
    """Bad input: the message says what is wrong, where (file, row, column), and what to do."""
