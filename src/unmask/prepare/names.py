"""Names that come from outside: what may become a path here, and how files are put in order."""

import re
from pathlib import Path

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")
_DIGITS = re.compile(r"(\d+)")
_DRIVE = re.compile(r"[A-Za-z]:")
_LONGEST = 255
_SHORT = _LONGEST // 4  # so many characters are never more than that many bytes


def safe_relative(name: object) -> str | None:
    """A name from an archive or a table as a path below some folder; None if it could lead elsewhere or be no file at all."""
    if not isinstance(name, str) or "\\" in name or "://" in name or "::" in name or not name.isprintable():
        return None
    if name.startswith("/"):
        return None
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if not parts or ".." in parts:
        return None
    if len(name) > _SHORT and any(len(part.encode("utf-8", "replace")) > _LONGEST for part in parts):
        return None
    return None if _DRIVE.match(parts[0]) else "/".join(parts)


def is_picture(name: str) -> bool:
    """Whether a name ends like a picture's."""
    return name.lower().endswith(PICTURES)


def is_litter(name: str) -> bool:
    """Files that operating systems and browsers leave behind: `._x`, `.DS_Store`, `__MACOSX/`."""
    if "._" not in name and ".DS_Store" not in name and "__MACOSX" not in name:
        return False
    parts = name.split("/")
    return parts[-1].startswith("._") or parts[-1] == ".DS_Store" or "__MACOSX" in parts


def natural(path: Path | str) -> list[tuple[int, int, str]]:
    """A sorting key under which part_2 comes before part_10."""
    text = path.as_posix() if isinstance(path, Path) else path
    return [(0, int(piece), "") if piece.isdigit() else (1, 0, piece) for piece in _DIGITS.split(text) if piece]


def files(folder: Path, *patterns: str) -> list[Path]:
    """Files below a folder that match any of the patterns, in natural order, litter left out."""
    found = {path for pattern in patterns for path in folder.glob(pattern) if path.is_file() and not path.name.startswith(".")}
    return sorted(found, key=natural)


def webdataset_key(name: str) -> tuple[str, str]:
    """A member's key and field as webdataset splits them: at the first dot of the last part, the field in lower case."""
    folder, slash, last = name.rpartition("/")
    stem, _, suffix = last.partition(".")
    return f"{folder}{slash}{stem}", suffix.lower()
