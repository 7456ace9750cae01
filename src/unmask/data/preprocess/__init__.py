"""Row -> Conversation, by name. A function declares the columns it reads, which of them are pictures, and what it draws at random."""

from unmask.data.preprocess.base import (
    PREPROCESS_FUNCTIONS,
    Columns,
    Description,
    Example,
    Preprocess,
    Row,
    preprocess,
)
from unmask.data.preprocess.cells import number_of, text_of
from unmask.data.preprocess.find import find_preprocess
from unmask.data.preprocess.llava import from_llava

# Each registers its functions.
from unmask.data.preprocess import text_to_image, planning, grounding, understanding, editing  # isort: skip

__all__ = [
    "PREPROCESS_FUNCTIONS",
    "Columns",
    "Description",
    "Example",
    "Preprocess",
    "Row",
    "editing",
    "find_preprocess",
    "from_llava",
    "grounding",
    "number_of",
    "planning",
    "preprocess",
    "text_of",
    "text_to_image",
    "understanding",
]
