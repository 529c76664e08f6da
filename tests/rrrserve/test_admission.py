import threading
import time

import pytest

from rrrserve.api.admission import Admission, default_in_flight
from rrrserve.api.bodies import BodyMemory
from rrrserve.api.decoding import _Memory
from rrrserve.api.errors import APIError
from rrrserve.state.shared_state import SharedState


def test_the_default_lets_one_batch_run_and_one_wait() -> None:
    assert [default_in_flight(largest) for largest in (1, 32, 100)] == [64, 64, 200]


def test_work_is_refused_while_the_limit_is_reached_and_admitted_again_after() -> None:
    state = SharedState.in_process(["a"])
    admission = Admission(state, 2)
    with admission.admitted(1, 10):
        admission.check(10)
        with admission.admitted(1, 10):
            with pytest.raises(APIError) as caught, admission.admitted(1, 10):
                pass
            assert (caught.value.status, caught.value.code) == (429, "overloaded")
            assert caught.value.headers["Retry-After"] == "1"
            assert state.total() == 2
        admission.check(10)
    assert state.total() == 0


def test_a_batch_larger_than_the_limit_is_admitted_when_there_is_room_at_all() -> None:
    state = SharedState.in_process(["a"])
    admission = Admission(state, 4)
    with admission.admitted(3, 10), admission.admitted(32, 10):
        assert state.total() == 35
        with pytest.raises(APIError):
            admission.check(10)
    admission.check(10)


def test_work_that_fails_gives_its_place_back() -> None:
    state = SharedState.in_process(["a"])
    with pytest.raises(ValueError), Admission(state, 1).admitted(1, 10):
        raise ValueError
    assert state.total() == 0


def test_what_cannot_be_done_before_half_its_deadline_is_refused_and_a_request_alone_never() -> None:
    admission = Admission(SharedState.in_process(["a"]), 100)
    for _ in range(50):  # 10 images in 2 ms or more
        with admission.admitted(10, 10):
            time.sleep(0.002)
    admission.check(0.000_001)
    assert admission.load(admission.queue(), 0.000_001) == 0
    with admission.admitted(50, 10):
        admission.check(10)
        assert admission.load(admission.queue(), 10) == 0.5  # of the number of images
        with pytest.raises(APIError, match="50 images are being worked on: too many for the request's deadline"):
            admission.check(0.001)


def test_bodies_over_the_memory_are_refused_until_others_are_given_back() -> None:
    memory = BodyMemory(100)
    first, second = (memory.begin(lambda: pytest.fail("it is young, and need not give way")) for _ in range(2))
    first.take(60)
    with pytest.raises(APIError) as caught:
        second.take(50)
    assert caught.value.code == "overloaded"
    second.take(40)
    with first:
        first.finish()
    second.take(60)


def test_a_thread_waits_for_decoding_memory_and_one_that_wants_all_of_it_gets_it() -> None:
    memory = _Memory(100)
    order: list[str] = []

    def large() -> None:
        with memory.held(1000):
            order.append("large")

    with memory.held(1):
        thread = threading.Thread(target=large)
        thread.start()
        with memory.held(99):
            order.append("small")
    thread.join(10)
    assert order == ["small", "large"]
