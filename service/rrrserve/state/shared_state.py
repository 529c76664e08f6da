"""What the supervisor and its HTTP workers tell each other: small pages of 8-byte words in shared memory.

One page is about the service; another about each version of the repository and its Triton, of which there are two while
`rrr reload` puts one in the place of the other.

No locks: a word has one writer, and an aligned word is written whole. The supervisor writes the heads; each worker
writes its own slot; a dead worker's slot is cleared by the supervisor. Slot 0 is the supervisor's own, or that of a
worker without a supervisor (`bentoml serve`), whose state lies in its own memory.
"""

import enum
import mmap
import time
from collections.abc import Sequence
from pathlib import Path

STATE = "state"  # the page's name in the service's private folder
RESTARTED_PARTS = ("triton", "worker")
RELOAD_OUTCOMES = ("switched", "unchanged", "refused")
FIRST_VERSION = 1
_WORD_BYTES = 8
# The service's page: a head, then a slot for each process.
_PHASE, _VERSION, _RESTARTS = range(3)
_RELOADS = _RESTARTS + len(RESTARTED_PARTS)
_HEAD_WORDS = _RELOADS + len(RELOAD_OUTCOMES)
_IN_FLIGHT, _HEARTBEAT, _VERSION_IN_USE, _SLOT_WORDS = range(4)
# A version's page: a head, then for each process when each model last answered, and when it last failed to.
_TRITON_UP, _GENERATION, _VERSION_HEAD_WORDS = range(3)
_WORDS_OF_A_MODEL = 2
_NEVER = 0


class Phase(enum.IntEnum):
    """How far the service is on its way down."""

    SERVING = 0
    DRAINING = 1  # not ready any more, but requests are answered
    REFUSING = 2  # new requests are refused, those under way are answered


class SharedState:
    """A view of the pages from one slot: the service's, and that of one version of the repository.

    Attributes:
        slot: this process's own.
        slots: how many there are.
        models: place of each model, by name.
    """

    def __init__(
        self, words: memoryview, version_words: memoryview, models: Sequence[str], slot: int, path: Path | None = None
    ) -> None:
        self._words = words
        self._version_words = version_words
        self.models = {name: index for index, name in enumerate(models)}
        self._path = path
        self.slot = slot
        self.slots = (len(words) - _HEAD_WORDS) // _SLOT_WORDS
        self._own = self._start(slot)

    @classmethod
    def in_process(cls, models: Sequence[str]) -> "SharedState":
        """A state that nobody else sees, with Triton taken to be up until something tells otherwise."""
        service, version = (
            memoryview(bytearray(size)).cast("q") for size in (size_bytes(1), version_size_bytes(len(models), 1))
        )
        state = cls(service, version, models, 0)
        state.triton_up = True
        return state

    @classmethod
    def create(cls, path: Path, models: Sequence[str], workers: int) -> "SharedState":
        """New pages at `path` for a supervisor, so many workers and a first version; the view is the supervisor's."""
        path.write_bytes(bytes(size_bytes(1 + workers)))
        _version_path(path, FIRST_VERSION).write_bytes(bytes(version_size_bytes(len(models), 1 + workers)))
        return cls.attach(path, models, 0)

    @classmethod
    def attach(cls, path: Path, models: Sequence[str], slot: int, version: int = FIRST_VERSION) -> "SharedState":
        """The pages at `path`, seen from `slot`."""
        return cls(_mapped(path), _mapped(_version_path(path, version)), models, slot, path)

    @classmethod
    def of_service(cls, path: Path, slot: int) -> "SharedState":
        """The service's page alone, for a worker that has yet to find out which version is served."""
        nothing = memoryview(bytearray(version_size_bytes(0, 0))).cast("q")
        return cls(_mapped(path), nothing, (), slot, path)

    def new_version(self, number: int, models: Sequence[str]) -> "SharedState":
        """Make the page of another version; the view sees that one, and the same service."""
        page = _version_path(self._shared_path(), number)
        page.write_bytes(bytes(version_size_bytes(len(models), self.slots)))
        return self.of_version(number, models)

    def of_version(self, number: int, models: Sequence[str]) -> "SharedState":
        """A view of another version and the same service."""
        path = self._shared_path()
        return SharedState(self._words, _mapped(_version_path(path, number)), models, self.slot, path)

    def forget_version(self, number: int) -> None:
        """Remove a version's page; views that have it keep it."""
        _version_path(self._shared_path(), number).unlink(missing_ok=True)

    def _shared_path(self) -> Path:
        if self._path is None:
            raise RuntimeError("a state in the memory of one process has one version")
        return self._path

    @property
    def version(self) -> int:
        """The version that workers are to answer from."""
        return self._words[_VERSION]

    @version.setter
    def version(self, number: int) -> None:
        self._words[_VERSION] = number

    def use_version(self, number: int) -> None:
        """Tell that this process answers from a version, and has nothing under way with another."""
        self._words[self._own + _VERSION_IN_USE] = number

    def use_current_version(self) -> int:
        """Begin with the version that is served, which cannot be taken away from now on; its number."""
        while True:
            number = self.version
            self.use_version(number)
            if self.version == number:  # else it was replaced before the supervisor could see that it is in use
                return number

    def versions_in_use(self) -> set[int]:
        """The versions that running workers answer from."""
        found = {self._words[self._start(slot) + _VERSION_IN_USE] for slot in range(1, self.slots)}
        return found - {_NEVER}

    def reloads(self, outcome: str) -> int:
        """How many reloads ended so; one of `RELOAD_OUTCOMES`."""
        return self._words[_RELOADS + RELOAD_OUTCOMES.index(outcome)]

    def count_reload(self, outcome: str) -> None:
        """Count one more."""
        self._words[_RELOADS + RELOAD_OUTCOMES.index(outcome)] += 1

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
        return bool(self._version_words[_TRITON_UP])

    @triton_up.setter
    def triton_up(self, up: bool) -> None:
        self._version_words[_TRITON_UP] = up

    @property
    def generation(self) -> int:
        """How many times a Triton was started: a connection of an older one is of no use."""
        return self._version_words[_GENERATION]

    @generation.setter
    def generation(self, generation: int) -> None:
        self._version_words[_GENERATION] = generation

    def restarts(self, part: str) -> int:
        """How often a part, one of `RESTARTED_PARTS`, was started again."""
        return self._words[_RESTARTS + RESTARTED_PARTS.index(part)]

    def count_restart(self, part: str) -> None:
        """Count one more."""
        self._words[_RESTARTS + RESTARTED_PARTS.index(part)] += 1

    def note_answer(self, model: str) -> None:
        """A model has just given a good answer to this process."""
        self._version_words[self._answered(self.slot, model)] = time.monotonic_ns()

    def note_failure(self, model: str) -> None:
        """A model has just failed to answer this process, or answered wrongly."""
        self._version_words[self._failed(self.slot, model)] = time.monotonic_ns()

    def since_answer(self, model: str) -> float:
        """Seconds since a model last gave a good answer to any process; infinite if it never has."""
        return _seconds_since(self._last_answer(model))

    def answers(self, model: str) -> bool:
        """Whether a model answered when any process last asked it, and can be asked."""
        last_failure = max(self._version_words[self._failed(slot, model)] for slot in range(self.slots))
        return self.triton_up and self._last_answer(model) > last_failure

    def forget_answers(self) -> None:
        """Answers of a Triton that has ended are no evidence about the next."""
        for slot in range(self.slots):
            for model in self.models:
                self._version_words[self._answered(slot, model)] = _NEVER

    def _last_answer(self, model: str) -> int:
        return max(self._version_words[self._answered(slot, model)] for slot in range(self.slots))

    def _answered(self, slot: int, model: str) -> int:
        return _VERSION_HEAD_WORDS + _WORDS_OF_A_MODEL * (slot * len(self.models) + self.models[model])

    def _failed(self, slot: int, model: str) -> int:
        return self._answered(slot, model) + 1

    def beat(self) -> None:
        """Tell that the event loop of this process turns."""
        self._words[self._own + _HEARTBEAT] = time.monotonic_ns()

    def since_beat(self, slot: int) -> float:
        """Seconds since the event loop of a slot's process last turned; infinite if it never has."""
        return _seconds_since(self._words[self._start(slot) + _HEARTBEAT])

    def clear(self, slot: int) -> None:
        """Forget what a dead worker had in flight, its heartbeat and its version; its answers still count."""
        for word in (_IN_FLIGHT, _HEARTBEAT, _VERSION_IN_USE):
            self._words[self._start(slot) + word] = _NEVER

    def _start(self, slot: int) -> int:
        return _HEAD_WORDS + slot * _SLOT_WORDS


def size_bytes(slots: int) -> int:
    """Size of the service's page."""
    return _WORD_BYTES * (_HEAD_WORDS + slots * _SLOT_WORDS)


def version_size_bytes(models: int, slots: int) -> int:
    """Size of a version's page."""
    return _WORD_BYTES * (_VERSION_HEAD_WORDS + slots * _WORDS_OF_A_MODEL * models)


def _version_path(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}-{number}")


def _mapped(path: Path) -> memoryview:
    with path.open("r+b") as file:
        return memoryview(mmap.mmap(file.fileno(), 0)).cast("q")


def _seconds_since(moment_ns: int) -> float:
    return float("inf") if moment_ns == _NEVER else (time.monotonic_ns() - moment_ns) / 1e9
