"""A real headless Chromium, driven as a person would: mouse, keys, files, clipboard. Only `make browser` needs it."""

import base64
import io
import json
import os
import shutil
import subprocess
import time
from itertools import count
from pathlib import Path
from typing import Any, cast

from PIL import Image

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
DEVICES = {"desktop": (1280, 800, 1.0), "half": (640, 800, 1.0), "phone": (390, 844, 2.0)}
_KEYS = {"Tab": 9, "Enter": 13, "Space": 32, "v": 86}
_CONTROL = 2


class Browser:
    """Chromium, spoken to through its debugging pipe: file descriptors 3 and 4, JSON ended by a zero byte.

    Attributes:
        requested: the URLs that were asked for.
        complaints: exceptions, and what the browser wrote to the log of a page.
    """

    _session = ""

    def __init__(self, profile: Path) -> None:
        program = next((found for name in PROGRAMS if (found := shutil.which(name))), None)
        assert program is not None, f"none of {', '.join(PROGRAMS)} is on the PATH: apt install chromium"
        to_read, self._write = os.pipe()
        self._read, to_write = os.pipe()
        # exec keeps bash from staying in between; the descriptors that the browser wants are fixed.
        command = f'exec "$0" "$@" 3<&{to_read} 4>&{to_write}'
        options = ["--headless=new", "--no-sandbox", "--remote-debugging-pipe", f"--user-data-dir={profile}"]
        self._process = subprocess.Popen(
            ["bash", "-c", command, program, *options, "about:blank"],
            pass_fds=(to_read, to_write),
            stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": str(profile)},
        )
        os.close(to_read)
        os.close(to_write)
        self._numbers, self._pending = count(1), b""
        self.requested: list[str] = []
        self.complaints: list[str] = []
        self._told: dict[str, dict[str, Any]] = {}  # the last of each kind that came before it was waited for
        target = self("Target.createTarget", url="about:blank")["targetId"]
        self._session = self("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log", "DOM"):
            self(f"{domain}.enable")

    def __call__(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and wait for its answer."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != number:
            self._note(answer)
        assert "error" not in answer, answer
        return cast(dict[str, Any], answer["result"])

    def wait_for(self, event: str) -> dict[str, Any]:
        """Read until the browser tells of an event, unless it has since it was last waited for; its parameters."""
        while event not in self._told:
            self._note(self._next())
        return self._told.pop(event)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._pending:
            chunk = os.read(self._read, 2**20)
            assert chunk, "the browser ended"
            self._pending += chunk
        message, _, self._pending = self._pending.partition(b"\0")
        return cast(dict[str, Any], json.loads(message))

    def _note(self, message: dict[str, Any]) -> None:
        parameters = message.get("params", {})
        self._told[message.get("method", "")] = parameters
        if message.get("method") == "Network.requestWillBeSent":
            self.requested.append(parameters["request"]["url"])
        elif message.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
            self.complaints.append(json.dumps(parameters))

    def see(self, url: str, device: str = "desktop", scheme: str = "light") -> None:
        """Open a page, on a device and in a colour scheme, and wait until it has been loaded."""
        self("Page.navigate", url="about:blank")  # the page before asks for nothing any more
        self.wait_for("Page.loadEventFired")
        self.requested.clear()
        self.complaints.clear()
        width, height, scale = DEVICES[device]
        phone = device == "phone"
        metrics = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": phone}
        self("Emulation.setDeviceMetricsOverride", **metrics)
        self("Emulation.setTouchEmulationEnabled", enabled=phone)
        self("Emulation.setFocusEmulationEnabled", enabled=True)
        self("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self("Page.navigate", url=url)
        self.wait_for("Page.loadEventFired")

    def value(self, script: str) -> Any:
        """What a script gives, when its promise has been kept."""
        answer = self("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True, userGesture=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def until(self, script: str) -> None:
        """Wait until a script gives something."""
        for _ in range(200):
            if self.value(f"!!({script})"):
                return
            time.sleep(0.1)
        raise AssertionError(f"never: {script}; {self.value('document.body.innerText')}")

    def middle(self, selector: str) -> dict[str, float]:
        """Where an element's middle is in the window, once it has been scrolled there."""
        box = f"document.querySelector({json.dumps(selector)})"
        self.value(f"{box}.scrollIntoView({{block: 'center'}})")
        return cast(
            dict[str, float],
            self.value(f"(b => ({{x: b.x + b.width / 2, y: b.y + b.height / 2}}))({box}.getBoundingClientRect())"),
        )

    def click(self, selector: str) -> None:
        """Click on an element with the mouse."""
        place = self.middle(selector)
        for kind in ("mousePressed", "mouseReleased"):
            self("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **place)

    def press(self, key: str, *, control: bool = False, commands: tuple[str, ...] = ()) -> None:
        """Press a key and let it go."""
        text = {"Enter": "\r", "Space": " "}.get(key, "")
        common = {
            "key": " " if key == "Space" else key,
            "code": {"v": "KeyV"}.get(key, key),
            "windowsVirtualKeyCode": _KEYS[key],
            "modifiers": _CONTROL if control else 0,
        }
        self(
            "Input.dispatchKeyEvent",
            type="keyDown" if text else "rawKeyDown",
            commands=list(commands),
            **common,
            **({"text": text} if text else {}),
        )
        self("Input.dispatchKeyEvent", type="keyUp", **common)

    def tab_to(self, selector: str) -> None:
        """Press Tab until an element has the focus."""
        for _ in range(80):
            if self.value(f"document.activeElement.matches({json.dumps(selector)})"):
                return
            self.press("Tab")
        raise AssertionError(f"no way by Tab to {selector}")

    def choose(self, file: Path) -> None:
        """Choose a file in the dialogue that has just been opened; `Page.setInterceptFileChooserDialog` before that."""
        chooser = self.wait_for("Page.fileChooserOpened")
        self("DOM.setFileInputFiles", files=[str(file)], backendNodeId=chooser["backendNodeId"])

    def drop(self, file: Path, selector: str) -> None:
        """Drag a file from elsewhere over an element and drop it."""
        data = {"items": [], "files": [str(file)], "dragOperationsMask": 1}
        place = self.middle(selector)
        for kind in ("dragEnter", "dragOver", "drop"):
            self("Input.dispatchDragEvent", type=kind, data=data, **place)

    def shot(self, clip: dict[str, float]) -> Image.Image:
        """A picture of a part of the page, a pixel of it for each CSS pixel."""
        ratio = self.value("devicePixelRatio")
        answer = self("Page.captureScreenshot", clip={**clip, "scale": 1 / ratio}, captureBeyondViewport=True)
        return Image.open(io.BytesIO(base64.b64decode(answer["data"]))).convert("RGB")

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(20)
        os.close(self._write)
        os.close(self._read)
