"""Addresses of objects: their parts, and what of them may be shown."""

from urllib.parse import quote, unquote, urlsplit

from unmask.errors import did_you_mean
from unmask.storage.faults import BadRequest

SCHEMES = ("s3", "gs", "az", "https", "http", "file")


def split(url: str) -> tuple[str, str, str]:
    """Scheme, root (bucket, container, or `https://host`) and key; for files scheme `file`, no root, and the path."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        if not url:
            raise BadRequest("an empty address names no object", where="''")
        return "file", "", url
    if scheme == "s3a":
        scheme = "s3"
    if scheme not in SCHEMES:
        raise BadRequest(f"unknown kind of address '{scheme}://'", where=shown(url), fix=did_you_mean(scheme, SCHEMES))
    if scheme == "file":
        host, _, path = rest.partition("/")
        if host not in ("", "localhost"):
            raise BadRequest(f"a file address on another host ('{host}')", where=url, fix="write file:///folder/name")
        return "file", "", "/" + unquote(path)
    root, _, key = rest.partition("/")
    if not root or not key:
        raise BadRequest("names no object", where=shown(url), fix=f"write {scheme}://{root or 'bucket'}/folder/name")
    if scheme in ("http", "https"):
        return scheme, f"{scheme}://{root}", key
    if key.startswith("/") or key.endswith("/") or "//" in key:
        raise BadRequest("has an empty part between two slashes", where=shown(url), fix="rename the object")
    return scheme, root, key


def plain_http_key(key: str) -> bool:
    """Whether decoding the path and letting the client encode it again asks for the same object."""
    if any(mark in key for mark in "?#") or "%2f" in key.lower() or key.endswith("/"):
        return False
    parts = unquote(key).split("/")
    return not any(part in ("", ".", "..") for part in parts) and unquote(quote(unquote(key))) == unquote(key)


def shown(url: str) -> str:
    """The URL without what may be secret: a user, a password, a query with a signature."""
    if not url.startswith(("http://", "https://")):
        return url
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}" + ("?..." if parts.query else "")
