"""Passes that leave rows out: by a condition on their columns, and near-duplicates of earlier rows or of other record files' pictures."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from unmask.config import FieldError
from unmask.data.sql import evaluate, parse_filter
from unmask.distributed.bulk import Engine
from unmask.distributed.bulk import run as run_bulk
from unmask.errors import ConfigError, DataError
from unmask.prepare.passes import Change, Changed, PassOutcome, find_column, read_schema, run_pass
from unmask.prepare.work import Watch

BITS = 64
MAX_DISTANCE = 15
"""Hashes of unrelated pictures differ in about 32 bits; beyond this, too many do by chance in less."""

REPEATED = "near-duplicate of an earlier row"
_TILE = 2048
_PARTS = 16


@dataclass(frozen=True)
class Filter:
    """Keep the rows for which a condition in SQL over their columns is true; null is not.

    Attributes:
        condition: as `filter:` in a data file.
    """

    condition: str
    name: str = "filter"

    def reads(self, schema: pa.Schema) -> list[str]:
        """The columns of the condition.

        Raises:
            ConfigError: it is none.
        """
        try:
            columns = parse_filter(self.condition).columns
        except FieldError as error:
            raise ConfigError(error.what, where="--where", fix=error.fix) from None
        return [find_column(schema, name, "the record file") for name in columns]

    def adds(self, _schema: pa.Schema) -> list[pa.Field]:
        """None."""
        return []

    def start(self, src: Path) -> Change:
        """The condition, on the rows of a shard."""

        def change(table: pa.Table, first: int) -> Changed:
            kept = evaluate(self.condition, table, str(src))
            reason = f"not so: {' '.join(self.condition.split())}"
            return Changed(reasons={int(row): (reason, f"row {first + row}") for row in np.flatnonzero(~kept)})

        return change


class Against(NamedTuple):
    """Pictures that rows must not be near to.

    Attributes:
        path: a record file with the column of hashes.
        name: in the report.
    """

    path: Path
    name: str


def dedup(
    src: Path,
    out: Path,
    engine: Engine,
    *,
    column: str = "phash",
    distance: int = 4,
    against: tuple[Against, ...] = (),
    watch: Watch | None = None,
) -> PassOutcome:
    """Leave out rows whose picture is nearly that of an earlier row that stays, or of another record file.

    Rows are judged in the order of the file, so that of a chain of pictures, each near to the next, not all but one are lost. A row without a
    hash stays.

    Args:
        src: the record file, with hashes.
        out: the record file to write.
        engine: where pairs are looked for.
        column: the hashes, 16 hexadecimal digits each.
        distance: bits in which the hashes of two pictures may differ that are taken for the same.
        against: other record files, for example those of evaluation pictures.
        watch: called now and then.

    Raises:
        DataError: a file has no such column, or it holds something else.
    """
    if not 0 <= distance <= MAX_DISTANCE:
        raise ConfigError(
            f"--distance must be 0 to {MAX_DISTANCE}, not {distance}", fix="4 finds copies that were scaled or saved again"
        )
    files = [(each.path, f"near-duplicate of a picture of {each.name}") for each in against] + [(src, REPEATED)]
    hashes, owners = [], []
    for number, (path, _) in enumerate(files):
        found = read_hashes(path, column)
        hashes.append(found)
        owners.append(np.full(len(found.values), number, dtype=np.int32))
    values, rows = np.concatenate([each.values for each in hashes]), np.concatenate([each.rows for each in hashes])
    leaders = _leaders(values, np.concatenate(owners), len(files) - 1, out, distance, engine)
    mine = np.concatenate(owners) == len(files) - 1
    left_out = mine & (leaders >= 0)
    whose = np.concatenate(owners)[leaders[left_out]]
    listing = out.absolute().with_name(
        f".{out.name}.{hashlib.sha256(repr((files, column, distance)).encode()).hexdigest()[:16]}.npz"
    )
    listing.parent.mkdir(parents=True, exist_ok=True)
    np.savez(listing, rows=rows[left_out], whose=whose, leader=rows[leaders[left_out]])
    try:
        digest = hashlib.sha256(listing.read_bytes()).hexdigest()
        what = LeaveOut(listing, digest, tuple(reason for _, reason in files), column)
        return run_pass(what, src, out, engine, watch)
    finally:
        listing.unlink(missing_ok=True)


@dataclass(frozen=True)
class LeaveOut:
    """Leave out the rows of a list.

    Attributes:
        listing: `rows`, and for each in `whose` the number of its reason and in `leader` the row that it is like.
        digest: of that file.
        reasons: by number.
        column: of the hashes.
    """

    listing: Path
    digest: str
    reasons: tuple[str, ...]
    column: str
    name: str = "dedup"

    def __repr__(self) -> str:
        return f"{self.digest} {self.reasons} {self.column}"

    def reads(self, _schema: pa.Schema) -> list[str]:
        """Only something to count rows by."""
        return [self.column]

    def adds(self, _schema: pa.Schema) -> list[pa.Field]:
        """None."""
        return []

    def start(self, _src: Path) -> Change:
        """The list, on the rows of a shard."""
        with np.load(self.listing) as listed:
            rows, whose, leader = listed["rows"], listed["whose"], listed["leader"]

        def change(table: pa.Table, first: int) -> Changed:
            start, stop = np.searchsorted(rows, [first, first + table.num_rows])
            said = {
                int(rows[at]) - first: (self.reasons[whose[at]], f"row {rows[at]}, like row {leader[at]}")
                for at in range(start, stop)
            }
            return Changed(reasons=said)

        return change


class Hashes(NamedTuple):
    """The hashes of a record file: uint64 values, and the rows that they are of."""

    values: np.ndarray
    rows: np.ndarray


def read_hashes(path: Path, column: str) -> Hashes:
    """The hashes in a column; rows without one are passed over.

    Raises:
        DataError: there is no such column, or it holds something else.
    """
    if column not in read_schema(path).names:
        fix = f"unmask prepare scores {path} OUT.parquet --score hash"
        raise DataError(f"has no column '{column}' of hashes", where=str(path), fix=fix)
    values, rows, first = [], [], 0
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=1 << 16, columns=[column]):
            texts = batch.column(0).to_pylist()
            there = [number for number, text in enumerate(texts) if text is not None]
            try:
                data = bytes.fromhex("".join(texts[number] for number in there))
            except (TypeError, ValueError):
                data = b""
            if len(data) != 8 * len(there):
                fix = "make it with --score hash, and name it with --hash phash or --hash dhash"
                raise DataError(f"column '{column}' holds no hashes of 16 hexadecimal digits", where=str(path), fix=fix)
            values.append(np.frombuffer(data, dtype=">u8").astype(np.uint64))
            rows.append(np.array(there, dtype=np.int64) + first)
            first += len(texts)
    empty = np.array([], dtype=np.int64)
    return Hashes(np.concatenate(values or [empty.astype(np.uint64)]), np.concatenate(rows or [empty]))


def _leaders(values: np.ndarray, owners: np.ndarray, own: int, out: Path, distance: int, engine: Engine) -> np.ndarray:
    """For each hash the one before it that stays and is near, or -1; those of other files always stay."""
    unique, first, of = np.unique(values, return_index=True, return_inverse=True)
    order = np.argsort(first)  # by first appearance: other files come before our own
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    pairs = _pairs(unique[order], out, distance, engine) if distance else np.empty((0, 2), dtype=np.int64)
    leader = np.full(len(order), -1, dtype=np.int64)
    foreign = owners[first[order]] != own
    for early, late in pairs.tolist():  # sorted by the later one, then by the earlier
        if leader[late] < 0 and leader[early] < 0 and not foreign[late]:
            leader[late] = early
    stays = np.where(leader < 0, np.arange(len(order)), leader)[place[of]]
    leaders = first[order][stays]
    return np.where(leaders == np.arange(len(values)), -1, leaders)


def _pairs(hashes: np.ndarray, out: Path, distance: int, engine: Engine) -> np.ndarray:
    """Every pair (earlier, later) of different hashes at most that far apart, sorted by the later one.

    Hashes that differ in at most `distance` bits are equal in at least one of `distance + 1` bands of bits, so only those are compared.
    """
    draft = out.absolute().with_name(f".{out.name}.hashes.npy")
    draft.parent.mkdir(parents=True, exist_ok=True)
    np.save(draft, hashes)
    try:
        bands = range(distance + 1)
        many = [((band,), part, _PARTS) for band in bands for part in range(_PARTS)]
        pieces = many if len(hashes) > _TILE else [(tuple(bands), 0, 1)]
        found = [
            np.frombuffer(answer, dtype=np.int64).reshape(-1, 2) for answer in run_bulk(_Near(draft, distance), pieces, engine)
        ]
    finally:
        draft.unlink(missing_ok=True)
    pairs = np.unique(np.concatenate([*found, np.empty((0, 2), dtype=np.int64)]), axis=0)
    return np.asarray(pairs[np.lexsort((pairs[:, 0], pairs[:, 1]))])


@dataclass(frozen=True)
class _Near:
    """Finds the near pairs of some bands and one part of their values."""

    path: Path
    distance: int

    def start(self) -> Callable[[tuple[tuple[int, ...], int, int]], bytes]:
        hashes = np.load(self.path, mmap_mode="r")

        def do(piece: tuple[tuple[int, ...], int, int]) -> bytes:
            bands, part, parts = piece
            found = [pairs for band in bands for pairs in self._in_band(hashes, band, part, parts)]
            return np.concatenate([*found, np.empty((0, 2), dtype=np.int64)]).astype(np.int64).tobytes()

        return do

    def _in_band(self, hashes: np.ndarray, band: int, part: int, parts: int) -> Iterator[np.ndarray]:
        """Pairs that are equal in a band of bits, of one part of its values."""
        low, high = (edge * BITS // (self.distance + 1) for edge in (band, band + 1))
        keys = (hashes >> np.uint64(low)) & np.uint64((1 << (high - low)) - 1)
        rows = np.flatnonzero(keys % np.uint64(parts) == part)
        rows = rows[np.argsort(keys[rows], kind="stable")]
        ends = np.flatnonzero(np.diff(keys[rows])) + 1
        for group in np.split(rows, ends):
            if len(group) > 1:
                yield from self._in_group(hashes, group)

    def _in_group(self, hashes: np.ndarray, group: np.ndarray) -> Iterator[np.ndarray]:
        """Pairs of one group of rows, which are in their order."""
        values = hashes[group]
        for start in range(0, len(group), _TILE):
            for begin in range(start, len(group), _TILE):
                bits = np.bitwise_count(values[start : start + _TILE, None] ^ values[None, begin : begin + _TILE])
                early, late = np.nonzero(bits <= self.distance)
                early, late = early + start, late + begin
                yield np.stack([group[early], group[late]], axis=1)[early < late]
