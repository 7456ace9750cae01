"""Columns that several record files share."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from unmask.prepare.converter import Job, Row
from unmask.prepare.placing import Size

FOLDERS_OF_PICTURES: dict[str, Any] = {"paths": ("image",), "modes": ("folder",)}
"""What converters of conversations have in common whose pictures cannot stay in archives."""

TURN = pa.struct([("from", pa.string()), ("value", pa.string())])


def drawing_schema(job: Job, extra: Sequence[tuple[str, pa.DataType]] = ()) -> pa.Schema:
    """`s3_path`, `caption` and, if asked for, the sizes."""
    sizes = [("intHeight", pa.int32()), ("intWidth", pa.int32())] if job.sizes else []
    return pa.schema([("s3_path", pa.string()), ("caption", pa.string()), *sizes, *extra])


def sizes_of(size: Size | None) -> Row:
    """The two columns of a size."""
    return {} if size is None else {"intHeight": size[1], "intWidth": size[0]}
