"""A minimal Debian made on this machine with mmdebstrap, for where no image registry answers."""

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

from codecell import host
from codecell.errors import SandboxError

PACKAGES = ("mmdebstrap", "debian-archive-keyring")
_CHUNK_BYTES = 256 * 1024


def command(suite: str, dpkg_config: Path, prefix: Sequence[str]) -> list[str]:
    """Return the mmdebstrap command that writes a tar of a minimal `suite` to stdout; pure.

    No mirror is named: mmdebstrap takes Debian's own, with the suite's security updates.
    """
    options = ["--variant=minbase", "--skip=output/dev", f"--dpkgopt={dpkg_config}"]
    return [*prefix, "mmdebstrap", *options, suite, "-"]


@contextmanager
def debian_tarball(suite: str, dpkg_config: Path, report: host.Report) -> Iterator[Iterator[bytes]]:
    """Make a minimal Debian and yield it as a tar stream; nothing is kept on disk.

    Leaving the block without an error means that the stream was whole.

    Raises:
        SandboxError: mmdebstrap is missing and cannot be installed, or failed; with its last line.
    """
    prefix = host.root_prefix()
    if not host.installed("mmdebstrap"):
        if prefix is None or not shutil.which("apt-get"):
            raise SandboxError(
                "no image registry answers and mmdebstrap is missing; "
                "install the package mmdebstrap"
            )
        host.install_packages(PACKAGES, report, prefix=prefix)
    words: list[str] = []
    with subprocess.Popen(  # noqa: S603  fixed words, no shell
        command(suite, dpkg_config, prefix or ()),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PATH": host.system_path(), "LC_ALL": "C"},
    ) as process:

        def listen() -> None:
            for raw in process.stderr or ():
                line = raw.decode(errors="replace").strip()
                if line:
                    words.append(line)
                    report(line, detail=True)

        listener = Thread(target=listen, daemon=True)
        listener.start()
        stdout = process.stdout
        try:
            yield iter(lambda: stdout.read(_CHUNK_BYTES) if stdout else b"", b"")
        except BaseException:
            process.terminate()
            raise
        finally:
            process.wait()
            listener.join()
    if process.returncode != 0:
        raise SandboxError(
            f"mmdebstrap {suite} failed ({words[-1] if words else 'it said nothing'}); "
            "check that Debian's mirror can be reached and build again"
        )
