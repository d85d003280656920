"""The part of the language table with a compile step."""

from codecell import naming
from codecell.language import SANDBOX, TMP, Language
from codecell.model import Launch, Standby

MIB = 1024 * 1024
BINARY = (f"{SANDBOX}/{{stem}}",)
GCC_OPTIONS = ("-O2", "-Wall", "-I", SANDBOX, "-o", f"{SANDBOX}/{{stem}}", "{main}", "{others}")
# The heap may grow past the cell, so that the kernel, whose counter can't be forged, ends what
# needs more; it grows late and is given back early, so that garbage alone is no reason.
JVM_HEAP = (
    "-Xmx{heap_mib}m",
    "-XX:MinHeapFreeRatio=10",
    "-XX:MaxHeapFreeRatio=20",
    "-XX:+UseSerialGC",
    "-XX:-UsePerfData",
    "-Xshare:auto",
)
# What is larger than that heap in one piece the JVM itself refuses. A program may catch that; where
# it ends badly, the mark tells why. (A program that makes the file itself says no more of itself.)
OOM_MARK = f"{TMP}/.out-of-memory"
JVM_MEMORY = (
    *JVM_HEAP,
    f"-XX:OnOutOfMemoryError=: >{OOM_MARK}",
    "-XX:+DisplayVMOutputToStderr",  # or its remark on that would be in the program's output
)
KOTLIN_LIBRARIES = "/usr/share/java/kotlin-stdlib.jar:/usr/share/java/kotlin-later.jar"

# Calls main/1 with the arguments, main/0 or start/0, whichever there is; a failure is told.
ERLANG_START = """
M = '{entry}', Args = init:get_plain_arguments(), code:ensure_loaded(M),
Starts = [{main, 1}, {main, 0}, {start, 0}],
try
    case [{F, A} || {F, A} <- Starts, erlang:function_exported(M, F, A)] of
        [{main, 1} | _] -> M:main(Args);
        [{F, 0} | _] -> M:F();
        [] -> io:format(standard_error, "~s exports no main/1, main/0 or start/0~n", [M]), halt(1)
    end,
    halt(0)
catch
    Class:Reason:Stack ->
        io:format(standard_error, "~ts", [erl_error:format_exception(Class, Reason, Stack)]),
        halt(1)
end.
"""

# compile-go PROGRAM BINARY for a module, or for several files of one package: package by package in
# the order that `go list` finds, against the standard library compiled ahead of time. A program
# without a go.mod gets one for as long as this takes.
GO_PROJECT = r"""
cd "$(dirname "$1")"
export HOME=/tmp GOCACHE=/tmp/.go GOPROXY=off GOTOOLCHAIN=local GOFLAGS=-mod=mod CGO_ENABLED=0
[ -e go.mod ] || [ -e /sandbox/go.mod ] || {
    printf 'module main\n\ngo 1.24\n' >go.mod
    trap 'rm -f go.mod' EXIT
}
mkdir /tmp/.go
files='{{range .GoFiles}}{{$.Dir}}/{{.}} {{end}}'
go list -deps -f '{{if not .Standard}}{{.ImportPath}}|{{.Name}}|'"$files"'{{end}}' . >/tmp/.go/list
cp /opt/go/importcfg /tmp/.go/importcfg
tool=/usr/lib/go/pkg/tool/linux_$(dpkg --print-architecture)
number=0
while IFS='|' read -r path name files; do
    number=$((number + 1))
    object=/tmp/.go/$number.a
    [ "$name" != main ] || path=main
    "$tool/compile" -importcfg /tmp/.go/importcfg -p "$path" -complete -lang=go1.24 -pack \
        -o "$object" $files
    echo "packagefile $path=$object" >>/tmp/.go/importcfg
done </tmp/.go/list
"$tool/link" -importcfg /tmp/.go/importcfg -s -w -buildmode=exe -o "$2" "$object"
rm -r /tmp/.go
"""

# assemble PROGRAM BINARY: with the C library where the program calls it; a main is called as C's.
ASSEMBLE = r"""
nasm -f elf64 -o "$2.o" "$1"
libraries=
if grep -Eiqw 'main|extern' "$1"; then
    symbols=$(nm "$2.o")
    case $symbols in
    *' T _start'*) ;;
    *' T main'*)
        printf '%s\n' 'extern main, exit' 'global _start' '_start: xor ebp, ebp' 'mov rdi, [rsp]' \
            'lea rsi, [rsp + 8]' 'lea rdx, [rsi + rdi * 8 + 8]' 'call main' 'mov edi, eax' \
            'call exit wrt ..plt' >/tmp/start.asm
        nasm -f elf64 -o /tmp/start.o /tmp/start.asm
        libraries=/tmp/start.o
        symbols="$symbols U exit"
        ;;
    esac
    case $symbols in
    *' U '*)
        lib=/lib/x86_64-linux-gnu
        libraries="$libraries -z noexecstack -dynamic-linker /lib64/ld-linux-x86-64.so.2"
        libraries="$libraries $lib/libc.so.6 $lib/libm.so.6"
        ;;
    esac
fi
ld --require-defined=_start -o "$2" "$2.o" $libraries
rm -f "$2.o" /tmp/start.o /tmp/start.asm
"""

# compile-csharp BINARY SOURCES: an async Main, unknown to Mono's compiler, is called by one
# that waits for it.
CSHARP = r"""
binary=$1
shift
if grep -Eq 'async[[:space:]]+Task(<int>)?[[:space:]]+Main[[:space:]]*\(' "$@"; then
    cat >/tmp/entry.cs <<'END'
using System.Reflection;
using System.Threading.Tasks;
static class AsyncEntry {
    static int Main(string[] args) {
        var all = BindingFlags.Static | BindingFlags.Public | BindingFlags.NonPublic;
        foreach (var type in typeof(AsyncEntry).Assembly.GetTypes()) {
            var main = type.GetMethod("Main", all);
            if (main == null || !typeof(Task).IsAssignableFrom(main.ReturnType)) continue;
            var given = main.GetParameters().Length == 0 ? null : new object[] { args };
            var task = (Task)main.Invoke(null, given);
            task.GetAwaiter().GetResult();
            return task is Task<int> status ? status.Result : 0;
        }
        return 1;
    }
}
END
    set -- "$@" -nowarn:28 /tmp/entry.cs
fi
exec /usr/bin/mcs -nologo -langversion:latest -r:System.Numerics -r:System.Xml.Linq \
    "-out:$binary" "$@"
"""

COMPILED = (
    Language(
        id="typescript",
        title="TypeScript",
        aliases=("ts", "tsc", "ts-node", "tsx", "deno"),
        extensions=(".ts", ".mts", ".cts"),
        file_name="main.ts",
        compile=(
            "/usr/bin/tsc", "--strict", "--target", "es2022", "--module", "commonjs",
            "--esModuleInterop", "--moduleDetection", "force", "--types", "node",
            "--typeRoots", "/usr/share/nodejs/@types", "{main}",
        ),
        compile_launch=Launch.STANDBY,
        standby=Standby(
            command=("/usr/bin/node", f"{TMP}/.standby.js"),
            source="standby_tsc.js",
            file=f"{TMP}/.standby.js",
        ),
        # By default node aborts at half of the cell; at its full size the kernel judges.
        run=("/usr/bin/node", "--max-old-space-size={memory_mib}", f"{SANDBOX}/{{stem}}.js"),
        version=("/usr/bin/tsc", "--version"),
        preinstalled=("Node.js built-in modules", "@types/node"),
        notes="Checked by the TypeScript compiler (strict), run by Node.js as a CommonJS module; "
        "with top-level await as an ES module, which imports './name.js' for name.ts.",
        memory_bytes=512 * MIB,
        cpus=1.0,
    ),
    Language(
        id="c",
        title="C",
        aliases=("gcc", "c17", "c11", "c99"),
        extensions=(".c",),
        file_name="main.c",
        compile=("/usr/bin/gcc", "-std=gnu17", *GCC_OPTIONS, "-lm", "-pthread"),
        run=BINARY,
        version=("/usr/bin/gcc", "--version"),
        preinstalled=("C library", "math", "threads"),
        cpus=1.0,
    ),
    Language(
        id="cpp",
        title="C++",
        aliases=(
            "c++", "cplusplus", "cxx", "cc", "g++", "gpp", "c++11", "c++14", "c++17", "c++20",
            "cpp17", "cpp20",
        ),
        extensions=(".cpp", ".cc", ".cxx", ".c++", ".C"),
        file_name="main.cpp",
        compile=("/usr/bin/g++", "-std=gnu++20", *GCC_OPTIONS, "-pthread"),
        # Headers compiled ahead of time serve a program whose first line includes one of them.
        compile_env=(("CPLUS_INCLUDE_PATH", "/opt/headers"),),
        run=BINARY,
        version=("/usr/bin/g++", "--version"),
        preinstalled=("C++20 standard library", "threads"),
        memory_bytes=512 * MIB,
        cpus=1.0,
    ),
    Language(
        id="go",
        title="Go",
        aliases=("golang",),
        extensions=(".go",),
        file_name="main.go",
        compile=("/usr/local/bin/compile-go", "{main}", f"{SANDBOX}/{{stem}}"),
        compile_project=(
            "/bin/sh", "-euc", GO_PROJECT, "compile-go", "{main}", f"{SANDBOX}/{{stem}}",
        ),
        run=BINARY,
        # Near the cell's limit it collects garbage oftener, rather than let its heap double.
        env=(("GOMEMLIMIT", "{soft_mib}MiB"),),
        oom_mark=OOM_MARK,
        version=("/usr/bin/go", "version"),
        preinstalled=("standard library, compiled ahead of time",),
        memory_bytes=512 * MIB,
        cpus=1.0,
        pids=128,
    ),
    Language(
        id="rust",
        title="Rust",
        aliases=("rs", "rustc"),
        extensions=(".rs",),
        file_name="main.rs",
        compile=(
            "/usr/bin/rustc", "--edition=2021", "-Copt-level=2", "-Cdebuginfo=0",
            "-o", f"{SANDBOX}/{{stem}}", "{main}",
        ),
        run=BINARY,
        version=("/usr/bin/rustc", "--version"),
        preinstalled=("standard library",),
        memory_bytes=512 * MIB,
        cpus=1.0,
        pids=128,
    ),
    Language(
        id="java",
        title="Java",
        aliases=("java21", "openjdk", "jdk"),
        extensions=(".java",),
        file_name="Main.java",
        naming=naming.java,
        compile=(
            "/usr/bin/javac", "-J-XX:SharedArchiveFile=/opt/javac.jsa", "-J-XX:+UseSerialGC",
            "-J-XX:TieredStopAtLevel=1", "-J-XX:-UsePerfData", "-proc:none", "-Xlint:all",
            "-d", SANDBOX, "{main}", "{others}",
        ),
        run=("/usr/bin/java", *JVM_MEMORY, "-cp", SANDBOX, "{entry}"),
        oom_mark=OOM_MARK,
        version=("/usr/bin/java", "-version"),
        preinstalled=("Java SE class library",),
        notes="The file is named after the program's public class, in any package.",
        memory_bytes=512 * MIB,
        cpus=2.0,
        pids=128,
    ),
    Language(
        id="kotlin",
        title="Kotlin",
        aliases=("kt", "kts"),
        extensions=(".kt",),
        file_name="main.kt",
        naming=naming.kotlin,
        compile=("/usr/local/bin/compile-kotlin", "-d", SANDBOX, "{main}", "{others}"),
        run=("/usr/bin/java", *JVM_MEMORY, "-cp", f"{SANDBOX}:{KOTLIN_LIBRARIES}", "{entry}"),
        oom_mark=OOM_MARK,
        version=("/usr/local/bin/compile-kotlin", "-version"),
        preinstalled=("Kotlin and Java class libraries",),
        notes="Kotlin 1.3 as Debian has it, with later versions' uppercase(), sumOf, readln "
        "and maxOrNull; no trailing commas, no fun interface.",
        memory_bytes=1024 * MIB,
        cpus=2.0,
        pids=128,
    ),
    Language(
        id="csharp",
        title="C#",
        aliases=("cs", "c#", "mono", "dotnet"),
        extensions=(".cs",),
        file_name="main.cs",
        compile=(
            "/bin/sh", "-euc", CSHARP, "compile-csharp", f"{SANDBOX}/{{stem}}.exe",
            "{main}", "{others}",
        ),
        run=("/usr/bin/mono", f"{SANDBOX}/{{stem}}.exe"),
        version=("/usr/bin/mono", "--version"),
        preinstalled=("mscorlib", "System", "System.Core", "System.Numerics", "System.Xml"),
        notes="Mono: C# 7 and the .NET Framework 4.x class library, not .NET 8: no top-level "
        "statements, records or switch expressions.",
        memory_bytes=512 * MIB,
        cpus=1.0,
    ),
    Language(
        id="haskell",
        title="Haskell",
        aliases=("hs", "ghc", "runghc", "runhaskell"),
        extensions=(".hs",),
        file_name="main.hs",
        naming=naming.haskell,
        compile=(
            "/usr/bin/ghc", "-v0", "-Wall", "-O0", f"-i{SANDBOX}", "-main-is", "{entry}", "-o",
            f"{SANDBOX}/{{stem}}", "{main}",
        ),
        run=BINARY,
        version=("/usr/bin/ghc", "--version"),
        preinstalled=("base", "containers", "bytestring", "text", "mtl"),
        memory_bytes=1024 * MIB,
        cpus=1.0,
        pids=128,
    ),
    Language(
        id="ocaml",
        title="OCaml",
        aliases=("ml", "ocamlopt"),
        extensions=(".ml",),
        file_name="main.ml",
        compile=(
            "/usr/bin/ocamlopt", "-I", "+unix", "-I", "+str", "-I", "+threads",
            "unix.cmxa", "str.cmxa", "threads.cmxa",
            "-I", SANDBOX, "-o", f"{SANDBOX}/{{stem}}", "{others}", "{main}",
        ),
        sources=(".mli", ".ml"),
        notes="Further modules are compiled before the main one, in the order they are sent in.",
        run=BINARY,
        version=("/usr/bin/ocamlopt", "-version"),
        preinstalled=("standard library", "unix", "str", "threads"),
        cpus=1.0,
    ),
    Language(
        id="fortran",
        title="Fortran",
        aliases=("f90", "f95", "f03", "f08", "fortran90", "fortran95", "gfortran"),
        extensions=(".f90", ".f95", ".f03", ".f08"),
        file_name="main.f90",
        compile=(
            "/usr/bin/gfortran", "-O2", "-Wall", "-J", TMP, "-o", f"{SANDBOX}/{{stem}}",
            "{others}", "{main}",
        ),
        notes="Further files are compiled before the main one, in the order they are sent in.",
        run=BINARY,
        version=("/usr/bin/gfortran", "--version"),
        cpus=1.0,
    ),
    Language(
        id="pascal",
        title="Pascal",
        aliases=("pas", "fpc", "freepascal", "delphi", "objectpascal"),
        extensions=(".pas", ".pp", ".dpr"),
        file_name="main.pas",
        compile=("/usr/bin/fpc", "-l-", "-v0ewb", "-O2", f"-o{SANDBOX}/{{stem}}", "{main}"),
        run=BINARY,
        version=("/usr/bin/fpc", "-iV"),
        preinstalled=("run-time library",),
        cpus=1.0,
    ),
    Language(
        id="assembly",
        title="Assembly (NASM, x86-64)",
        aliases=("asm", "nasm", "x86", "x86-64"),
        extensions=(".asm", ".nasm", ".s"),
        file_name="main.asm",
        compile=(
            "/bin/sh", "-euc", ASSEMBLE, "assemble", "{main}", f"{SANDBOX}/{{stem}}",
        ),
        run=BINARY,
        version=("/usr/bin/nasm", "--version"),
        notes="NASM syntax, 64-bit Linux system calls; the program begins at _start, or is a main "
        "that calls the C library.",
        cpus=1.0,
    ),
    Language(
        id="erlang",
        title="Erlang",
        aliases=("erl", "escript"),
        extensions=(".erl",),
        file_name="main.erl",
        naming=naming.erlang,
        compile=("/usr/bin/erlc", "-o", SANDBOX, "-I", SANDBOX, "{others}", "{main}"),
        run=(
            "/usr/bin/erl", "-noshell", "-pa", SANDBOX, "-eval", ERLANG_START, "-extra",
        ),
        env=(("ERL_FLAGS", "+S 1:1 +SDio 1 +A 1 +fnu"),),
        compile_env=(("ERL_FLAGS", "+S 1:1 +SDio 1 +A 1"),),
        version=("/bin/sh", "-c", "cat /usr/lib/erlang/releases/*/OTP_VERSION"),
        preinstalled=("kernel", "stdlib"),
        notes="A module that exports main/1 (which gets the arguments), main/0 or start/0.",
        cpus=1.0,
        pids=128,
    ),
)  # fmt: skip
