"""The settings of the audit log."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import ByteSize, Field

from codecell.settings.sections import MIB, Seconds, Section, Size


class AuditSettings(Section):
    """Who did what, in a chain of lines that shows what was changed."""

    folder: Path | None = Field(None, description="Folder of the audit log; none: no audit log")
    on_failure: Literal["refuse", "continue"] = Field(
        "refuse",
        description="When the log can't be written: `refuse` runs nothing, `continue` runs on and "
        "raises an alarm",
    )
    fsync: Literal["always", "interval", "never"] = Field(
        "interval",
        description="When lines are forced to the disk: `always` before a run begins, `interval` "
        "every audit.fsync_s, `never` leaves it to the kernel",
    )
    fsync_s: Seconds = Field(1.0, description="Time between two syncs, in seconds")
    rotate: Size = Field(ByteSize(64 * MIB), description="Size at which the next file is begun")
    keep: Annotated[int, Field(ge=0)] = Field(
        0, description="Full files that are kept; 0 keeps them all"
    )
    text: bool = Field(
        default=False, description="Write code and stdin as text too, beside their SHA-256"
    )
