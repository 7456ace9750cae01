"""Runs a converter: archives are unpacked, shards become part files, the parts become one record file and a report.

Beside the output stands a folder `OUT.work` until all is done. Each finished shard has its own file there, which appears whole, as each
finished archive has in the folder that it was unpacked to; so a run that was killed at any moment goes on with the first unfinished one. If the
published files or the choices changed in between, the parts are made anew.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pyarrow as pa

from unmask.errors import DataError
from unmask.prepare.coco import Exclusion, exclusion, required_exclusion
from unmask.prepare.converter import Converter, Dropped, Item, Job, Retract, Row, found_in, readable
from unmask.prepare.entry import entry_text
from unmask.prepare.report import Report, add, dumps
from unmask.prepare.sets import CONVERTERS
from unmask.prepare.unpack import unpack
from unmask.prepare.work import Progress, Watch, WorkFolder, alone, read_json, stamps
from unmask.prepare.writer import Part, Values, join, write_text

FORMAT = 1
MARKS = ".unpacked"
"""In the folder of what is unpacked: one file for each archive that is done, so that no other conversion unpacks it again."""

_TICK = 500


@dataclass(frozen=True)
class Outcome:
    """What a run made.

    Attributes:
        report: the counts.
        report_file: where they are written.
        entry: the data file's entry for the output, as YAML.
        reused: parts that an earlier, unfinished run had made.
    """

    report: Report
    report_file: Path
    entry: str
    reused: int


def report_path(out: Path) -> Path:
    """The report beside a record file."""
    return out.with_name(f"{out.stem}.report.json")


def prepare(converter: Converter, job: Job, workers: int = 1, watch: Watch | None = None) -> Outcome:
    """Convert a published data set.

    Args:
        converter: of the set.
        job: what to convert and how.
        workers: processes that convert shards; the result does not depend on it.
        watch: called now and then.

    Raises:
        DataError: the files are not those of the data set, are broken, or nothing could be kept.
    """
    _check(converter, job)
    work = WorkFolder(job.out)
    with alone(job.out), readable(job):
        run = _Run(converter, job, work, workers, watch or (lambda _progress: None))
        report = run.unpack()
        job = run.job = replace(job, prefix=job.prefix or _prefix(converter.root(job), job.out))
        shards = converter.shards(job)
        if not shards:
            raise converter.wrong_layout(job, found_in(job.src))
        schema = converter.schema(job)
        run.begin(shards, schema)
        report.add(run.convert(shards, schema))
        join([work.part(number) for number in range(len(shards))], job.out, schema, report)
        if report.kept == 0:
            job.out.unlink()
            raise _nothing_kept(converter, job, report)
        entry = entry_text(converter, job)
        about = {"converter": converter.name, "version": converter.version, "entry": entry, **report.as_json()}
        write_text(report_path(job.out), dumps(about))
        work.end()
    return Outcome(report, report_path(job.out), entry, run.reused)


class _Run:
    """One conversion."""

    def __init__(self, converter: Converter, job: Job, work: WorkFolder, workers: int, watch: Watch) -> None:
        self._converter, self.job, self._work, self._workers, self._watch = converter, job, work, workers, watch
        self._archives = converter.archives(job)
        self._done = self._total = self._rows = 0
        self.reused = 0

    def unpack(self) -> Report:
        """Unpack what is not unpacked yet."""
        report = Report()
        self._total = len(self._archives)
        for archive in self._archives:
            mark = self.job.unpack / MARKS / f"{archive.folder.replace('/', '-') or 'root'}-{archive.label}.json"
            stamp = [*stamps([*archive.files]), str(self.job.unpack.absolute())]
            self._tell(f"unpacking {archive.label}")
            known = read_json(mark)
            if known is None or known["stamp"] != stamp:
                mark.parent.mkdir(parents=True, exist_ok=True)
                mine = unpack(archive, self.job.unpack)
                write_text(mark, dumps({"stamp": stamp, "report": mine.as_json()}))
            else:
                mine = Report.from_json(known["report"])
                self.reused += 1
            report.add(mine)
            self._done += 1
        return report

    def begin(self, shards: list[str], schema: pa.Schema) -> None:
        """Keep the parts of an earlier run if they are of this job, otherwise none."""
        self._total = len(self._archives) + len(shards)
        self._work.begin(_fingerprint(self._converter, self.job, shards, schema))

    def convert(self, shards: list[str], schema: pa.Schema) -> Report:
        """Make the missing parts; the counts of all."""
        missing = []
        for number, shard in enumerate(shards):
            if self._work.counts(number) is None:
                missing.append((number, shard))
            else:
                self.reused += 1
                self._done += 1
        if self._workers > 1 and len(missing) > 1:
            self._convert_many(missing, schema)
        else:
            for number, shard in missing:
                self._tell(shard)
                before = self._rows
                convert_shard(self._converter.name, self.job, shard, schema, self._work.part(number), self._ticks(shard))
                self._rows = before + self._finished(number)
        report = Report()
        for number in range(len(shards)):
            counts = self._work.counts(number)
            assert counts is not None
            report.add(counts)
        return report

    def _convert_many(self, missing: list[tuple[int, str]], schema: pa.Schema) -> None:
        with ProcessPoolExecutor(self._workers, mp_context=get_context("spawn")) as pool:
            futures = [
                (
                    number,
                    shard,
                    pool.submit(convert_shard, self._converter.name, self.job, shard, schema, self._work.part(number)),
                )
                for number, shard in missing
            ]
            try:
                for number, shard, future in futures:
                    self._tell(shard)
                    future.result()
                    self._rows += self._finished(number)
            except BrokenProcessPool:
                fix = "start again, with fewer --workers: what is done is not done again"
                raise DataError("a worker was killed, perhaps for want of memory", where=str(self.job.src), fix=fix) from None
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _finished(self, number: int) -> int:
        self._done += 1
        counts = self._work.counts(number)
        assert counts is not None
        return counts.read

    def _tell(self, doing: str) -> None:
        self._watch(Progress(doing, self._done, self._total, self._rows))

    def _ticks(self, shard: str) -> Callable[[int], None]:
        before = self._rows

        def tick(rows: int) -> None:
            self._rows = before + rows
            self._tell(shard)

        return tick


def convert_shard(
    name: str, job: Job, shard: str, schema: pa.Schema, part: Path, tick: Callable[[int], None] | None = None
) -> None:
    """Convert one shard into a part file and its counts; the counts appear last."""
    converter = CONVERTERS.get(name)
    try:
        report = _fill(converter, job, shard, _part(converter, job, part, schema), tick)
    except Retract as retract:
        report = _fill(converter, job, shard, _part(converter, job, part, schema), tick, retract)
    write_text(part.with_suffix(".json"), dumps(report.as_json()))


def _part(converter: Converter, job: Job, path: Path, schema: pa.Schema) -> Part:
    """A part file whose paths get the prefix of the conversion."""
    prefix = job.prefix.rstrip("/")
    put = partial(_with_prefix, prefix=prefix)
    return Part(path, schema, dict.fromkeys(converter.paths, put) if prefix else {})


def _fill(
    converter: Converter, job: Job, shard: str, part: Part, tick: Callable[[int], None] | None, retract: Retract | None = None
) -> Report:
    """Write a part file; rows that a first attempt had to take back are left out.

    Raises:
        Retract: this is the first attempt.
    """
    leave_out = required_exclusion(job) if converter.coco else exclusion(job)
    report = Report()
    all_allowed, first = leave_out.empty and retract is None, converter.paths[0]
    kept = 0
    with part as target:
        items = converter.convert(job, shard)
        for item in items if retract is None else _to_the_end(items):
            if isinstance(item, dict):
                reason = None if all_allowed else _excluded(item, converter.paths, leave_out)
                if retract is not None and retract.covers(item[first]):
                    report.drop(retract.reason, item[first])
                elif reason is not None:
                    report.drop(*reason)
                else:
                    kept += 1
                    target.add(item)
            elif isinstance(item, Dropped):
                report.drop(item.reason, item.where)
            else:
                add(report.notes, item.what, 1, item.where)
            if tick is not None and (report.read + kept) % _TICK == 0:
                tick(report.read + kept)
    report.read, report.kept = report.read + kept, report.kept + kept
    return report


def _to_the_end(items: Iterator[Item]) -> Iterator[Item]:
    """Items whose `Retract` is known already."""
    with suppress(Retract):
        yield from items


def _excluded(row: Row, columns: tuple[str, ...], leave_out: Exclusion) -> Dropped | None:
    """Why a row is left out for one of its pictures; None if it is not."""
    for column in columns:
        value = row.get(column)
        for name in [value] if isinstance(value, str) else value or ():
            reason = leave_out.reason(name)
            if reason is not None:
                return Dropped(reason, name)
    return None


def _prefix(root: Path, out: Path) -> str:
    """What goes before paths: nothing or a relative folder if the pictures lie below the record file's folder, else their absolute folder."""
    pictures, records = os.path.abspath(root), os.path.abspath(out.parent)
    if os.path.commonpath([pictures, records]) != records:
        return pictures
    below = os.path.relpath(pictures, records)
    return "" if below == "." else below


def _with_prefix(values: Values, prefix: str) -> Values:
    """Paths, or lists of them, below the prefix where they are relative."""
    return [_prefixed(value, prefix) for value in values]


def _prefixed(value: Any, prefix: str) -> Any:
    if isinstance(value, str):
        return value if value.startswith("/") or "://" in value else f"{prefix}/{value}"
    return _with_prefix(value, prefix) if isinstance(value, list) else value


def _check(converter: Converter, job: Job) -> None:
    """Refuse what cannot work before anything is written."""
    if not job.src.exists():
        if converter.get:
            raise DataError("there is no such folder", where=str(job.src), fix=f"download it: {converter.get}")
        raise DataError("there is no such file or folder", where=str(job.src), fix=f"SRC has to be {converter.layout}")
    if job.out.suffix != ".parquet":
        raise DataError(
            f"the record file has to end in .parquet, not '{job.out.suffix}'", where=str(job.out), fix=f"{job.out}.parquet"
        )
    if _is_published(job):
        raise DataError("is one of the published files, and would be written over", where=str(job.out), fix="choose another name")
    if converter.coco:
        required_exclusion(job)
    else:
        exclusion(job)
    if job.images not in converter.modes:
        why = (
            "its archives are compressed and cannot be read in the middle"
            if job.images == "archive"
            else "its pictures are not in archives"
        )
        raise DataError(f"'{converter.name}' takes no --images {job.images}: {why}", fix=f"--images {converter.modes[0]}")


def _is_published(job: Job) -> bool:
    """Whether the output would be written over a file that the data set came with."""
    if not job.out.exists() or report_path(job.out).exists():
        return False
    return job.out.samefile(job.src) or job.out.resolve().is_relative_to(job.src.resolve())


def _nothing_kept(converter: Converter, job: Job, report: Report) -> DataError:
    reasons = "; ".join(f"{reason}: {count.number:,}, first {count.first}" for reason, count in sorted(report.dropped.items()))
    what = f"no row of {report.read:,} could be kept ({reasons or 'there were none'})"
    return DataError(what, where=str(job.src), fix=f"the folder should hold {converter.layout}")


def _fingerprint(converter: Converter, job: Job, shards: list[str], schema: pa.Schema) -> str:
    """What the parts depend on, but for the time of the run."""
    names = [shard.rpartition(":")[2] for shard in shards]
    watched = [folder / name for name in names for folder in (job.src, converter.root(job))] + [*job.exclude]
    named = [Path(str(job.options[option.name])) for option in converter.options if option.path and job.options[option.name]]
    if job.refcoco is not None:
        named.append(job.refcoco)
    choices = {key: str(value) for key, value in vars(job).items() if key != "options"}
    asked = [
        FORMAT,
        converter.name,
        converter.version,
        choices,
        dict(job.options),
        str(schema),
        shards,
        stamps([path for path in (*watched, *named) if path.exists()]),
    ]
    return hashlib.sha256(json.dumps(asked, sort_keys=True, default=str).encode()).hexdigest()
