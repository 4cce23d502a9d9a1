"""A real browser for the tests: reads what a page shows, and moves the mouse and types in it."""

import base64
import itertools
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
# calls see(node) on every node, also inside web components and frames; returns its true values
DEEP = """
    function deep(node, see) {
      if (["STYLE", "SCRIPT", "NOSCRIPT", "TEMPLATE"].includes(node.nodeName)) return [];
      const own = see(node);
      const frame = node.contentDocument?.body;
      const inner = [...(node.shadowRoot?.childNodes ?? []), ...(frame ? [frame] : [])];
      const children = [...inner, ...node.childNodes];
      return [...(own ? [own] : []), ...children.flatMap((child) => deep(child, see))];
    }
"""


def installed() -> str | None:
    """The path of a browser on this machine, or None."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


class Browser:
    """One page of a headless Chromium, which DevTools commands control through a pair of pipes."""

    def __init__(self, path: str, profile: Path) -> None:
        (commands, self.commands), (self.answers, answers) = os.pipe(), os.pipe()

        def pipes() -> None:  # --remote-debugging-pipe uses the descriptors 3 and 4
            first, second = os.dup(commands), os.dup(answers)
            os.dup2(first, 3)
            os.dup2(second, 4)

        flags = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            f"--user-data-dir={profile}",
        ]
        command = [path, *flags, "--window-size=1280,900", "--remote-debugging-pipe", "about:blank"]
        nothing = subprocess.DEVNULL
        self.process = subprocess.Popen(
            command, preexec_fn=pipes, close_fds=False, stdout=nothing, stderr=nothing
        )
        os.close(commands)
        os.close(answers)
        self.numbers, self.received, self.events = itertools.count(), b"", []
        self.session: dict[str, str] = {}
        target = self.call("Target.createTarget", url="about:blank")
        attached = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self.session = {"sessionId": attached["sessionId"]}
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: object) -> dict[str, Any]:
        number = next(self.numbers)
        message = (
            json.dumps({"id": number, "method": method, "params": params, **self.session}).encode()
            + b"\0"
        )
        while message:
            message = message[os.write(self.commands, message) :]
        while (answer := self.receive()).get("id") != number:
            self.events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def receive(self) -> dict[str, Any]:
        while b"\0" not in self.received:
            part = os.read(self.answers, 1 << 20)
            assert part, "the browser is gone"
            self.received += part
        line, _, self.received = self.received.partition(b"\0")
        return json.loads(line)

    def js(self, expression: str) -> Any:
        found = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def until(self, expression: str) -> None:
        end = time.monotonic() + 30
        while not self.js(expression):
            assert time.monotonic() < end, expression
            time.sleep(0.02)

    def open(self, url: str, ready: str = "!!document.body") -> None:
        """Goes to a page and waits until the expression ``ready`` holds in it."""
        self.events.clear()
        # without this, another fragment of the same page would not load the page again
        self.call("Page.navigate", url="about:blank")
        self.call("Page.navigate", url=url)
        self.until(ready)

    def text(self) -> str:
        """All text on the page, also hidden text, with a line for each text node."""
        text_of = "(node) => node.nodeType === 3 ? node.data.trim() : ''"
        return self.js(f"({DEEP})(document.body, {text_of}).join('\\n')")

    def wait_for(self, *texts: str) -> str:
        """Waits until all of the texts are on the page; returns all text on the page."""
        end = time.monotonic() + 30
        while missing := [text for text in texts if text not in (page := self.text())]:
            assert time.monotonic() < end, f"{missing} not on the page: {page[:3000]}"
            time.sleep(0.1)
        return page

    def picture(self, path: Path) -> None:
        """Saves a screenshot, for a person."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def mouse(self, kind: str, x: float, y: float, buttons: int = 0) -> None:
        button = "left" if buttons or kind == "Released" else "none"
        self.call(
            "Input.dispatchMouseEvent",
            type=f"mouse{kind}",
            x=x,
            y=y,
            buttons=buttons,
            button=button,
            clickCount=1,
        )

    def key(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key)

    def troubles(self) -> list[str]:
        """The requests to a network, and the errors."""
        asked = [
            e["params"]["request"]["url"]
            for e in self.events
            if e["method"] == "Network.requestWillBeSent"
        ]
        wrong = [e for e in self.events if e["method"] == "Runtime.exceptionThrown"]
        wrong += [
            e for e in self.events if e.get("params", {}).get("entry", {}).get("level") == "error"
        ]
        return [url for url in asked if not url.startswith(("file:", "data:"))] + [
            str(event) for event in wrong
        ]

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(20)
        os.close(self.commands)
        os.close(self.answers)
