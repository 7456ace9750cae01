"""COCO's run-length masks, column by column, and the tight box around one; no pycocotools needed."""

from collections.abc import Sequence


def decode_counts(text: str) -> list[int]:
    """Lengths of the runs of a compressed mask, zeros first.

    Each number is written in characters of six bits, low five first, the sixth saying that more follow; from the third run on it is the
    difference to the run two before.

    Raises:
        ValueError: the text is no such mask.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 60:
            raise ValueError(f"'{character}' cannot stand in a mask")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        if len(counts) > 2:
            value += counts[-2]
        if value < 0:
            raise ValueError("a run has a negative length")
        counts.append(value)
        value = shift = 0
    if shift:
        raise ValueError("the mask breaks off")
    return counts


def box_of(size: Sequence[int], counts: str | Sequence[int]) -> tuple[int, int, int, int] | None:
    """The tight box (left, top, width, height) of a mask; None if the mask is empty.

    Args:
        size: height and width.
        counts: compressed text, or lengths of runs.

    Raises:
        ValueError: the runs do not add up to the size.
    """
    height, width = size
    runs = decode_counts(counts) if isinstance(counts, str) else [int(count) for count in counts]
    if height < 1 or width < 1 or sum(runs) != height * width:
        raise ValueError(f"runs of {sum(runs)} pixels in a mask of {height} x {width}")
    left, top, right, bottom = width, height, -1, -1
    position = 0
    for number, run in enumerate(runs):
        if number % 2 and run:
            first_column, first_row = divmod(position, height)
            last_column, last_row = divmod(position + run - 1, height)
            if first_column < last_column:
                first_row, last_row = 0, height - 1
            left, right = min(left, first_column), max(right, last_column)
            top, bottom = min(top, first_row), max(bottom, last_row)
        position += run
    return None if right < 0 else (left, top, right - left + 1, bottom - top + 1)
