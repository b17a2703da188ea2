"""The one exception of the embedded stack."""


class StackError(Exception):
    """The stack cannot do what was asked. The message says what happened and what to do about it."""
