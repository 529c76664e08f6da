"""What the HTTP workers and their parent know of each other: images being worked on, and whether the service stops."""


class SharedState:
    """The state of a service that has one worker and no parent to share it with (`bentoml serve`).

    Attributes:
        draining: the service is about to stop: readiness is off, and connections are closed after their answer.
    """

    def __init__(self) -> None:
        self.draining = False
        self._images = 0

    def add(self, delta: int) -> None:
        """Count images that this worker begins (positive) or has done with (negative)."""
        self._images += delta

    def total(self) -> int:
        """Images that all workers are at now."""
        return self._images
