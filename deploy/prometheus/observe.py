"""Run a real Prometheus with the rules of this folder against a service, until Ctrl-C: what `make observe` does.

    python deploy/prometheus/observe.py [--url http://127.0.0.1:3000] [--port 9090] [--interval 5s] [--baseline NAME]

It listens on loopback only and keeps its data in a folder of its own below artifacts/, which is removed at the end.
"""

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import yaml

import prometheus_install
from rrrnet.errors import CheckFailedError, RRRError, UsageError
from rrrserve.net.listener import listen
from rrrserve.net.tokens import client_headers, tokens_of
from rrrserve.process import die_with_parent

HERE = Path(__file__).parent
ARTIFACTS = HERE.parents[1] / "artifacts"
_BASELINE = re.compile(r'(?<=rrr_model_info\{model=~")[^"]+')  # the one line of rules.yml that names it
_START_SECONDS = 30.0
_END_SECONDS = 10.0


def target_of(url: str) -> tuple[str, str]:
    """Scheme and HOST:PORT of a service's URL.

    Raises:
        UsageError: it is no such URL.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"--url is {url!r}: expected the service's address, such as http://127.0.0.1:3000")
    return parts.scheme, parts.netloc


def served_models(url: str) -> list[dict[str, Any]]:
    """The models of the service, none where it does not answer."""
    try:
        headers = client_headers(os.environ)
        answer = httpx.get(f"{url.rstrip('/')}/v1/models", headers=headers, timeout=5, trust_env=False)
        models: list[dict[str, Any]] = answer.raise_for_status().json()["models"]
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return []
    return models


def rules(models: list[dict[str, Any]], baseline: str | None) -> str:
    """The text of rules.yml with the baseline set.

    Args:
        models: what the service serves.
        baseline: its name; None keeps the rules' own where it matches one model, else takes the one with the most MACs.

    Raises:
        UsageError: the service is up and has no such model.
    """
    text = (HERE / "rules.yml").read_text()
    names = [model["name"] for model in models]
    if baseline is not None and names and baseline not in names:
        raise UsageError(f"--baseline is {baseline!r}: the service has {', '.join(names)}")
    own = _BASELINE.findall(text)[0]
    if baseline is None and models and sum(bool(re.fullmatch(own, name)) for name in names) != 1:
        baseline = max(models, key=lambda model: int(model["macs"]))["name"]
    if baseline is None:
        return text
    pattern = re.escape(baseline).replace("\\-", "-").replace("\\", "\\\\")  # a PromQL string, which knows no \-
    return _BASELINE.sub(lambda _: pattern, text, count=1)


def write_configuration(folder: Path, url: str, *, interval: str, rules_text: str) -> Path:
    """prometheus.yml of this folder with the service's address and another interval; returns its path."""
    scheme, target = target_of(url)
    document = yaml.safe_load((HERE / "prometheus.yml").read_text())
    document["global"] = {"scrape_interval": interval, "evaluation_interval": interval}
    for job in document["scrape_configs"]:
        job |= {"scheme": scheme, "static_configs": [{"targets": [target]}]}
        for token in tokens_of(os.environ)[:1]:
            (folder / "token").touch(mode=0o600)
            (folder / "token").write_text(token)
            job["authorization"] = {"credentials_file": str(folder / "token")}
    document["rule_files"] = ["rules.yml", str(HERE / "alerts.yml")]
    (folder / "rules.yml").write_text(rules_text)
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(document))
    return path


@contextmanager
def prometheus(configuration: Path, port: int) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A running Prometheus, ended at the end of the context; gives its URL and its process.

    Raises:
        IncompatibleError: there is no prometheus.
        UsageError: the port is in use.
        CheckFailedError: it did not start; holds the end of its log.
    """
    binary = prometheus_install.find("prometheus")
    try:
        with listen("127.0.0.1", port) as listener:
            port = listener.getsockname()[1]
    except UsageError as error:
        raise UsageError(f"{error} (make observe PROMETHEUS_PORT=PORT)") from error
    folder = configuration.parent
    command = [str(binary), f"--config.file={configuration}", f"--storage.tsdb.path={folder / 'data'}"]
    command += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"]
    command += prometheus_install.page_options(binary)
    # It must not outlive this process, and a terminal's Ctrl-C must reach this process alone, which then ends it.
    reading, writing = os.pipe()
    wrapper = [sys.executable, "-I", "-S", "-B", die_with_parent.__file__, str(os.getpid()), str(reading), "0"]
    log = folder / "prometheus.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*wrapper, *command], stdin=subprocess.DEVNULL, stdout=file, stderr=file, pass_fds=(reading,)
        )
    os.close(reading)
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_until_ready(url, process, log)
        yield url, process
    finally:
        process.terminate()
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        os.close(writing)


def _wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            if httpx.get(f"{url}/-/ready", timeout=5, trust_env=False).status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            pass  # not listening yet
        time.sleep(0.1)
    raise failure(process, log)


def failure(process: subprocess.Popen[bytes], log: Path) -> CheckFailedError:
    """The error for a Prometheus that did not start, or ended by itself."""
    state = f"was not ready after {_START_SECONDS:g} s" if process.poll() is None else "ended by itself"
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-10:])
    return CheckFailedError(f"Prometheus {state}. The end of its log:\n{tail}")


def observe(url: str, *, port: int, interval: str, baseline: str | None) -> None:
    """Run Prometheus until a signal ends this process.

    Raises:
        RRRError: it cannot be started, or ended by itself.
    """
    target_of(url)
    if re.fullmatch(r"[1-9]\d*(ms|s|m)", interval) is None:
        raise UsageError(f"--interval is {interval!r}: expected a whole number of ms, s or m, such as 15s")
    models = served_models(url)
    ARTIFACTS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ARTIFACTS, prefix="prometheus-") as name:
        configuration = write_configuration(Path(name), url, interval=interval, rules_text=rules(models, baseline))
        with prometheus(configuration, port) as (address, process):
            if not models:
                print(f"nothing answers at {url} yet: its targets are down until rrr serve runs there", flush=True)
            print(f"Prometheus: {address} scrapes {url} every {interval}    stop: Ctrl-C", flush=True)
            process.wait()
            raise failure(process, Path(name) / "prometheus.log")


def main() -> int:
    """Entry of the script; the exit code."""
    parser = argparse.ArgumentParser(description="A real Prometheus against a running service, until Ctrl-C.")
    parser.add_argument("--url", default="http://127.0.0.1:3000", help="the service")
    parser.add_argument("--port", type=int, default=9090, help="Prometheus's own port on loopback; 0 takes a free one")
    parser.add_argument("--interval", default="5s", help="time between scrapes, such as 500ms or 15s")
    parser.add_argument("--baseline", help="the model that speed-ups are measured against")
    arguments = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    try:
        observe(arguments.url, port=arguments.port, interval=arguments.interval, baseline=arguments.baseline)
    except RRRError as error:
        print(f"observe: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
