"""Bearer tokens: hashed, private, one caller each; and the commands that make them."""

import json
import stat
from pathlib import Path

import anyio
import pytest
from click.testing import CliRunner
from starlette.datastructures import Headers

from codecell.callers import AGENT_SCOPES, ALL_SCOPES, Caller, Scope
from codecell.cli import Invocation
from codecell.cli.token_commands import token as command
from codecell.errors import ConfigurationError
from codecell.http.bearer import Bearer
from codecell.http.gate import Refusal
from codecell.http.tokens import TokenFile

pytestmark = pytest.mark.anyio


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "tokens.json"


def test_a_token_names_its_caller(path: Path) -> None:
    tokens = TokenFile(path)
    ann = tokens.add("ann", AGENT_SCOPES)
    oli = tokens.add("oli", {Scope.OPERATE})
    assert tokens.caller(ann) == Caller("ann", AGENT_SCOPES)
    assert tokens.caller(oli) == Caller("oli", frozenset({Scope.OPERATE}))
    for wrong in (ann[:-1], ann + "x", ann.upper(), "", "codecell_", "\ud800", ann + "\x00"):
        assert tokens.caller(wrong) is None


@pytest.mark.requirement("http:tokens")
def test_the_file_holds_hashes_and_is_private(path: Path) -> None:
    secret = TokenFile(path).add("ann", AGENT_SCOPES)
    text = path.read_text()
    assert len(secret) >= len("codecell_") + 43  # 256 bits
    assert secret.removeprefix("codecell_") not in text
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]
    path.chmod(0o640)
    with pytest.raises(ConfigurationError, match="open to other users"):
        TokenFile(path).tokens()


def test_changes_reach_a_running_server(path: Path) -> None:
    TokenFile(path).add("first", AGENT_SCOPES)
    served = TokenFile(path)
    assert len(served.tokens()) == 1
    secret = TokenFile(path).add("ann", AGENT_SCOPES)
    assert served.caller(secret) is not None
    TokenFile(path).remove("ann")
    assert served.caller(secret) is None


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"version": 2, "tokens": []}', '{"version": 1, "tokens": [{"name": "x"}]}']
    + [
        json.dumps({"version": 1, "tokens": [{**entry}]})
        for entry in ({"name": "x", "sha256": "", "scopes": [], "created": ""},)
    ],
)
def test_a_file_that_is_none_is_refused(path: Path, text: str) -> None:
    path.parent.mkdir()
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(ConfigurationError, match="not a file of tokens"):
        TokenFile(path).tokens()


@pytest.mark.parametrize("name", ["", "local", "a b", "oauth:x", "-x", "ü", "x" * 65, "x\n"])
def test_names_that_are_none(path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match="can't be a caller's name"):
        TokenFile(path).add(name, AGENT_SCOPES)
    assert not path.exists()


def test_names_are_unique_and_known(path: Path) -> None:
    tokens = TokenFile(path)
    tokens.add("ann", AGENT_SCOPES)
    with pytest.raises(ConfigurationError, match="already"):
        tokens.add("ann", AGENT_SCOPES)
    with pytest.raises(ConfigurationError, match="there are: ann"):
        tokens.remove("bob")
    with pytest.raises(ConfigurationError, match=r"http.tokens: can't read"):
        TokenFile(path.with_name("other")).tokens()


def test_the_commands(path: Path) -> None:
    def run(*arguments: str) -> tuple[int, str]:
        done = CliRunner().invoke(
            command, [*arguments, "--file", str(path)], obj=Invocation(None), catch_exceptions=True
        )
        return done.exit_code, done.stdout

    status, secret = run("add", "ann")
    assert status == 0
    assert TokenFile(path).caller(secret.strip()) == Caller("ann", AGENT_SCOPES)
    assert run("add", "oli", "--scopes", "operate, read")[0] == 0
    listed = run("list")[1].splitlines()
    assert [line.split()[:2] for line in listed] == [
        ["ann", "execute,read,sessions"],
        ["oli", "operate,read"],
    ]
    assert run("add", "eve", "--scopes", "root")[0] == 2
    assert run("remove", "ann") == (0, "")
    assert TokenFile(path).caller(secret.strip()) is None


def headers(*values: str) -> Headers:
    return Headers(raw=[(b"authorization", value.encode("latin-1")) for value in values])


async def test_how_a_token_is_shown(path: Path) -> None:
    secret = TokenFile(path).add("ann", ALL_SCOPES)
    bearer = Bearer(TokenFile(path))
    for shown in (f"Bearer {secret}", f"bearer  {secret} "):
        assert await bearer(headers(shown)) == Caller("ann", ALL_SCOPES)
    refused = {
        "none": headers(),
        "two": headers(f"Bearer {secret}", f"Bearer {secret}"),
        "basic": headers(f"Basic {secret}"),
        "bare": headers(secret),
        "empty": headers("Bearer "),
        "wrong": headers(f"Bearer {secret[:-1]}"),
        "not ours": headers("Bearer eyJhbGciOiJub25lIn0.e30."),
    }
    for name, given in refused.items():
        answer = await bearer(given)
        assert isinstance(answer, Refusal), name
        assert answer.status == 401, name
        assert answer.headers["www-authenticate"].startswith("Bearer"), name
        assert secret[10:-1] not in answer.text, name


async def test_a_file_that_goes_wrong_lets_nobody_in(path: Path) -> None:
    secret = TokenFile(path).add("ann", ALL_SCOPES)
    bearer = Bearer(TokenFile(path))
    await anyio.Path(path).chmod(0o644)
    answer = await bearer(headers(f"Bearer {secret}"))
    assert isinstance(answer, Refusal)
    assert answer.status == 503
