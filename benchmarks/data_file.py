"""The data file of a benchmark: one table of pictures with captions, scores and sizes, to be drawn."""

COLUMNS = ["s3_path", "caption", "fltLaionAesthScore", "intHeight", "intWidth"]


def data_file(name: str, rows: object, **options: object) -> str:
    """YAML of a mixture of one table.

    Args:
        name: of the data set.
        rows: the table's path.
        options: further keys of the data set.
    """
    more = "".join(f"    {key}: {value}\n" for key, value in options.items())
    columns = ", ".join(COLUMNS)
    return (
        f"datasets:\n  - name: {name}\n    json_path: {rows}\n    preprocess_fn: text_to_image\n    columns: [{columns}]\n{more}"
    )
