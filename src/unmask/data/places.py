"""Where a URL of a data file really is, and with which storage options it is read: the one place that knows `storage:`."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from unmask.config import FieldError
from unmask.errors import ConfigError
from unmask.storage.object_store import SCHEMES, ObjectStore

REWRITE = "rewrite"


@dataclass(frozen=True)
class Place:
    """A URL as the object store wants it, with the options of the store."""

    url: str
    options: Mapping[str, str]


@dataclass(frozen=True)
class StorageMap:
    """Rules by URL prefix; of all that fit, the longest counts.

    Attributes:
        shared: options of every URL (`storage_options:` at the top).
        prefixes: prefix -> its options; `rewrite` among them replaces the prefix by another text.
    """

    shared: Mapping[str, str] = field(default_factory=dict)
    prefixes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def resolve(self, url: str, own: Mapping[str, str] | None = None) -> Place:
        """The place of a URL; options of the entry itself (`own`) win, then the prefix as written, then that of the rewritten URL."""
        prefix = self._longest(url, self.prefixes)
        rule = self.prefixes.get(prefix or "", {})
        options = {name: value for name, value in rule.items() if name != REWRITE}
        if prefix is not None and REWRITE in rule:
            url = rule[REWRITE] + url[len(prefix) :]
            plain = {each: found for each, found in self.prefixes.items() if REWRITE not in found}
            options = {**plain.get(self._longest(url, plain) or "", {}), **options}
        return Place(url, {**self.shared, **options, **(own or {})})

    @staticmethod
    def _longest(url: str, prefixes: Mapping[str, object]) -> str | None:
        return max((prefix for prefix in prefixes if url.startswith(prefix)), key=len, default=None)


def check_options(options: Mapping[str, str], where: str) -> None:
    """Refuse storage options before anything is fetched with them.

    Raises:
        FieldError: an unknown option, or a value that cannot be right.
    """
    try:
        ObjectStore(options)
    except ConfigError as error:
        raise FieldError(where, error.what, error.fix) from None


def check_prefixes(prefixes: Mapping[str, Mapping[str, str]]) -> None:
    """Refuse what cannot work in `storage:`.

    Raises:
        FieldError: a prefix that is none of a URL, a rewriting to nowhere or to a prefix that is rewritten itself, or a wrong option.
    """
    rewritten = [prefix for prefix, rule in prefixes.items() if REWRITE in rule]
    for prefix, rule in prefixes.items():
        if "://" not in prefix:
            what = f"'{prefix}' is no prefix of a URL"
            raise FieldError("storage", what, fix="write the scheme too, e.g. s3://bucket/ or piat://")
        scheme = prefix.partition("://")[0]
        if REWRITE not in rule and scheme not in (*SCHEMES, "s3a"):
            what = f"'{prefix}' is no kind of address that can be read"
            raise FieldError("storage", what, fix=f"add rewrite: s3://..., or use one of {', '.join(SCHEMES)}")
        target = rule.get(REWRITE)
        if target is not None:
            again = [each for each in rewritten if target.startswith(each)]
            if again:
                raise FieldError("storage", f"'{prefix}' is rewritten to '{target}', which '{again[0]}' rewrites again")
            if "://" in target and target.partition("://")[0] not in (*SCHEMES, "s3a"):
                raise FieldError(
                    "storage",
                    f"'{prefix}' is rewritten to '{target}', which cannot be read",
                    fix=f"use one of {', '.join(SCHEMES)}",
                )
        check_options({name: value for name, value in rule.items() if name != REWRITE}, "storage")
