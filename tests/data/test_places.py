"""URLs and where they really are: the longest prefix, rewriting, and whose options win."""

from pathlib import Path

import pytest

from tests.helpers import ONE_ENTRY
from unmask.data.places import Place, StorageMap
from unmask.data.spec import load_mixture
from unmask.errors import ConfigError

MAP = StorageMap(
    {"region": "top", "endpoint": "https://top"},
    {
        "s3://a/": {"region": "a"},
        "s3://a/b/": {"region": "b", "anonymous": "true"},
        "piat://": {"rewrite": "s3://a/by-hash/", "anonymous": "true"},
        "piat://x/": {"rewrite": "/disk/"},
    },
)


@pytest.mark.parametrize(
    ("url", "place", "options"),
    [
        ("s3://other/k", "s3://other/k", {}),
        ("s3://a/k", "s3://a/k", {"region": "a"}),
        ("s3://a/b/k", "s3://a/b/k", {"region": "b", "anonymous": "true"}),
        ("piat://12ab", "s3://a/by-hash/12ab", {"region": "a", "anonymous": "true"}),
        ("piat://x/p.png", "/disk/p.png", {}),
        ("/local/p.png", "/local/p.png", {}),
    ],
)
def test_the_longest_prefix_counts(url: str, place: str, options: dict[str, str]) -> None:
    assert MAP.resolve(url) == Place(place, {"region": "top", "endpoint": "https://top", **options})


def test_options_of_the_entry_win() -> None:
    assert MAP.resolve("s3://a/k", {"region": "mine"}).options == {"region": "mine", "endpoint": "https://top"}


def test_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "data.yaml"
    path.write_text(
        f"{ONE_ENTRY}    storage_options: {{region: mine}}\nstorage_options: {{endpoint: 'https://top'}}\n"
        "storage:\n  'piat://': s3://bucket/by-hash/\n  's3://bucket/': {endpoint: 'https://other', region: x}\n"
    )
    spec = load_mixture(path)
    assert spec.resolve("piat://k", spec.datasets[0]) == Place(
        "s3://bucket/by-hash/k", {"endpoint": "https://other", "region": "mine"}
    )


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("bucket: {region: x}", "'bucket' is no prefix of a URL; write the scheme too"),
        ("'piat://': {region: x}", "'piat://' is no kind of address that can be read; add rewrite: s3://..."),
        ("'piat://': 'ftp://x/'", "rewritten to 'ftp://x/', which cannot be read"),
        ("{'piat://': 'hash://', 'hash://': 's3://b/'}", "which 'hash://' rewrites again"),
        ("'s3://b/': {regoin: x}", "did you mean 'region'?"),
        ("'s3://b/': {endpoint: localhost}", "is no URL"),
    ],
)
def test_what_cannot_work(tmp_path: Path, rule: str, said: str) -> None:
    path = tmp_path / "data.yaml"
    path.write_text(f"{ONE_ENTRY}storage: {rule if rule.startswith('{') else '{' + rule + '}'}\n")
    with pytest.raises(ConfigError) as caught:
        load_mixture(path)
    assert str(caught.value).startswith(f"{path}:5: storage: ") and said in str(caught.value)
