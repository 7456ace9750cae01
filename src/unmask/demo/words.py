"""How the text tokenizer of the tiny model is made: `python -m unmask.demo.words OUT` (a second).

A byte-level BPE, so that any text can be said, whose pieces are the fixed phrases of our prompts, words with their leading space, single
digits and punctuation. A fixed phrase is one token: a sample of the demo is some sixty tokens long, and a processor can train on it.
"""

import re
import sys
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from unmask.data.tokenize import SYSTEM_TEXT
from unmask.demo.scenes import all_scenes, caption
from unmask.vocab import NUM_LOCATIONS, TOKENS

PHRASES = (
    SYSTEM_TEXT,
    "Generate an image with the caption:",
    " ORIGINAL WIDTH : ",
    "; ORIGINAL HEIGHT : ",
    "; TOP : ",
    "; LEFT : ",
    "; LUMINANCE : 0.",
    "; CONTRAST : 0.",
    "; SCORE : ",
    "; HPS : ",
    " . Please first think and plan the layout in LOC format.",
    "Sure I should place the objects in the following manner ",
    "Sure ",
    "Generate a dense image caption with bounding boxes in LOC format.",
    "Please locate the",
    " in this image. Give bounding boxes in LOC format.",
    "Please evaluate this generated image based on the following prompt:",
    " Focus on text alignment and compositionality.",
    "This image is correct.",
    "This image is wrong.",
    "Describe this image.",
    "What color is the",
    "What shape is the",
    "How many",
    "Is there",
    "What is",
    "  paint the",
    "  turn the",
)
COMMON = """
a an the and or of in on at by to with without from for over under near into out up down left right above below behind between inside
one two three four five six seven eight nine ten first last small big large little tiny tall short long round flat open closed
red orange yellow green blue purple pink brown black white grey gray gold silver dark light bright pale medium skin tone
circle square triangle star heart line dot cross arrow ring ball box sign symbol flag button mark letter number
face head hand hands finger eye eyes mouth nose ear hair tongue tear tears smile smiling grinning laughing crying kissing winking
happy sad angry tired sleepy surprised worried confused calm neutral raised broken crossed folded pointing waving
man woman boy girl person people child baby family dog cat bird fish horse monkey bear mouse rabbit
sun moon cloud rain snow fire water tree flower leaf fruit apple bread cake cup house car train ship bike plane
clock phone book pen key lock tool music note game hat shirt shoe bag glasses ribbon sparkles
picture image photo drawing scene thing things zero yes no background foreground is are has have not this that there what where which how many
"""
ANSWERS = "yes no zero one two thing things circles squares triangles are there the is it"
"""What questions about scenes are answered with and ask for, each a token like the words of the captions."""
VOCABULARY_SIZE = 1024
"""Bytes and merges; special and coordinate tokens come on top."""


def build() -> Tokenizer:
    """Train the tokenizer; the same every time."""
    tokenizer = Tokenizer(models.BPE())
    phrases = "|".join(re.escape(phrase) for phrase in PHRASES)
    pieces = Regex(rf"{phrases}| ?[A-Za-z]+|[0-9]| ?[^\sA-Za-z0-9]+|\s+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(pieces, behavior="isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False, min_frequency=1
    )
    words = [f" {word}" for word in COMMON.split()]
    lines = [phrase for phrase in PHRASES for _ in range(2000)] + [" " + caption(scene) for scene in all_scenes()]
    lines += [word for answer in ANSWERS.split() for word in (answer, f" {answer}")] * 100
    lines += [word for scene in all_scenes() for word in (scene.first.colour, scene.first.shape)]
    lines += words * 20 + [word.strip() for word in words] * 5 + ["\n\n", "\n", "\n ", "user", "assistant", "system"] * 2000
    tokenizer.train_from_iterator(lines, trainer)
    tokenizer.add_special_tokens(
        [AddedToken(text, normalized=False) for name, text in TOKENS.items() if name != "location_first"]
    )
    tokenizer.add_tokens([AddedToken(f"<LOC_{number}>", normalized=False) for number in range(NUM_LOCATIONS)])
    return tokenizer


if __name__ == "__main__":
    build().save(str(Path(sys.argv[1]) / "tokenizer.json"))
