"""What the request path tells of its trace. Here nothing is recorded: `recorded` has the trace that has spans."""

from contextlib import AbstractContextManager, nullcontext

from rrrserve.traces.context import Fields


class Trace:
    """The trace of one request, without spans of our own.

    Args:
        trace_id: 32 hexadecimal digits; empty where the request belongs to none.
        fields: what is handed to whom we ask for it.
    """

    def __init__(self, trace_id: str = "", fields: Fields = ()) -> None:
        self.trace_id = trace_id
        self._asking = nullcontext(fields or None)

    def stage(self, name: str, started: float, ended: float) -> None:
        """A part of the work is done.

        Args:
            name: of the stage.
            started: on the clock of `time.perf_counter`, as
            ended: is.
        """

    def asking(self, name: str) -> AbstractContextManager[Fields | None]:  # noqa: ARG002  as `recorded` has it
        """While the body of the `with` statement runs, another service is asked; gives what it shall be told.

        Args:
            name: of the stage.
        """
        return self._asking

    def end(self, status: int, error: str, model: str) -> None:
        """The request is answered.

        Args:
            status: of the answer; 0 where the client has gone.
            error: the code of the error that it tells; empty where it tells none.
            model: the model's name, where it is known.
        """


UNTRACED = Trace()
