"""Where a named asset lives: `builtin:NAME` ships in the package, a path is a path, anything else is a Hugging Face hub id."""

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

from unmask.errors import ConfigError, StorageError, did_you_mean

BUILTIN = "builtin:"


def locate(reference: str, *names: str, where: str | None = None) -> Path:
    """The first of `names` that the asset has.

    Args:
        reference: `builtin:tiny`, a folder, or `owner/name` on the hub (`HF_TOKEN` is used for gated ones).
        names: files inside it, in the order of preference.
        where: file:line of the reference, for errors.

    Raises:
        ConfigError: there is no such asset, or none of the files in it.
        StorageError: the hub cannot be reached.
    """
    if reference.startswith(BUILTIN):
        return _inside(Path(str(files("unmask"))) / "assets" / reference.removeprefix(BUILTIN), reference, names, where)
    if Path(reference).exists() or reference.count("/") != 1:
        return _inside(Path(reference), reference, names, where)
    return _download(reference, names, where)


def folder(reference: str, *patterns: str, where: str | None = None) -> Path:
    """The folder of an asset, as a whole.

    Args:
        reference: `builtin:tiny`, a folder, or `owner/name` on the hub (`HF_TOKEN` is used for gated ones).
        patterns: which of its files to download (`*.safetensors`, `vqvae/*`); a local folder is taken as it is.
        where: what named it, for errors.

    Raises:
        ConfigError: there is no such folder or repository.
        StorageError: the hub cannot be reached.
    """
    if reference.startswith(BUILTIN):
        reference = str(Path(str(files("unmask"))) / "assets" / reference.removeprefix(BUILTIN))
    local = Path(reference).expanduser()
    if local.is_dir():
        return local
    if local.exists() or reference.count("/") != 1 or reference.startswith((".", "/", "~")):
        found = "is a file" if local.exists() else "does not exist"
        raise ConfigError(f"'{reference}' {found}", where=where, fix="give a folder, or owner/name of a repository on the hub")
    from huggingface_hub import snapshot_download  # noqa: PLC0415  (only who downloads pays for the import)

    return Path(_from_hub(lambda: snapshot_download(reference, allow_patterns=list(patterns)), reference, reference, where))


def _inside(folder: Path, reference: str, names: tuple[str, ...], where: str | None) -> Path:
    if not folder.is_dir():
        near = [BUILTIN + each.name for each in folder.parent.iterdir() if each.is_dir()] if folder.parent.is_dir() else []
        raise ConfigError(
            f"'{reference}' is no folder", where=where, fix=did_you_mean(reference, near) or "give an existing folder"
        )
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise ConfigError(f"'{reference}' has no {' or '.join(names)}", where=where, fix="give the folder that holds it")


def _download(reference: str, names: tuple[str, ...], where: str | None) -> Path:
    from huggingface_hub import hf_hub_download  # noqa: PLC0415  (only who downloads pays for the import)
    from huggingface_hub.errors import EntryNotFoundError  # noqa: PLC0415

    for name in names:
        try:
            return Path(_from_hub(lambda name=name: hf_hub_download(reference, name), reference, f"{reference}/{name}", where))  # type: ignore[misc]
        except EntryNotFoundError:
            continue
    raise ConfigError(f"'{reference}' on the hub has no {' or '.join(names)}", where=where)


def _from_hub(download: Callable[[], str], reference: str, what: str, where: str | None) -> str:
    """Run one of the hub client's downloads; its errors, except for an absent file, become ours."""
    from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError  # noqa: PLC0415

    try:
        return download()
    except EntryNotFoundError:
        raise
    except RepositoryNotFoundError:
        raise ConfigError(
            f"'{reference}' is neither a folder nor a repository of the hub that you may read",
            where=where,
            fix="check the name, and that HF_TOKEN is set for gated ones",
        ) from None
    except Exception as error:  # noqa: BLE001  (the hub's client lets many kinds of network error through)
        raise StorageError(
            f"'{what}' could not be downloaded ({type(error).__name__})",
            where=where,
            fix="check the network, or give a local folder",
        ) from None
