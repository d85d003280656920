"""The status page in an operator's hands: a token typed into the form, runs seen as they go.

The browser is driven over its own debugging pipe, with real key strokes.
"""

import base64
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from codecell.callers import AGENT_SCOPES, Scope
from codecell.http.tokens import TokenFile

pytestmark = [pytest.mark.docker, pytest.mark.anyio]


# Chromium reads commands from descriptor 3 and answers on 4.
PIPES = """
import os, sys
reads, writes = (os.dup(int(fd)) for fd in sys.argv[1:3])
os.dup2(reads, 10), os.dup2(writes, 11)
os.dup2(10, 3), os.dup2(11, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Browser:
    """One page of a headless Chromium."""

    def __init__(self, program: str, home: Path) -> None:
        to_browser, self._write = os.pipe()
        self._read, from_browser = os.pipe()
        self._process = subprocess.Popen(
            [
                sys.executable, "-c", PIPES, str(to_browser), str(from_browser),
                program, "--headless", "--no-sandbox", "--disable-gpu",
                "--disable-background-networking", "--window-size=1200,900",
                "--remote-debugging-pipe", f"--user-data-dir={home}", "about:blank",
            ],
            pass_fds=(to_browser, from_browser),
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(to_browser)
        os.close(from_browser)
        self._number = 0
        self._rest = b""
        self._session: str | None = None
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        attached = self._ask("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]

    def open(self, url: str) -> None:
        self._ask("Page.navigate", url=url)

    def evaluate(self, script: str) -> Any:
        return self._ask("Runtime.evaluate", expression=script)["result"].get("value")

    def until(self, script: str, within_s: float = 30) -> None:
        deadline = time.monotonic() + within_s
        while not self.evaluate(script):
            assert time.monotonic() < deadline, (script, self.evaluate("document.body.innerText"))
            time.sleep(0.05)

    def type(self, text: str) -> None:
        self._ask("Input.insertText", text=text)
        for kind in ("keyDown", "keyUp"):
            key = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"}
            self._ask("Input.dispatchKeyEvent", type=kind, **key)

    def picture(self) -> bytes:
        return base64.b64decode(self._ask("Page.captureScreenshot", format="png")["data"])

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._write)
        os.close(self._read)

    def _ask(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            *whole, self._rest = self._rest.split(b"\0")
            for text in whole:
                said: dict[str, Any] = json.loads(text)
                if said.get("id") == self._number:
                    assert "result" in said, said
                    result: dict[str, Any] = said["result"]
                    return result
            more = os.read(self._read, 1 << 20)
            assert more, "the browser has ended"
            self._rest += more


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    names = ("chromium", "chromium-browser", "google-chrome")
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None:
        if os.environ.get("CI") == "true":
            pytest.fail("CI must have a Chromium: .ci/get-chromium")
        pytest.skip("no Chromium; `sh .ci/get-chromium` installs it")
    begun = Browser(program, tmp_path / "browser")
    yield begun
    begun.close()


async def test_an_operator_types_a_token_and_sees_runs_come_and_go(
    serve_http: Callable[..., Any], browser: Browser, tmp_path: Path
) -> None:
    tokens = TokenFile(tmp_path / "tokens.json")
    agent, operator = tokens.add("ann", AGENT_SCOPES), tokens.add("olga", {Scope.OPERATE})
    server = serve_http(
        "http",
        CODECELL_POOL__LANGUAGES='["bash"]',
        CODECELL_RUNS__CONCURRENT="1",
        CODECELL_HTTP__TOKENS=str(tmp_path / "tokens.json"),
    )

    async def until(script: str) -> None:
        await anyio.to_thread.run_sync(browser.until, script)

    def type_token(token: str) -> None:
        browser.evaluate("document.getElementById('token').focus()")
        browser.type(token)

    async def run() -> None:
        headers = {"authorization": f"Bearer {agent}"}
        async with (
            httpx2.AsyncClient(headers=headers, timeout=60) as http,
            Client(streamable_http_client(server.url, http_client=http)) as client,
        ):
            arguments = {"language": "bash", "code": "echo secret_output; sleep 4; exit 3"}
            await client.call_tool("execute_code", arguments)

    board_hidden = "document.getElementById('board').hidden"
    text = "document.body.innerText"
    browser.open(f"{server.base}/")
    await until("document.getElementById('login') && !document.getElementById('login').hidden")
    type_token(agent)  # one that may not look
    await until(f"{text}.includes('lacks the scope')")
    assert browser.evaluate(board_hidden)
    type_token(operator)
    await until(f"!{board_hidden}")
    assert browser.evaluate("document.getElementById('login').hidden")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        tasks.start_soon(run)
        in_flight = f"{text}.includes('running') && {text}.includes('queued')"
        await until(f"{in_flight} && {text}.includes('ann')")
        (tmp_path / "during.png").write_bytes(browser.picture())
    await until(f"{text}.includes('The program exited with code 3.')")
    assert "secret_output" not in browser.evaluate("document.documentElement.outerHTML")
    assert operator not in browser.evaluate("document.documentElement.outerHTML")
    browser.evaluate("document.getElementById('forget').click()")
    await until(f"{board_hidden} && !document.getElementById('login').hidden")
    assert browser.evaluate("sessionStorage.length") == 0
