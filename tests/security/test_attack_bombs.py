# ruff: noqa: E501  programs of other languages, as they are
"""Bombs by language, at run time and at compile time; each ends as stated and harms no other run.

What decides is the cell: none of these languages is trusted to have limits of its own.
"""

import gc
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import anyio
import docker
import pytest

from codecell.app import open_runner
from codecell.model import Outcome, Request, Status
from codecell.settings import load

pytestmark = [pytest.mark.anyio, pytest.mark.docker]
Run = Callable[..., Awaitable[Outcome]]
COMPILE_S = 6.0
OK, ERROR, COMPILE = Status.SUCCESS, Status.EXECUTION_ERROR, Status.COMPILE_ERROR
TIMEOUT, MEMORY, FLOOD = Status.TIMEOUT, Status.OUT_OF_MEMORY, Status.OUTPUT_LIMIT


def held() -> tuple[int, int]:
    """Count this process's descriptors and threads."""
    gc.collect()
    return sum(1 for _ in Path("/proc/self/fd").iterdir()), threading.active_count()


@pytest.fixture(scope="module")
async def run(engine: docker.APIClient) -> AsyncIterator[Run]:
    """One server for all bombs; the compilers of one caller get a few seconds: they end soon."""
    hasty = {"compile_timeout_s": COMPILE_S, "max_compile_timeout_s": COMPILE_S}
    flags = {
        "pool": {"languages": ["python"], "min": 1, "max": 2},
        "policies": {"hasty": {"limits": hasty}},
        "callers": {"hasty": {"policy": "hasty"}},
    }
    before = len(engine.containers(all=True))
    descriptors, threads = held()
    async with open_runner(load(flags=flags)) as opened:

        async def go(language: str, code: str, **fields: object) -> Outcome:
            request = Request(language=language, code=code, **fields)  # type: ignore[arg-type]
            with anyio.fail_after(120):
                outcome = await opened.execute(request)
            after = await opened.execute(Request(language="python", code="print('fine')"))
            assert (after.status, after.stdout.text) == (Status.SUCCESS, "fine\n")
            return outcome

        yield go
    assert len(engine.containers(all=True)) <= before + 16  # others' cells, beside none of ours
    now = held()  # the worker threads stay for a while; there are 16 and the loop's own at most
    assert now[0] <= descriptors + 4
    assert now[1] <= threads + 20


# --- at run time

RUNTIME: dict[str, tuple[str, str, set[Status]]] = {
    # memory
    "python memory": ("python", "a = []\nwhile 1: a.append(bytearray(1 << 22))", {MEMORY}),
    "python one block": ("python", "bytearray(1 << 40)", {ERROR}),
    "python string": ("python", "x = 'ab' * 10**9; print(len(x))", {MEMORY}),
    "python recursion": ("python", "def f(): return f()\nf()", {ERROR}),
    "python deep repr": ("python", "a = []\nfor _ in range(10**6): a = [a]\nrepr(a)", {ERROR}),
    "python spares itself": (
        "python",
        (
            "open('/proc/self/oom_score_adj', 'w').write('0')\na = []\n"
            "while 1: a.append(bytearray(1 << 22))"
        ),
        {MEMORY, ERROR},
    ),
    "javascript memory": (
        "javascript",
        "const a=[];for(;;)a.push(Buffer.alloc(1<<22,1))",
        {MEMORY},
    ),
    "javascript string": ("javascript", "let s='x';for(;;)s+=s", {ERROR}),
    "javascript recursion": ("javascript", "(function f(){f()})()", {ERROR}),
    "javascript array": ("javascript", "new Array(2**32)", {ERROR}),
    "bash memory": ("bash", "a=x; while :; do a=$a$a; done", {MEMORY}),
    "bash braces": ("bash", "echo {1..100000000} | wc -c", {MEMORY, TIMEOUT, ERROR, OK}),
    "perl memory": ("perl", "my @a; push @a, 'x' x (1<<22) while 1", {MEMORY}),
    "lua memory": (
        "lua",
        "local t={} while true do t[#t+1]=string.rep('x',1<<22) end",
        {MEMORY, ERROR},
    ),
    "c memory": (
        "c",
        (
            "#include <stdlib.h>\n#include <string.h>\nint main(void)"
            "{for(;;){char*p=malloc(1<<22);if(p)memset(p,1,1<<22);}}"
        ),
        {MEMORY},
    ),
    "c stack": (
        "c",
        (
            "int f(int n){volatile char b[4096];b[0]=n;return f(n+1)+b[0];}\n"
            "int main(void){return f(0);}"
        ),
        {ERROR, MEMORY},
    ),
    # processes and threads
    "python threads": (
        "python",
        (
            "import threading, time\nwhile 1:\n try: threading.Thread(target=time.sleep, args=(9,)).start()"
            "\n except RuntimeError: pass"
        ),
        {TIMEOUT},
    ),
    "python respawn": (
        "python",
        (
            "import os\nwhile os.fork() >= 0:\n"
            " if os.getppid() == 1: os.setsid()\n if os.fork(): os._exit(0)"
        ),
        {OK, ERROR, TIMEOUT},
    ),
    "bash fork bomb": ("bash", "b(){ b|b& };b; wait; while :; do :; done", {TIMEOUT, ERROR, OK}),
    "perl fork bomb": ("perl", "fork while 1", {TIMEOUT}),
    "javascript processes": (
        "javascript",
        (
            "const {spawn}=require('child_process');setInterval(()=>spawn('sleep',['9'])"
            ".on('error',()=>{}),1)"
        ),
        {TIMEOUT, ERROR, MEMORY},
    ),
    "c vfork": (
        "c",
        "#include <unistd.h>\nint main(void){for(;;){if(vfork()==0){_exit(0);}}}",
        {TIMEOUT},
    ),
    # time
    "python regex": ("python", "import re; re.match(r'(a+)+$', 'a' * 40 + 'b')", {TIMEOUT}),
    "python integer": ("python", "print(len(str(9**9**8)))", {TIMEOUT, ERROR, MEMORY}),
    "python huge power": ("python", "9 ** 9 ** 9", {TIMEOUT, MEMORY}),
    "python int of digits": ("python", "int('9' * 100_000)", {ERROR}),
    "python sum": ("python", "sum(range(10**12))", {TIMEOUT}),
    "javascript regex": ("javascript", "/(a+)+$/.test('a'.repeat(40)+'b')", {TIMEOUT}),
    "javascript bigint": (
        "javascript",
        "console.log((9n**(9n**8n)).toString().length)",
        {TIMEOUT, ERROR, MEMORY},
    ),
    "javascript promises": ("javascript", "(function f(){Promise.resolve().then(f)})()", {TIMEOUT}),
    "javascript timers": ("javascript", "(function f(){setImmediate(f)})()", {TIMEOUT}),
    "perl regex": ("perl", "('a' x 40 . 'b') =~ /^(a|aa)+(?{})$/ while 1", {TIMEOUT}),
    "bash loop": ("bash", "trap '' TERM INT HUP; while :; do :; done", {TIMEOUT}),
    "awk loop": ("awk", "BEGIN { while (1) x++ }", {TIMEOUT}),
    "sql recursion": (
        "sql",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n) SELECT max(i) FROM n;",
        {TIMEOUT},
    ),
    # formats that unfold
    "python json": ("python", "import json; json.loads('[' * 10**6)", {ERROR}),
    "python zlib": (
        "python",
        (
            "import zlib\nc = zlib.compressobj(9)\nbomb = b''.join(c.compress(bytes(1 << 24)) "
            "for _ in range(64)) + c.flush()\nprint(len(zlib.decompress(bomb)))"
        ),
        {MEMORY, TIMEOUT},
    ),
    "python xml": (
        "python",
        (
            "import xml.dom.minidom as m\nd = '<!DOCTYPE x [<!ENTITY a \"' + 'x' * 99 + '\">'\n"
            "for a, b in zip('abcdefgh', 'bcdefghi'): d += f'<!ENTITY {b} \"' + f'&{a};' * 50 + '\">'\n"
            "m.parseString(d + ']><x>&i;</x>')"
        ),
        {ERROR, MEMORY, TIMEOUT},
    ),
    "python pickle": (
        "python",
        "import pickle\npickle.loads(b'\\x80\\x04X\\xff\\xff\\xff\\x7f')",
        {ERROR, MEMORY},
    ),
    "python format": ("python", "'{:>999999999999}'.format(1)", {ERROR}),
    "javascript json": ("javascript", "JSON.parse('['.repeat(1e7))", {ERROR, MEMORY}),
    # output, files and descriptors
    "python flood": ("python", "import os\nwhile 1: os.write(1, b'x' * 65536)", {FLOOD, TIMEOUT}),
    "python stderr flood": (
        "python",
        "import os\nwhile 1: os.write(2, b'\\n' * 65536)",
        {FLOOD, TIMEOUT},
    ),
    "bash flood": ("bash", "yes", {FLOOD, TIMEOUT}),
    "javascript flood": (
        "javascript",
        "for(;;)require('fs').writeSync(1,'x'.repeat(60000))",
        {FLOOD, TIMEOUT, ERROR},
    ),
    "bash disk": ("bash", "cat /dev/zero > f", {ERROR}),
    "bash sparse": ("bash", "truncate -s 1T f", {ERROR}),
    "bash fallocate": ("bash", "fallocate -l 10G f", {ERROR}),
    "bash tree": (
        "bash",
        "while mkdir d 2>/dev/null && cd d; do :; done; exit 3",
        {ERROR, TIMEOUT},
    ),
    "bash inodes": (
        "bash",
        "i=0; while : > f$i; do i=$((i+1)); done 2>/dev/null; exit 3",
        {ERROR, TIMEOUT},
    ),
    "python descriptors": (
        "python",
        "import os\nfds = []\nwhile 1: fds.append(os.dup(1))",
        {ERROR},
    ),
    "python pipes": ("python", "import os\np = []\nwhile 1: p.append(os.pipe())", {ERROR}),
    "python semaphores": (
        "python",
        (
            "import ctypes\nc = ctypes.CDLL(None)\nn = 0\nwhile c.semget(0, 100, 0o666) >= 0: n += 1\n"
            "exit(3)"
        ),
        {ERROR, TIMEOUT, MEMORY},
    ),
    "python shared memory": (
        "python",
        (
            "import ctypes\nc = ctypes.CDLL(None)\nn = 0\n"
            "while c.shmget(0, 1 << 20, 0o666) >= 0 and n < 10**5: n += 1\nexit(3)"
        ),
        {ERROR, TIMEOUT, MEMORY},
    ),
    "fifo that nobody reads": ("bash", "mkfifo f; echo x > f", {TIMEOUT}),
    "read what never comes": ("bash", "sleep 99 | cat", {TIMEOUT}),
    "double fork that holds stdout": ("bash", "(setsid sleep 99 &) & echo on", {OK}),
    "stops itself": ("bash", "kill -STOP $$", {TIMEOUT}),
    "kills all": ("bash", "kill -9 -1; echo on; kill -9 0", {OK, ERROR}),
    # the same by other languages, whose own schedulers, heaps and libraries stand between
    "go goroutines": (
        "go",
        "package main\nfunc main(){for{go func(){select{}}()}}",
        {MEMORY, TIMEOUT},
    ),
    "go processes": (
        "go",
        'package main\nimport "os/exec"\nfunc main(){for{exec.Command("sleep","9").Start()}}',
        {TIMEOUT, ERROR, MEMORY},
    ),
    "go recursion": (
        "go",
        "package main\nfunc f(n int)int{return f(n+1)+1}\nfunc main(){f(0)}",
        {ERROR, MEMORY},
    ),
    "rust threads": (
        "rust",
        "fn main(){loop{let _=std::thread::Builder::new().spawn(||loop{std::thread::park()});}}",
        {TIMEOUT, MEMORY},
    ),
    "rust recursion": (
        "rust",
        "fn f(n:u64)->u64{let a=[n;999];std::hint::black_box(&a);f(n+1)+a[0]}\nfn main(){f(0);}",
        {ERROR},
    ),
    "rust aborts in a panic": (
        "rust",
        'struct D;impl Drop for D{fn drop(&mut self){panic!("two")}}\nfn main(){let _d=D;panic!("one")}',
        {ERROR},
    ),
    "java threads": (
        "java",
        (
            "class Main{public static void main(String[] v)throws Exception{for(;;)"
            "new Thread(()->{for(;;)try{Thread.sleep(9999);}catch(Exception e){}}).start();}}"
        ),
        {TIMEOUT, ERROR, MEMORY},
    ),
    "java flood": (
        "java",
        'class Main{public static void main(String[] v){for(;;)System.out.println("x".repeat(9999));}}',
        {FLOOD, TIMEOUT},
    ),
    "java hook that never ends": (
        "java",
        (
            "class Main{public static void main(String[] v){Runtime.getRuntime().addShutdownHook("
            "new Thread(()->{for(;;);}));}}"
        ),
        {TIMEOUT},
    ),
    "cpp new": (
        "cpp",
        "#include <cstring>\nint main(){for(;;)std::memset(new char[1<<22],1,1<<22);}",
        {MEMORY},
    ),
    "cpp throws for ever": (
        "cpp",
        "int main(){for(;;)try{throw 1;}catch(int){}}",
        {TIMEOUT},
    ),
    "c double fork": (
        "c",
        (
            "#include <unistd.h>\nint main(void){if(!fork()){setsid();if(!fork())for(;;)pause();"
            "_exit(0);}return 0;}"
        ),
        {OK},
    ),
    "c respawn": (
        "c",
        (
            "#include <signal.h>\n#include <unistd.h>\nint main(void){sigset_t s;sigfillset(&s);"
            "sigprocmask(SIG_BLOCK,&s,0);for(;;){if(fork()>0)_exit(0);setsid();}}"
        ),
        {OK, TIMEOUT},
    ),
    "c deaf to signals": (
        "c",
        "#include <signal.h>\nint main(void){for(int n=1;n<65;n++)signal(n,SIG_IGN);for(;;);}",
        {TIMEOUT},
    ),
    "c interrupts itself": (
        "c",
        (
            "#include <signal.h>\n#include <sys/time.h>\nvoid h(int n){(void)n;}\nint main(void)"
            "{signal(SIGALRM,h);struct itimerval t={{0,1},{0,1}};setitimer(ITIMER_REAL,&t,0);for(;;);}"
        ),
        {TIMEOUT},
    ),
    "c address space": (
        "c",
        (
            "#include <sys/mman.h>\nint main(void){while(mmap(0,1L<<30,PROT_READ,"
            "MAP_PRIVATE|MAP_ANONYMOUS|MAP_NORESERVE,-1,0)!=MAP_FAILED);return 3;}"
        ),
        {ERROR},
    ),
    "c locked memory": (
        "c",
        (
            "#include <stdlib.h>\n#include <sys/mman.h>\nint main(void){if(mlockall(MCL_FUTURE))"
            "return 3;while(malloc(1<<22));return 3;}"
        ),
        {ERROR, MEMORY},
    ),
    "c watches": (
        "c",
        "#include <sys/inotify.h>\nint main(void){while(inotify_init()>=0);return 3;}",
        {ERROR},
    ),
    "c timers": (
        "c",
        (
            "#include <signal.h>\n#include <time.h>\nint main(void){timer_t t;"
            "while(!timer_create(CLOCK_MONOTONIC,0,&t));return 3;}"
        ),
        {ERROR, TIMEOUT, MEMORY},
    ),
    "c pipes filled": (
        "c",
        (
            "#define _GNU_SOURCE\n#include <fcntl.h>\n#include <unistd.h>\nint main(void){static char b[65536];int p[2];"
            "while(!pipe2(p,O_NONBLOCK))while(write(p[1],b,sizeof b)>0);return 3;}"
        ),
        {ERROR, MEMORY},
    ),
    "ruby fork bomb": ("ruby", "loop { fork }", {TIMEOUT, ERROR}),
    "ruby memory": ("ruby", "a = []; loop { a << 'x' * (1 << 22) }", {MEMORY, ERROR}),
    "ruby symbols": ("ruby", "n = 0; loop { n.to_s.to_sym; n += 1 }", {TIMEOUT}),
    "ruby exit handler": ("ruby", "at_exit { loop {} }; exit 0", {TIMEOUT}),
    "php memory": ("php", "<?php $a=[]; while(1) $a[]=str_repeat('x',1<<22);", {MEMORY, ERROR}),
    "php recursion": ("php", "<?php function f(){f();} f();", {MEMORY, ERROR}),
    "php reads a device": ("php", "<?php $x = file_get_contents('/dev/zero');", {MEMORY, ERROR}),
    "lua block": ("lua", "string.rep('x', 1 << 40)", {ERROR}),
    "awk memory": ("awk", 'BEGIN { s = "x"; while (1) s = s s }', {MEMORY, ERROR}),
    "perl descriptors": (
        "perl",
        "my @f; while (1) { open my $f, '<', '/dev/null' or die; push @f, $f }",
        {ERROR},
    ),
    "sql block": ("sql", "SELECT length(randomblob(2000000000));", {ERROR, MEMORY}),
    "sql cross join": (
        "sql",
        (
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n LIMIT 999) "
            "SELECT count(*) FROM n a, n b, n c, n d;"
        ),
        {TIMEOUT},
    ),
    "bash symlinks in a ring": ("bash", "ln -s a b; ln -s b a; cat a", {ERROR}),
    "bash proc flood": (
        "bash",
        "while :; do cat /proc/self/maps /proc/*/stat >/dev/null; done",
        {TIMEOUT},
    ),
    "bash traps its exit": ("bash", "trap 'while :; do :; done' EXIT; exit 0", {TIMEOUT}),
    "javascript exit handler": ("javascript", "process.on('exit', () => { for (;;); })", {TIMEOUT}),
    "javascript workers": (
        "javascript",
        (
            "const {Worker}=require('worker_threads');setInterval(()=>new Worker('for(;;);',{eval:true})"
            ".on('error',()=>{}),1)"
        ),
        {TIMEOUT, ERROR, MEMORY},
    ),
}


@pytest.mark.requirement("res:every-bomb")
@pytest.mark.parametrize("name", RUNTIME)
async def test_bomb_ends_as_stated_and_the_next_run_is_fine(run: Run, name: str) -> None:
    language, code, expected = RUNTIME[name]
    seconds = 20 if expected.isdisjoint({TIMEOUT, FLOOD, OK}) else 1
    outcome = await run(language, code, timeout_s=seconds)
    assert outcome.status in expected, (outcome.error_message, outcome.stderr.text[-500:])
    assert outcome.usage.peak_memory_bytes <= outcome.plan.cell.limits.memory_bytes


# --- at compile time

COMPILED: dict[str, tuple[str, str]] = {
    "c endless include": ("c", '#include "/dev/zero"\nint main(void){}'),
    "c includes itself": ("c", "#include __FILE__\n#include __FILE__\nint main(void){}"),
    "c macros": (
        "c",
        "#define A x x x x x x x x x x\n"
        + "".join(f"#define {chr(66 + i)} {(chr(65 + i) + ' ') * 10}\n" for i in range(9))
        + "int x; int main(void){ J; }",
    ),
    "c huge array": ("c", "volatile char a[1L << 40] = {1}; int main(void){return a[0];}"),
    "c nesting": ("c", "int main(void){return " + "(" * 100_000 + "1" + ")" * 100_000 + ";}"),
    "c assembler repeats": ("c", 'asm(".rept 1000000000\\n.byte 1\\n.endr");int main(void){}'),
    "cpp templates": (
        "cpp",
        ("template<int N> struct F { static const long v = F<N-1>::v + F<N-2>::v + F<N-3>::v; "
        "F<N-1> a; F<N-2> b; };\nint main() { return F<1000000>::v; }"),
    ),
    "cpp constexpr": (
        "cpp",
        ("constexpr long f(long n) { long s = 0; for (long i = 0; i < n; ++i) s += i; return s; }\n"
        "static_assert(f(1L << 60) == 0); int main() {}"),
    ),
    "cpp doubling types": (
        "cpp",
        ("template<class A, class B> struct P {};\ntemplate<int N> struct T "
        "{ typedef P<typename T<N-1>::t, typename T<N-1>::t> t; };\n"
        "template<> struct T<0> { typedef int t; };\n"
        "template<class X> void f(); int main() { f<T<40>::t>(); }"),
    ),
    "rust macros": (
        "rust",
        "macro_rules! m { ($($t:tt)*) => { m!($($t)* $($t)* x) } }\nfn main() { m!(x); }",
    ),
    "rust constant": (
        "rust",
        ("const fn f() -> u64 { let mut i = 0; loop { i += 1; if i == 0 { return i } } }\n"
        "#[allow(long_running_const_eval)] const X: u64 = f();\nfn main() { println!(\"{}\", X); }"),
    ),
    "rust includes a device": (
        "rust",
        'static X: &[u8] = include_bytes!("/dev/zero");\nfn main() { println!("{}", X.len()); }',
    ),
    "go huge array": ("go", "package main\nvar a = [1 << 40]byte{1<<40 - 1: 1}\nfunc main() {}"),
    "go constants": (
        "go",
        "package main\nconst a = 1 << 500\n"
        + "".join(f"const a{i} = {'a' if i == 0 else f'a{i - 1}'} * a\n" for i in range(400))
        + "func main() { println(a399) }",
    ),
    "java constants": (
        "java",
        "class Main { static final String a = \"" + "x" * 1000 + "\";\n"
        + "".join(
            f"static final String a{i} = {' + '.join(['a' if i == 0 else f'a{i - 1}'] * 10)};\n"
            for i in range(6)
        )
        + "public static void main(String[] v) { System.out.println(a5.length()); } }",
    ),
    "java nesting": (
        "java",
        "class Main { public static void main(String[] v) { int x = "
        + "(" * 20_000 + "1" + ")" * 20_000 + "; } }",
    ),
}  # fmt: skip


@pytest.mark.requirement("res:every-bomb")
@pytest.mark.parametrize("name", COMPILED)
async def test_bomb_in_the_compiler_ends_within_the_compile_limits(run: Run, name: str) -> None:
    language, code = COMPILED[name]
    outcome = await run(language, code, timeout_s=5, caller="hasty")
    assert outcome.status in {COMPILE, TIMEOUT, MEMORY}, (outcome.status, outcome.error_message)
    assert outcome.compile is not None
    assert outcome.stdout.text == ""
    assert outcome.compile.usage.wall_s < COMPILE_S + 3
    assert outcome.usage.peak_memory_bytes <= outcome.plan.cell.limits.memory_bytes
