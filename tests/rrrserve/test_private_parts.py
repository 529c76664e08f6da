"""Parts of uvicorn, prometheus_client and BentoML that are no public API, and that we override or use: still there?

Their versions have upper bounds in pyproject.toml. Whoever raises one and fails here looks at what moved: most of it
would switch something off without an error, such as giving up work for a client that has gone.
"""

import inspect
from pathlib import Path
from typing import Any

import prometheus_client
import pytest
import uvicorn
from bentoml._internal.container import BentoMLContainer
from bentoml._internal.context import server_context
from prometheus_client import multiprocess
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from rrrserve.http.protocol import GuardedProtocol
from rrrserve.http.server import Server

OVERRIDDEN = [
    (ours, theirs, name)
    for ours, theirs, names in (
        (
            GuardedProtocol,
            HttpToolsProtocol,
            "connection_made connection_lost data_received on_message_begin on_url on_header on_headers_complete "
            "on_message_complete on_response_complete _start_asgi_task shutdown pause_writing resume_writing",
        ),
        (Server, uvicorn.Server, "on_tick startup shutdown"),
    )
    for name in names.split()
]


def parameters(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


@pytest.mark.parametrize(("ours", "theirs", "name"), OVERRIDDEN)
def test_what_we_override_is_there_and_takes_the_same(ours: type, theirs: type, name: str) -> None:
    mine = parameters(vars(ours)[name])
    assert len(mine) == len(parameters(vars(theirs)[name]))
    if name == "_start_asgi_task":  # who calls it is ours too
        assert mine == parameters(vars(theirs)[name]) == ["self", "cycle", "app"]


def test_nothing_else_of_uvicorn_is_overridden() -> None:
    for ours, theirs in ((GuardedProtocol, HttpToolsProtocol), (Server, uvicorn.Server)):
        known = {name for mine, _, name in OVERRIDDEN if mine is ours} | {"__init__", "__module__", "__doc__"}
        assert set(vars(ours)) & set(dir(theirs)) <= known | {"__firstlineno__", "__static_attributes__"}


def test_uvicorn_keeps_its_state_where_we_look_for_it() -> None:
    for function, names in (
        (HttpToolsProtocol.__init__, "flow cycle pipeline parser loop tasks server_state"),
        (HttpToolsProtocol.on_message_begin, "url headers scope"),
        (
            RequestResponseCycle.__init__,
            "response_started response_complete disconnected keep_alive message_event scope",
        ),
        (ServerState.__init__, "default_headers total_requests tasks"),
        (uvicorn.Server.startup, "servers"),
    ):
        assert set(names.split()) <= set(function.__code__.co_names), function
    assert parameters(RequestResponseCycle.run_asgi) == ["self", "app"]
    assert STATUS_LINE[431] == b"HTTP/1.1 431 Request Header Fields Too Large\r\n"


def test_prometheus_client_names_a_workers_files_by_what_we_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values: Any = prometheus_client.values
    assert parameters(values.MultiProcessValue) == ["process_identifier"]
    assert callable(values.ValueClass)
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    values.MultiProcessValue(lambda: 7)("counter", "a", "a_total", (), (), "help").inc(3)
    assert [path.name for path in tmp_path.iterdir()] == ["counter_7.db"]
    assert parameters(multiprocess.MultiProcessCollector.merge)[0] == "files"
    assert parameters(multiprocess.mark_process_dead) == ["pid", "path"]


def test_bentoml_has_a_workers_context_that_can_be_set() -> None:
    assert isinstance(BentoMLContainer.development_mode.get(), bool)
    assert {"worker_index", "service_name", "service_type", "bento_name", "bento_version"} <= set(dir(server_context))
