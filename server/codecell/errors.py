"""Every exception codecell raises on purpose. A bad *program* is never one of them.

    CodecellError
    ├── RequestError            the caller's fault; its text is safe to show
    │   ├── KeyReused           an idempotency key stands for another request
    │   └── Denied              this caller may not do it
    ├── BusyError               no room now; says when to retry
    │   ├── RateLimited         none for this caller: its minute is used up
    │   ├── SessionBusy         earlier calls of the session take long
    │   └── Leaving             the server is shutting down
    ├── ResourceNotFound        no such stored result for this caller; its text is safe to show
    ├── StoreFull               no room for a result; the run itself is unharmed
    ├── ConfigurationError      the operator's fault; names the key (process exit status 2)
    └── SandboxError            ours; shown as `setup_error`, logged in full
        ├── EngineUnavailable   no container engine answers
        ├── ImageMissing        an image is not built; names the command that builds it
        ├── CellLost            a cell went away while it was ours
        └── ProtocolError       a cell sent bytes that are not the protocol

All of them live here so that the boundary that shows them can be read against one page.
"""


class CodecellError(Exception):
    """Base of all deliberate errors."""


class RequestError(CodecellError):
    """A request that cannot be planned; the text names the field and the valid values."""


class KeyReused(RequestError):
    """An idempotency key that stands for a different request."""


class Denied(RequestError):
    """A caller that is not known here, or has not the scope for what it asks.

    Attributes:
        times: how often, where several such refusals are told as one.
    """

    def __init__(self, message: str, *, times: int = 1) -> None:
        super().__init__(message)
        self.times = times


class BusyError(CodecellError):
    """The queue is full.

    Attributes:
        retry_after_s: seconds after which a place is likely.
    """

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ResourceNotFound(CodecellError):
    """A stored result that is not there, is over, or is another caller's."""


class StoreFull(CodecellError):
    """A result can't be stored; it is listed as left out."""


class RateLimited(BusyError):
    """The caller has used what it may use in a minute; the text says of what, in a clause."""


class SessionBusy(BusyError):
    """A session's earlier calls took longer than a call may wait for them."""


class Leaving(BusyError):
    """The server is shutting down: what ran was stopped, what waited never began."""

    def __init__(self) -> None:
        super().__init__("the server is shutting down", retry_after_s=1.0)


class ConfigurationError(CodecellError):
    """Settings that contradict themselves or name something that is not there."""


class SandboxError(CodecellError):
    """Our failure to run a program; its text never mixes with the program's output."""


class EngineUnavailable(SandboxError):
    """No container engine answers where one was expected."""


class ImageMissing(SandboxError):
    """A language's image is not on the engine."""


class CellLost(SandboxError):
    """A cell ended while it was needed, for a reason that is not the program's."""


class ProtocolError(SandboxError):
    """Bytes from a cell broke the framed protocol; the cell is thrown away."""
