"""What the full benchmark needs beyond the product: made once, kept under names of its own."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
PLOT_PYTHON = HERE / ".venv/bin/python"
LLM_PYTHON = HERE / ".venv-llm-sandbox/bin/python"
PREFIX = "codecell-bench"
IMAGES = {
    # numpy and pandas from Debian, imported ahead of time in waiting cells.
    f"{PREFIX}/python": f"""FROM codecell/python
USER 0:0
RUN sh /usr/local/sbin/install-packages python3-numpy python3-pandas
USER 65534:65534
LABEL codecell.prefix={PREFIX} codecell.preload="numpy pandas"
""",
    # llm-sandbox calls `python`, and starts the image's own command, which ours do not have.
    f"{PREFIX}/llm-sandbox": f"""FROM codecell/python
USER 0:0
RUN ln -s python3 /usr/bin/python
CMD ["/bin/sleep", "1000000"]
LABEL codecell.prefix={PREFIX} codecell.language=none
""",
}


def note(text: str) -> None:
    """Tell what is going on."""
    print(text, file=sys.stderr, flush=True)


def environment(python: Path, requirements: str) -> str | None:
    """Make a virtual environment; return why there is none."""
    folder = python.parents[1]
    wanted = (HERE / requirements).read_text()
    stamp = folder / "installed"
    if stamp.exists() and stamp.read_text() == wanted:
        return None
    note(f"installing {requirements}")
    shutil.rmtree(folder, ignore_errors=True)
    pip = [str(python), "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
    for command in (
        [sys.executable, "-m", "venv", str(folder)],
        [*pip, "-r", str(HERE / requirements)],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            shutil.rmtree(folder, ignore_errors=True)
            return f"{requirements} could not be installed: {done.stderr.strip()[-300:]}"
    stamp.write_text(wanted)
    return None


def image(name: str) -> str | None:
    """Build one of the benchmark's images (cached by the engine); return why there is none."""
    note(f"building {name}")
    done = subprocess.run(
        ["docker", "build", "-q", "-t", f"{name}:latest", "-"],
        input=IMAGES[name], capture_output=True, text=True, check=False,
    )  # fmt: skip
    return f"{name} could not be built: {done.stderr.strip()[-300:]}" if done.returncode else None


def has_image(name: str) -> bool:
    """Tell whether an image was built already."""
    command = ["docker", "image", "inspect", f"{name}:latest"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def bubblewrap() -> None:
    """Install bubblewrap where that is ours to do; without it its row is left out."""
    if shutil.which("bwrap") is None and shutil.which("apt-get") and os.geteuid() == 0:
        note("installing bubblewrap")
        command = ["apt-get", "install", "-y", "-qq", "bubblewrap"]
        subprocess.run(command, capture_output=True, check=False)


@contextmanager
def files_of(name: str) -> Iterator[str]:
    """Unpack an image's files into a folder for a while: for the bare run of its interpreter."""
    with tempfile.TemporaryDirectory(prefix="codecell-bench-") as folder:
        made = subprocess.run(
            ["docker", "create", name, "none"], capture_output=True, text=True, check=True
        ).stdout.strip()
        try:
            export = subprocess.Popen(["docker", "export", made], stdout=subprocess.PIPE)
            subprocess.run(["tar", "-x", "-C", folder], stdin=export.stdout, check=True)
            export.wait()
        finally:
            subprocess.run(["docker", "rm", made], capture_output=True, check=False)
        yield folder
