"""What programs call themselves."""

import pytest

from codecell.naming import Name, erlang, haskell, java, kotlin

MAIN = "public static void main(String[] args) {}"


@pytest.mark.parametrize(
    ("code", "name"),
    [
        (f"public class Hello {{ {MAIN} }}", Name("Hello", "Hello")),
        (f"package a.b;\npublic final class Hello {{ {MAIN} }}", Name("Hello", "a.b.Hello")),
        (f"class Helper {{ }}\npublic class Hello {{ {MAIN} }}", Name("Hello", "Hello")),
        (f"class Helper {{ }}\nclass Start {{ {MAIN} }}", Name("Start", "Start")),
        (f"public class Api {{ }}\nclass Start {{ {MAIN} }}", Name("Api", "Start")),
        (f"public record Point(int x) {{ {MAIN} }}", Name("Point", "Point")),
        ("public interface Run { static void main(String[] a) {} }", Name("Run", "Run")),
        (f"public sealed abstract class A<T> permits B {{ {MAIN} }}", Name("A", "A")),
        (f"class Outer {{ public static class Inner {{ {MAIN} }} }}", Name("Outer", "Outer")),
        (
            f"// public class No {{\n/* public class No */ class Yes {{ {MAIN} }}",
            Name("Yes", "Yes"),
        ),
        (f'class Yes {{ String s = "}} public class No {{"; {MAIN} }}', Name("Yes", "Yes")),
        (f"class Yes {{ char c = '{{'; {MAIN} }}\nclass Z {{ }}", Name("Yes", "Yes")),
        (f'class Yes {{ String s = """\n }} public class No {{ """; {MAIN} }}', Name("Yes", "Yes")),
        (
            f"import java.util.*;\n@Deprecated\npublic class Größe {{ {MAIN} }}",
            Name("Größe", "Größe"),
        ),
        ("class Only { }", Name("Only", "Only")),
        ("int x = 1;", None),
        ("", None),
    ],
)
def test_java(code: str, name: Name | None) -> None:
    assert java(code) == name


def test_java_is_quick_on_hostile_text() -> None:
    for hostile in ("{" * 200_000, '"' * 200_001, "/*" * 100_000, "public " * 100_000):
        java(hostile)


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("-module(hello).\n", Name("hello", "hello")),
        ("%% a comment\n  -module( 'hello' ) .\n", Name("hello", "hello")),
        ("main() -> ok.", None),
        ("-module('../etc').", None),
    ],
)
def test_erlang(code: str, name: Name | None) -> None:
    assert erlang(code) == name


MAIN_OF = "@JvmStatic fun main(args: Array<String>) {}"


@pytest.mark.parametrize(
    ("code", "entry"),
    [
        ("fun main() {}", "MainKt"),
        ("package a.b\n\nfun main() {}", "a.b.MainKt"),
        ("data class User(val name: String)\nfun main() {}", "MainKt"),
        ("class A { fun main() {} }\nfun main() {}", "MainKt"),
        (f"object App {{ {MAIN_OF} }}", "App"),
        (f"package a\nclass B {{ companion object {{ {MAIN_OF} }} }}", "a.B"),
        (f'// fun main() {{}}\nobject App {{ val s = "}} fun main()"; {MAIN_OF} }}', "App"),
        ('@file:JvmName("Start")\nfun main() {}', "Start"),
        ("val x = 1", "MainKt"),
    ],
)
def test_kotlin(code: str, entry: str) -> None:
    assert kotlin(code) == Name("main", entry)


@pytest.mark.parametrize(
    ("code", "entry"),
    [
        ("main = print 1", "Main"),
        ("module Main where", "Main"),
        ("-- module No\n{-# LANGUAGE CPP #-}\nmodule Data.Fib (main) where", "Data.Fib"),
    ],
)
def test_haskell(code: str, entry: str) -> None:
    assert haskell(code) == Name("main", entry)
