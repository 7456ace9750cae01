"""What can go wrong with an object: a class for each kind, and what the client's exceptions mean."""

import re
from typing import ClassVar

from unmask.errors import StorageError

_KEY_FIX = "check AWS_ACCESS_KEY_ID / AWS_SECRET_ACCESS_KEY and the bucket policy"
_DENIED_FIX = {
    "SignatureDoesNotMatch": "the secret does not belong to the access key: check AWS_SECRET_ACCESS_KEY",
    "InvalidAccessKeyId": "the server does not know the access key: check AWS_ACCESS_KEY_ID and the endpoint",
    "ExpiredToken": "the session token has expired: renew AWS_SESSION_TOKEN",
    "RequestTimeTooSkewed": "the clock of this machine is wrong",
}


class ObjectError(StorageError):
    """An object that could not be read or stored.

    Attributes:
        reason: a stable word to count by.
        permanent: trying again later cannot help.
    """

    reason: ClassVar[str] = "server"
    permanent: ClassVar[bool] = False


class NotFound(ObjectError):
    """There is no such object, bucket or file."""

    reason, permanent = "missing", True


class AccessDenied(ObjectError):
    """The credentials are absent, wrong, or not allowed to do this."""

    reason, permanent = "denied", True


class BadRequest(ObjectError):
    """An address that cannot be one, or a request that the server calls malformed."""

    reason, permanent = "invalid", True


class Changed(ObjectError):
    """The object is another one than when it was first looked at."""

    reason, permanent = "changed", True


class TooLarge(ObjectError):
    """The object has more bytes than the bound."""

    reason, permanent = "too-large", True


class TimedOut(ObjectError):
    """No answer in time, after all retries."""

    reason = "timeout"


class Outage(StorageError):
    """A whole place does not answer: the rows are not to blame, so nothing is replaced, and the run stops with its state saved."""

    exit_code = 3


class ServerFault(ObjectError):
    """5xx, throttling, no connection, or a body that breaks off, after all retries."""

    reason = "server"


def diagnose(error: BaseException, stall: float, seconds: float) -> tuple[str, str | None, type[ObjectError]]:
    """What to say about an exception of obstore, what to do about it, and its class.

    Args:
        error: its text quotes requests and their signatures, and is not passed on.
        stall: seconds that an answer may pause.
        seconds: for how long it was tried again.
    """
    text = str(error)
    found = re.search(r"status code: (\d{3})", text)
    status = int(found[1]) if found else 0
    found = re.search(r"<Code>([A-Za-z0-9]{1,60})</Code>", text)
    code = found[1] if found else ""
    answer = f"{status} {code}".strip()
    if any(mark in text for mark in ("169.254.169.254", "metadata.google", "TokenRequest", "MissingAccount", "MissingSecret")):
        fix = "set the credentials (AWS_*, GOOGLE_*, AZURE_*), or the storage option anonymous: 'true'"
        return "no credentials were found", fix, AccessDenied
    if code == "NoSuchBucket":
        return "there is no such bucket", "check its name and the endpoint", NotFound
    if isinstance(error, FileNotFoundError) or status in (404, 410):
        return "there is no such object", None, NotFound
    if status == 412:
        return "has changed since it was first looked at", "start the run again", Changed
    if status in (401, 403):
        return f"access is denied ({answer})", _DENIED_FIX.get(code, _KEY_FIX), AccessDenied
    if isinstance(error, ValueError):
        return "the address cannot be one", None, BadRequest
    if "builder error" in text:
        return "plain http is not allowed", "set the storage option allow_http: 'true', or use an https endpoint", BadRequest
    if 300 <= status < 400:
        return f"the server points elsewhere ({answer})", "check the region (AWS_REGION) and the endpoint", BadRequest
    if 400 <= status < 500 and status not in (408, 429):
        return f"the server refuses the request ({answer})", "check the endpoint, the region and the name", BadRequest
    if status:
        return f"the server answers {answer}, also when asked again for {seconds:g} s", None, ServerFault
    if "kind: Timeout" in text or "TimedOut" in text:
        return f"no answer within {stall:g} s, also when asked again for {seconds:g} s", None, TimedOut
    if "kind: Connect" in text:
        return "cannot connect to the server", "check the endpoint and the network", ServerFault
    if "non-partial response" in text:
        fix = "unpack the archive, or serve it from a store that knows ranges"
        return "the server ignores the range that is asked for, and sends the whole object", fix, BadRequest
    if "MissingContentLength" in text:
        return "the server does not say how long the object is (no Content-Length)", "copy it to another store", BadRequest
    if "kind: Interrupted" in text or "body error" in text:
        return "the answer broke off, also when asked again", None, ServerFault
    return f"the client failed ({type(error).__name__})", "check the address and the storage options", ServerFault


def file_fault(error: OSError, url: str) -> ObjectError:
    """An operating system's error about a local file as ours."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return NotFound("there is no such file", where=url)
    if isinstance(error, PermissionError):
        return AccessDenied("access is denied", where=url, fix="check the owner and mode of the file")
    if isinstance(error, IsADirectoryError):
        return BadRequest("is a folder", where=url)
    return ServerFault(f"cannot be read or written ({error.strerror or type(error).__name__})", where=url)
