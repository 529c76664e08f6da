"""Bounds that a long test asserts: each one missed is told at once, kept, and makes the exit code 1."""


class Bounds:
    """What was missed so far.

    Attributes:
        missed: in words.
    """

    def __init__(self) -> None:
        self.missed: list[str] = []

    def check(self, what: str, holds: bool) -> None:
        """Remember a bound that was missed; `what` says how."""
        if not holds:
            self.missed.append(what)
            print(f"MISSED: {what}", flush=True)
