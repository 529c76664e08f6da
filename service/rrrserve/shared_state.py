"""What the supervisor and its HTTP workers tell each other: one small page of 8-byte words in shared memory.

No locks: a word has one writer, and an aligned word is written whole. The supervisor writes the head; each worker
writes its own slot; a dead worker's slot is cleared by the supervisor. Slot 0 is the supervisor's own, or that of a
worker without a supervisor (`bentoml serve`), whose state lies in its own memory.
"""

import enum
import mmap
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

# Names of the variables that tell a worker where its page and its slot are.
PATH_VARIABLE = "RRR_SHARED_STATE"
SLOT_VARIABLE = "RRR_WORKER"

RESTARTED_PARTS = ("triton", "worker")
_WORD_BYTES = 8
_PHASE, _TRITON_UP, _GENERATION, _RESTARTS = range(4)
_HEAD_WORDS = 4 + len(RESTARTED_PARTS)
_IN_FLIGHT, _HEARTBEAT, _ANSWERED = range(3)
_WORDS_OF_A_MODEL = 2  # when it last answered, when it last failed to
_NEVER = 0


class Phase(enum.IntEnum):
    """How far the service is on its way down."""

    SERVING = 0
    DRAINING = 1  # not ready any more, but requests are answered
    REFUSING = 2  # new requests are refused, those under way are answered


class SharedState:
    """A view of the page from one slot.

    Attributes:
        slot: this process's own.
        slots: how many there are.
        models: place of each model, by name.
    """

    def __init__(self, words: memoryview, models: Sequence[str], slot: int) -> None:
        self._words = words
        self.models = {name: index for index, name in enumerate(models)}
        self._stride = _ANSWERED + _WORDS_OF_A_MODEL * len(models)
        self.slot = slot
        self.slots = (len(words) - _HEAD_WORDS) // self._stride
        self._own = self._start(slot)

    @classmethod
    def in_process(cls, models: Sequence[str]) -> "SharedState":
        """A state that nobody else sees, with Triton taken to be up until something tells otherwise."""
        state = cls(memoryview(bytearray(size_bytes(len(models), 1))).cast("q"), models, 0)
        state.triton_up = True
        return state

    @classmethod
    def create(cls, path: Path, models: Sequence[str], workers: int) -> "SharedState":
        """A new page at `path` for a supervisor and so many workers; the view is the supervisor's."""
        path.write_bytes(bytes(size_bytes(len(models), 1 + workers)))
        return cls.attach(path, models, 0)

    @classmethod
    def attach(cls, path: Path, models: Sequence[str], slot: int) -> "SharedState":
        """The page at `path`, seen from `slot`."""
        with path.open("r+b") as file:
            return cls(memoryview(mmap.mmap(file.fileno(), 0)).cast("q"), models, slot)

    @classmethod
    def from_environment(cls, environ: Mapping[str, str], models: Sequence[str]) -> "SharedState":
        """The page that the supervisor told this worker about; one of its own where there is no supervisor."""
        path = environ.get(PATH_VARIABLE)
        return cls.attach(Path(path), models, int(environ[SLOT_VARIABLE])) if path else cls.in_process(models)

    def add(self, delta: int) -> None:
        """Count images that this process is at."""
        self._words[self._own + _IN_FLIGHT] += delta

    def total(self) -> int:
        """Images that all processes are at."""
        return sum(self._words[self._start(slot) + _IN_FLIGHT] for slot in range(self.slots))

    @property
    def phase(self) -> Phase:
        """How far the service is on its way down."""
        return Phase(self._words[_PHASE])

    @phase.setter
    def phase(self, phase: Phase) -> None:
        self._words[_PHASE] = phase

    @property
    def draining(self) -> bool:
        """Whether the service is on its way down: it says that it is not ready, and closes connections it answered."""
        return self._words[_PHASE] != Phase.SERVING

    @property
    def triton_up(self) -> bool:
        """Whether Triton is worth asking; the circuit breaker."""
        return bool(self._words[_TRITON_UP])

    @triton_up.setter
    def triton_up(self, up: bool) -> None:
        self._words[_TRITON_UP] = up

    @property
    def generation(self) -> int:
        """How many times a Triton was started: a connection of an older one is of no use."""
        return self._words[_GENERATION]

    @generation.setter
    def generation(self, generation: int) -> None:
        self._words[_GENERATION] = generation

    def restarts(self, part: str) -> int:
        """How often a part, one of `RESTARTED_PARTS`, was started again."""
        return self._words[_RESTARTS + RESTARTED_PARTS.index(part)]

    def count_restart(self, part: str) -> None:
        """Count one more."""
        self._words[_RESTARTS + RESTARTED_PARTS.index(part)] += 1

    def note_answer(self, model: str) -> None:
        """A model has just given a good answer to this process."""
        self._words[self._own + self._answered(model)] = time.monotonic_ns()

    def note_failure(self, model: str) -> None:
        """A model has just failed to answer this process, or answered wrongly."""
        self._words[self._own + self._failed(model)] = time.monotonic_ns()

    def since_answer(self, model: str) -> float:
        """Seconds since a model last gave a good answer to any process; infinite if it never has."""
        return _seconds_since(self._latest(self._answered(model)))

    def answers(self, model: str) -> bool:
        """Whether a model answered when any process last asked it, and can be asked."""
        return self.triton_up and self._latest(self._answered(model)) > self._latest(self._failed(model))

    def forget_answers(self) -> None:
        """Answers of a Triton that has ended are no evidence about the next."""
        for slot in range(self.slots):
            for model in self.models:
                self._words[self._start(slot) + self._answered(model)] = _NEVER

    def _latest(self, index: int) -> int:
        return max(self._words[self._start(slot) + index] for slot in range(self.slots))

    def _answered(self, model: str) -> int:
        return _ANSWERED + _WORDS_OF_A_MODEL * self.models[model]

    def _failed(self, model: str) -> int:
        return self._answered(model) + 1

    def beat(self) -> None:
        """Tell that the event loop of this process turns."""
        self._words[self._own + _HEARTBEAT] = time.monotonic_ns()

    def since_beat(self, slot: int) -> float:
        """Seconds since the event loop of a slot's process last turned; infinite if it never has."""
        return _seconds_since(self._words[self._start(slot) + _HEARTBEAT])

    def clear(self, slot: int) -> None:
        """Forget what a dead worker had in flight and its heartbeat; its answers still count."""
        self._words[self._start(slot) + _IN_FLIGHT] = 0
        self._words[self._start(slot) + _HEARTBEAT] = _NEVER

    def _start(self, slot: int) -> int:
        return _HEAD_WORDS + slot * self._stride


def size_bytes(models: int, slots: int) -> int:
    """Size of a page."""
    return _WORD_BYTES * (_HEAD_WORDS + slots * (_ANSWERED + _WORDS_OF_A_MODEL * models))


def _seconds_since(moment_ns: int) -> float:
    return float("inf") if moment_ns == _NEVER else (time.monotonic_ns() - moment_ns) / 1e9
