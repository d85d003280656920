"""When a step of the repl is whole."""

import pytest

from codecell.cli.repl_commands import complete


@pytest.mark.parametrize(
    ("language", "text", "whole"),
    [
        ("python", "x = 1", True),
        ("python", "x = (", False),
        ("python", "x = (\n1)", True),
        ("python", "def f():", False),
        ("python", "def f():\n    return 1", False),
        ("python", "def f():\n    return 1\n", True),
        ("python", "x = = 1", True),
        ("python", "await f()", True),
        ("python-science", "def f():", False),
        ("python", "'''open", False),
        ("javascript", "f({", False),
        ("javascript", "f({\na: ')'})", True),
        ("bash", "echo 'a", False),
        ("javascript", "a // it's", True),
        ("javascript", "f( // it's", False),
        ("bash", "for i in 1 2; do", False),
        ("bash", "for i in 1 2\ndo\necho $i; done | cat", True),
        ("bash", "if true", False),
        ("bash", "if true; then while :; do break; done", False),
        ("bash", "if true; then while :; do break; done; fi", True),
        ("bash", "echo if for case", True),
        ("bash", "echo done # it's if", True),
        ("bash", "case $x in\na) echo a;;", False),
        ("bash", "case $x in\na) echo a;;\nesac", True),
        ("bash", "f()", False),
        ("bash", "f() {\n  echo", False),
        ("bash", "f() {\n  echo\n}", True),
        ("bash", "cat x |", False),
        ("bash", "cat <<EOF\nit's", False),
        ("bash", "cat <<'EOF' >x\nit's (if\nEOF", True),
        ("bash", "cat <<<word", True),
        ("bash", "echo '\\'", True),
        ("bash", "echo a \\", False),
        ("bash", "echo a \\\n b", True),
    ],
)
def test_a_step_is_whole_when_its_language_says_so(language: str, text: str, whole: bool) -> None:
    assert complete(language, text, interpreter=True) is whole


def test_a_whole_program_ends_at_an_empty_line() -> None:
    assert not complete("c", "int main() {}", interpreter=False)
    assert complete("c", "int main() {}\n", interpreter=False)
