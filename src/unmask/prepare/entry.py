"""The entry of a data file that fits a record file."""

from typing import Any

import yaml  # type: ignore[import-untyped, unused-ignore]

from unmask.prepare.converter import Converter, Job


def entry_text(converter: Converter, job: Job) -> str:
    """A data file with one entry, as YAML. The paths in the record file are such that no `image_root` is needed."""
    entry: dict[str, Any] = {"name": job.out.stem, "json_path": str(job.out.absolute()), "sampling_strategy": "full"}
    entry.update(converter.entry(job))
    text: str = yaml.safe_dump({"datasets": [entry]}, sort_keys=False, allow_unicode=True, width=1000)
    return text
