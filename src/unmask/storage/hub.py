"""Where a named asset lives: `builtin:NAME` ships in the package, a path is a path, anything else is a Hugging Face hub id."""

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
    from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError  # noqa: PLC0415

    for name in names:
        try:
            return Path(hf_hub_download(reference, name))
        except EntryNotFoundError:
            continue
        except RepositoryNotFoundError:
            raise ConfigError(
                f"'{reference}' is neither a folder nor a repository of the hub that you may read",
                where=where,
                fix="check the name, and that HF_TOKEN is set for gated ones",
            ) from None
        except Exception as error:  # noqa: BLE001  (the hub's client lets many kinds of network error through)
            raise StorageError(
                f"'{reference}/{name}' could not be downloaded ({type(error).__name__})",
                where=where,
                fix="check the network, or give a local folder",
            ) from None
    raise ConfigError(f"'{reference}' on the hub has no {' or '.join(names)}", where=where)
