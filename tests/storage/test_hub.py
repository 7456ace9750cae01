"""Assets by name: in the package, on disk, on the hub (played by a function); every way that it can fail."""

from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError

from unmask.errors import ConfigError, StorageError
from unmask.storage import hub


class _Response:
    """As much of a response as the hub's errors look at."""

    headers: dict[str, str] = {}  # noqa: RUF012
    request = None
    status_code = 404


def play_hub(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    """A hub with one repository, `owner/model`, whose files are below `root`."""

    def file(repository: str, name: str) -> str:
        if repository != "owner/model":
            raise RepositoryNotFoundError("no", response=_Response())  # type: ignore[arg-type]
        if not (root / name).is_file():
            raise EntryNotFoundError("no")
        return str(root / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", file)
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda repository, allow_patterns: file(repository, "a.json") and str(root)
    )


def test_the_first_file_that_a_repository_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.json").write_text("{}")
    play_hub(monkeypatch, tmp_path)
    assert hub.locate("owner/model", "b.json", "a.json") == tmp_path / "a.json"
    assert hub.folder("owner/model", "*.json") == tmp_path
    with pytest.raises(ConfigError, match="^x.yaml:3: 'owner/model' on the hub has no b.json or c.json"):
        hub.locate("owner/model", "b.json", "c.json", where="x.yaml:3")
    for find in (hub.locate, hub.folder):
        with pytest.raises(ConfigError, match="'owner/other' is neither a folder nor a repository of the hub that you may read"):
            find("owner/other", "a.json")


def test_a_network_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> str:
        raise TimeoutError

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(StorageError, match=r"'owner/model/a.json' could not be downloaded .TimeoutError.; check the network"):
        hub.locate("owner/model", "a.json")
    with pytest.raises(StorageError, match=r"'owner/model' could not be downloaded .TimeoutError.; check the network"):
        hub.folder("owner/model", "*.json")


def test_folders_here(tmp_path: Path) -> None:
    assert hub.folder(str(tmp_path)) == tmp_path and hub.folder("builtin:tiny").is_dir()
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file' is a file; give a folder, or owner/name of a repository on the hub"):
        hub.folder(str(tmp_path / "file"))
    with pytest.raises(ConfigError, match="--vq: './nowhere' does not exist"):
        hub.folder("./nowhere", where="--vq")
