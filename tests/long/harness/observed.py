"""A real Prometheus beside a service, and processes that are slowed down."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

import psutil
import yaml

from prometheus_install import find
from rrrbench.servers import answers, free_port, running


@contextmanager
def prometheus(folder: Path, target: str) -> Iterator[str]:
    """A real Prometheus that scrapes the service twice a second; gives its URL."""
    jobs = [
        {"job_name": name, "metrics_path": path, "static_configs": [{"targets": [target.removeprefix("http://")]}]}
        for name, path in (("rrr", "/metrics"), ("triton", "/metrics/triton"))
    ]
    configuration = {"global": {"scrape_interval": "500ms", "scrape_timeout": "500ms"}, "scrape_configs": jobs}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    url = f"http://127.0.0.1:{free_port()}"
    command = [str(find("prometheus")), f"--config.file={folder / 'prometheus.yml'}", "--log.level=warn"]
    command += [f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address={url.removeprefix('http://')}"]
    with running(command, url=url, ready=answers(f"{url}/-/ready"), log=folder / "prometheus.log"):
        yield url


@contextmanager
def slowed(processes: list[psutil.Process]) -> Iterator[None]:
    """Stop processes for 30 ms in every 32."""
    over = Event()

    def beat() -> None:
        while not over.is_set():
            for process in processes:
                process.suspend()
            over.wait(0.03)
            for process in processes:
                process.resume()
            time.sleep(0.002)

    thread = Thread(target=beat)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
