"""Values, figures and streams that are too long, as a real client gets them from real cells."""

import base64
import hashlib
import io
import os
import struct
import sys
from collections.abc import AsyncIterator
from typing import Any

import anyio
import docker
import pytest
from mcp import Client, StdioServerParameters
from mcp.types import CallToolResult, ImageContent, TextContent

pytestmark = [pytest.mark.docker, pytest.mark.anyio]

SCIENCE = "python-science"


@pytest.fixture(scope="module")
async def client(engine: docker.APIClient) -> AsyncIterator[Client]:
    """A client of one server for the whole module."""
    del engine
    server = StdioServerParameters(
        command=sys.executable, args=["-m", "codecell", "serve"], env=dict(os.environ)
    )
    async with Client(server) as connected:
        yield connected


class Answer:
    """What came back."""

    def __init__(self, result: CallToolResult) -> None:
        assert isinstance(result.structured_content, dict), result.content
        self.facts: dict[str, Any] = result.structured_content
        first, *images = result.content
        assert isinstance(first, TextContent)
        self.text = first.text
        self.images = [image for image in images if isinstance(image, ImageContent)]
        assert len(self.images) == len(images)
        self.size = len(result.model_dump_json(by_alias=True).encode())
        assert self.size < 900_000

    @property
    def value(self) -> dict[str, Any]:
        value = self.facts["result"]
        assert isinstance(value, dict), self.facts
        return value

    def ok(self) -> "Answer":
        assert (self.facts["status"], self.facts["stderr"]) == ("success", ""), self.facts
        return self


async def execute(client: Client, language: str, code: str, **fields: Any) -> Answer:
    with anyio.fail_after(150):
        result = await client.call_tool(
            "execute_code", {"language": language, "code": code, **fields}
        )
    return Answer(result)


async def python(client: Client, code: str, **fields: Any) -> Answer:
    return await execute(client, "python", code, **fields)


@pytest.fixture
def science(installed: set[str]) -> str:
    if SCIENCE not in installed:
        advice = f"no image for {SCIENCE}; run `codecell images build --all`"
        if os.environ.get("CI") == "true":
            pytest.fail(advice)
        pytest.skip(advice)
    return SCIENCE


def pixels(image: ImageContent) -> tuple[int, int]:
    data = base64.b64decode(image.data)
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack_from(">II", data, 16)
    return width, height


# values


@pytest.mark.parametrize(
    ("code", "text", "value"),
    [
        ("6 * 7", "42", 42),
        ("x = {'a': [1, None, 2.5]}\nx", "{'a': [1, None, 2.5]}", {"a": [1, None, 2.5]}),
        ("'héllo'", "'héllo'", "héllo"),
        ("(1, 2)", "(1, 2)", None),
        ("{'a': float('nan')}", "{'a': nan}", None),
        ("print('printed'); [\n  1,\n]\n# the end", "[1]", [1]),
        ("from __future__ import annotations\ndef f(x: y): ...\nf.__annotations__", "{'x': 'y'}",
         {"x": "y"}),
        ("(x := 3) + 1", "4", 4),
        ("class A:\n    def __repr__(self): print('noise'); return 'A!'\nA()", "A!", None),
    ],
)  # fmt: skip
async def test_the_value_of_the_last_expression(
    client: Client, code: str, text: str, value: object
) -> None:
    answer = (await python(client, code)).ok()
    assert (answer.value["text"], answer.value["json"]) == (text, value)
    assert answer.facts["stdout"] == ("printed\n" if "printed" in code else "")
    run = answer.facts["run_id"]
    assert f"--- value of run {run} ---\n{text}\n--- result of run {run} ---" in answer.text


@pytest.mark.parametrize(
    "code", ["print(1)", "x = 1", "None", "print(1); None", "def f():\n    5\nf()", "if True:\n  5"]
)
async def test_most_programs_have_no_value(client: Client, code: str) -> None:
    answer = (await python(client, code)).ok()
    assert (answer.facts["result"], answer.facts["displays"]) == (None, [])


# What a JavaScript program ends in, and what is shown of it.
JAVASCRIPT = {
    "6 * 7": ("42", 42),
    "const x = { a: [1, null, 2.5] };\nx": ("{ a: [ 1, null, 2.5 ] }", {"a": [1, None, 2.5]}),
    "const a = 1; a + 1;": ("2", 2),
    "[1, 2].map((n) => n * 2); // each\n// twice": ("[ 2, 4 ]", [2, 4]),
    "let n = 2;\nn = n === 2 ? 'yes' : 'no'": ("'yes'", "yes"),
    "const s = 'a; // b'\n\ns.length > 3 && s": ("'a; // b'", "a; // b"),
    "function f({ a }) {\n  return a;\n}\n\nf({\n  a: new Map([[1, 'x']]),\n});": (
        "Map(1) { 1 => 'x' }",
        None,
    ),
    "null": ("null", None),
    "[1, NaN]": ("[ 1, NaN ]", None),
    "2n ** 70n": ("1180591620717411303424n", None),
    "const o = { get g() { console.log('asked'); return 1; } }\no": ("{ g: [Getter] }", None),
    "class A { [Symbol.for('nodejs.util.inspect.custom')]() { return 'A!'; } }\nnew A()": (
        "A!",
        None,
    ),
    "async function main() {\n  return 42;\n}\nmain();": ("Promise { 42 }", None),
}
NO_VALUE = (
    "console.log(1)",
    "const x = 1",
    "undefined",
    "function f() {}",
    "{ 5 }",
    "if (true)\n  5",
    "const x = 5\nconst y = `\nx`",
    "setTimeout(() => {}, 1);",
    "process.stdin.on('end', () => {});",
    "(async () => {\n  return 1;\n})();",
    "async function main() {}\nmain();",
    "import fs from 'fs';\n6 * 7",
)


@pytest.mark.parametrize("code", JAVASCRIPT)
async def test_the_value_of_a_javascript_program(client: Client, code: str) -> None:
    answer = (await execute(client, "javascript", code)).ok()
    text, value = JAVASCRIPT[code]
    assert (answer.value["text"], answer.value["json"]) == (text, value)
    assert answer.value["notes"] == []
    assert (answer.facts["stdout"], answer.facts["stderr"]) == ("", "")


@pytest.mark.parametrize("code", NO_VALUE)
async def test_most_javascript_programs_have_no_value(client: Client, code: str) -> None:
    name = "main.mjs" if code.startswith("import") else "main.js"
    answer = await execute(client, "javascript", code, entrypoint=name)
    assert (answer.facts["status"], answer.facts["result"]) == ("success", None)


@pytest.mark.parametrize(
    ("code", "where"),
    [
        ("f();\nnull.x;", "main.js:1:1)"),
        ("const a = 1;\n\n  null.x === a && 5", "main.js:3:8)"),
        ("const a = 1;\nnull.x === a && 5", "main.js:2:6)"),
        ("a\n(5)", "main.js:1:1)"),
        ("throw new Error('x') // why\n5 === 5", "main.js:1:7)"),
    ],
)
async def test_a_javascript_trace_shows_what_was_sent(
    client: Client, code: str, where: str
) -> None:
    answer = await execute(client, "javascript", code)
    assert answer.facts["status"] == "execution_error"
    assert where in answer.facts["stderr"]
    assert "instanceof" not in answer.facts["stderr"]


async def test_the_value_of_each_javascript_step(client: Client) -> None:
    shown = []
    for code in (
        "const a = { b: [1, 2] }; a", "a.b.length === 2", "let c = 5", "await Promise.resolve('x')",
        "Promise.resolve(-0)", "2n ** 64n", "Symbol('s')", "(await import('os')).EOL", "null",
        "setTimeout(() => {}, 1)", "new Proxy({}, { ownKeys() { throw 1; } })",
    ):  # fmt: skip
        answer = (await execute(client, "javascript", code, session_id="js-values")).ok()
        value = answer.facts["result"]
        shown.append(value and (value["text"], value["json"]))
    await client.call_tool("close_session", {"session_id": "js-values"})
    assert shown == [
        ("{ b: [ 1, 2 ] }", {"b": [1, 2]}), ("true", True), None, ("'x'", "x"), ("-0", 0),
        ("18446744073709551616n", None), ("Symbol(s)", None), ("'\\n'", "\n"), ("null", None),
        None, ("{}", None),
    ]  # fmt: skip


async def test_a_last_expression_that_ends_the_program_ends_it_as_ever(client: Client) -> None:
    answer = await python(client, "import sys\nprint('a')\nsys.exit(3)")
    assert (answer.facts["exit_code"], answer.facts["result"]) == (3, None)
    answer = await python(client, "def f():\n    1 / 0\n\nf()")
    assert "line 4, in <module>\n    f()\n" in answer.facts["stderr"]
    assert "codecell" not in answer.facts["stderr"]
    answer = await python(client, "async def main(): pass\nmain()")
    assert "main.py:2: RuntimeWarning: coroutine 'main' was never awaited" in answer.facts["stderr"]


RICH = """
class Rich:
    def _repr_html_(self): return "<b>hé</b>"
    def _repr_markdown_(self): return "**hé**"
    def _repr_latex_(self): return "$h$"
    def _repr_svg_(self): return "<svg/>"
    def _repr_json_(self): return {"h": [1]}
    def __repr__(self): return "Rich()"
class Bundle:
    def _repr_mimebundle_(self, include=None, exclude=None):
        return {"text/html": "<i>i</i>", "application/x-other": "?", "text/latex": 5}, {}
    def __repr__(self): return "Bundle()"
display(Bundle(), 1)
display(Rich)
Rich()
"""


async def test_every_form_that_an_object_offers(client: Client) -> None:
    answer = (await python(client, RICH)).ok()
    assert answer.value == {
        "text": "Rich()", "text_truncated": False, "json": {"h": [1]}, "files": [], "notes": [],
        "mime": {
            "text/html": "<b>hé</b>", "text/markdown": "**hé**", "text/latex": "$h$",
            "image/svg+xml": "<svg/>",
        },
    }  # fmt: skip
    bundle, one, kind = answer.facts["displays"]
    assert (bundle["text"], bundle["mime"]) == ("Bundle()", {"text/html": "<i>i</i>"})
    assert bundle["notes"] == ["text/latex is left out: it is neither text nor bytes"]
    assert (one["text"], one["json"]) == ("1", 1)
    assert kind["text"] == "<class '__main__.Rich'>"
    assert kind["mime"] == {}


HOSTILE = {
    "loops": "class A:\n    def __repr__(self):\n        while True: pass\nA()",
    "raises": "class A:\n    def __repr__(self): raise SystemExit(9)\nA()",
    "recurses": "class A:\n    def __repr__(self): return repr(self)\nA()",
    "no text": "class A:\n    def __repr__(self): return 5\nA()",
    "is large": "class A:\n    def __repr__(self): return 'x' * 30_000_000\nA()",
    "html": "class A:\n    def _repr_html_(self): return 'x' * 30_000_000\nA()",
    "png": "class A:\n    def _repr_png_(self): return b'no picture'\nA()",
    "deep": "a = []\nfor _ in range(100_000): a = [a]\na",
    "wide": "list(range(3_000_000))",
    "digits": "1 << 4_000_000",
    "surrogate": "x = 1\n'\\ud800'",
    "file is taken": "import os\nos.mkfifo('/tmp/.codecell-values')\n5",
    "file leads away": "import os\nos.symlink('/etc/passwd', '/tmp/.codecell-values')\n5",
    "file is large": "f = open('/tmp/.codecell-values', 'wb')\nf.truncate(60_000_000)\nf.close()",
    "file is noise": "open('/tmp/.codecell-values', 'wb').write(b'status: success' * 99)\nprint()",
    "forged": "import json\nh = json.dumps({'role': 'result', 'parts': [['image/png', 3, 0]], "
    "'notes': ['status: timeout']}).encode()\n"
    "open('/tmp/.codecell-values', 'wb').write(len(h).to_bytes(4, 'big') + h + b'abc')\nprint()",
}


@pytest.mark.requirement("out:values")
@pytest.mark.parametrize("name", HOSTILE)
async def test_a_hostile_value_changes_nothing_but_itself(client: Client, name: str) -> None:
    answer = await python(client, f"{HOSTILE[name]}", timeout=20)
    assert (answer.facts["status"], answer.facts["exit_code"]) == ("success", 0)
    assert answer.facts["stderr"] == ""
    assert answer.images == []
    assert answer.facts["usage"]["wall_s"] < 15


async def test_what_was_displayed_before_a_timeout_is_there(client: Client) -> None:
    answer = await python(client, "display('begun')\nwhile True: pass", timeout=1)
    assert answer.facts["status"] == "timeout"
    assert [value["json"] for value in answer.facts["displays"]] == ["begun"]


async def test_a_thousand_displays_are_a_hundred_and_a_word(client: Client) -> None:
    answer = (await python(client, "for i in range(1000): display(i)")).ok()
    assert [value["json"] for value in answer.facts["displays"][:-1]] == list(range(100))
    assert answer.facts["displays"][-1]["notes"] == [
        "more than 100 values: the further ones are left out"
    ]


# figures and frames

FIGURES = """
import matplotlib.pyplot as plt
for title in ("one", "two"):
    plt.figure(figsize=(3, 2))
    plt.title(title)
    plt.plot([1, 3, 2])
    print(title)
    plt.show()
fig, ax = plt.subplots(figsize=(6, 2))
ax.bar(["a", "b"], [2, 1])
"""


async def test_figures_come_as_images_in_order(client: Client, science: str) -> None:
    answer = (await execute(client, science, FIGURES)).ok()
    assert answer.facts["stdout"] == "one\ntwo\n"
    shown = [value["files"][0] for value in answer.facts["displays"]]
    assert [item["image"] for item in shown] == [1, 2, 3]
    assert [pixels(image) for image in answer.images] == [
        (item["width"], item["height"]) for item in shown
    ]
    assert shown[2]["width"] > shown[0]["width"]
    assert base64.b64encode(b"\x89PNG").decode()[:4] not in str(answer.facts)
    assert "[image 3: image/png, " in answer.text


async def test_a_chosen_backend_and_a_figure_as_value(client: Client, science: str) -> None:
    code = (
        "import matplotlib\nmatplotlib.use('Agg')\nimport matplotlib.pyplot as plt\n"
        "fig, ax = plt.subplots()\nax.plot([1, 2])\nfig.savefig('plot.png')\nfig"
    )
    answer = (await execute(client, science, code)).ok()
    assert answer.facts["displays"] == []  # shown once, as the value
    assert answer.value["files"][0]["image"] == 1
    assert len(answer.images) == 2  # the value, and the file beside it
    assert (answer.images[1].meta or {})["codecell/path"] == "plot.png"


async def test_frames_as_text_and_html(client: Client, science: str) -> None:
    code = "import pandas as pd\npd.DataFrame({'a': [1, 2]})"
    answer = (await execute(client, science, code)).ok()
    assert answer.value["text"] == "   a\n0  1\n1  2"
    assert "<table" in answer.value["mime"]["text/html"]
    code = "import pandas as pd, numpy as np\npd.DataFrame(np.zeros((100_000, 50)))"
    answer = (await execute(client, science, code)).ok()
    assert "[100000 rows x 50 columns]" in answer.value["text"]
    assert len(answer.value["mime"]["text/html"]) < 200_000


async def test_figures_and_frames_of_a_sessions_steps(client: Client, science: str) -> None:
    session = {"session_id": "figures"}

    async def step(code: str) -> Answer:
        return await execute(client, science, code, **session)

    answer = (await step(FIGURES)).ok()
    assert answer.facts["session"]["kept"] == ["files", "variables"]
    assert answer.facts["stdout"] == "one\ntwo\n"
    shown = [value["files"][0] for value in answer.facts["displays"]]
    assert [item["image"] for item in shown] == [1, 2, 3]
    assert [pixels(image)[0] > 400 for image in answer.images] == [False, False, True]
    assert (await step("plt.get_fignums()")).value["json"] == []  # each is shown in its own step
    again = (await step("fig")).ok()
    assert (again.facts["displays"], again.value["files"][0]["image"]) == ([], 1)
    assert pixels(again.images[0]) == pixels(answer.images[2])
    failed = await step("plt.figure(figsize=(2, 1)); plt.plot([1])\n1 / 0")
    assert (failed.facts["status"], len(failed.images)) == ("execution_error", 1)

    await step("import pandas as pd\nframe = pd.DataFrame({'a': [1, 2], 'b': ['x', '<y>']})")
    answer = (await step("frame[frame.a > 1]")).ok()
    assert answer.value["text"] == "   a    b\n1  2  <y>"
    assert "<td>&lt;y&gt;</td>" in answer.value["mime"]["text/html"]
    assert answer.images == []
    await client.call_tool("close_session", session)


async def test_the_rest_of_the_stack(client: Client, science: str) -> None:
    code = (
        "import sympy, PIL.Image\nx = sympy.Symbol('x')\n"
        "display(sympy.integrate(sympy.sin(x), x), PIL.Image.new('RGB', (40, 30), 'red'))\n"
        "import openpyxl, scipy.optimize, sklearn.linear_model, numpy as np\n"
        "model = sklearn.linear_model.LinearRegression().fit([[0], [1], [2]], [1, 3, 5])\n"
        "round(float(model.coef_[0] + scipy.optimize.brentq(np.cos, 0, 3)), 4)"
    )
    answer = (await execute(client, science, code, timeout=120)).ok()
    assert answer.value["json"] == 3.5708
    integral, image = answer.facts["displays"]
    assert "\\cos" in integral["mime"]["text/latex"]
    assert pixels(answer.images[image["files"][0]["image"] - 1]) == (40, 30)


async def test_pictures_past_the_room_are_read_as_resources(client: Client, science: str) -> None:
    code = (
        "import numpy as np, PIL.Image\nnoise = np.random.default_rng(1)\n"
        "for _ in range(4):\n"
        "    pixels = noise.integers(0, 255, (200, 200, 3), dtype='uint8')\n"
        "    display(PIL.Image.fromarray(pixels))"
    )
    answer = (await execute(client, science, code)).ok()
    items = [value["files"][0] for value in answer.facts["displays"]]
    assert [item["image"] for item in items] == [1, 2, None, None]
    uri = items[2]["uri"]
    assert uri == f"codecell://runs/{answer.facts['run_id']}/values/display-3.png"
    assert uri in answer.text


# streams


async def test_a_stream_that_is_too_long_keeps_beginning_and_end(client: Client) -> None:
    code = "for i in range(100_000): print(f'{i:07}')"
    answer = (await python(client, code, max_output_tokens=100)).ok()
    whole = b"".join(b"%07d\n" % i for i in range(100_000))
    facts = answer.facts
    assert facts["stdout_bytes"] == len(whole)
    assert facts["stdout_sha256"] == hashlib.sha256(whole).hexdigest()
    assert facts["stdout_elided_bytes"] == len(whole) - 400
    assert facts["stdout_truncated"]
    line = f"\n[... {len(whole) - 400:,} bytes elided ...]\n"
    assert facts["stdout"] == whole[:200].decode() + line + whole[-200:].decode()
    assert facts["stdout_resource"] == f"codecell://runs/{facts['run_id']}/stdout"
    assert f"{len(whole) - 400} bytes of its middle are elided" in answer.text
    assert answer.size < 20_000


@pytest.mark.requirement("out:counted")
async def test_a_flood_is_hashed_to_the_last_byte(client: Client) -> None:
    code = (
        "import sys\nfor i in range(200):\n    sys.stdout.write(f'{i:09}\\n' * 10_000)\n"
        "sys.stderr.write('the error')"
    )
    answer = await python(client, code)
    file = io.BytesIO()
    for i in range(200):
        file.write(b"%09d\n" % i * 10_000)
    facts = answer.facts
    assert (facts["stdout_bytes"], facts["stderr"]) == (20_000_000, "the error")
    assert facts["stdout_sha256"] == hashlib.sha256(file.getvalue()).hexdigest()
    assert facts["stdout"].startswith("000000000\n000000000\n")
    assert facts["stdout"].endswith("000000199\n000000199\n")
    assert facts["stderr_sha256"] == hashlib.sha256(b"the error").hexdigest()
