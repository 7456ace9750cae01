"""Prompts of inference against samples of training; pictures in every form; what does not fit."""

from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers import ENCODING, png, png_that_says
from tests.models import VISION, micro_loaded
from unmask.data.conversation import Conversation, ImageSlot, MicroConditions, Turn
from unmask.data.encode import Encoder
from unmask.data.images import decode
from unmask.data.order import Draw
from unmask.data.preprocess import PREPROCESS_FUNCTIONS
from unmask.data.records import Mixture, Source
from unmask.data.tiles import TilingConfig
from unmask.data.tokenize import Role
from unmask.errors import ConfigError, ImageError, StorageError
from unmask.infer import answering, pointing
from unmask.infer.answering import questions_of
from unmask.infer.inputs import PromptBuilder, check_room, open_pictures
from unmask.infer.pointing import GroundingConfig, Search
from unmask.randomness import keyed_generator

TILING = TilingConfig(tile=VISION.image_size, pooled=VISION.pooled)


class Keyed:
    """As much of a mixture as an encoder sees."""

    def generator(self, draw: Draw, purpose: str) -> np.random.Generator:
        return keyed_generator(7, str(draw), purpose)


def trained(conversation: Conversation, blobs: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Ids and roles of the training sample."""
    encoder = Encoder(replace(ENCODING, vision=TILING, condition_drop=1.0, picture_tokens=16))
    sample = encoder.encode(cast(Mixture, Keyed()), Draw("g", 0), Source("set", "rows.parquet", 0), conversation, blobs)
    return sample.ids_L, sample.roles_L


def of_row(name: str, row: dict[str, Any], **arguments: Any) -> Conversation:
    return PREPROCESS_FUNCTIONS.get(name).function(row, np.random.default_rng(0), **arguments)


BOX = "<LOC_BEGIN><LOC_300><LOC_200><LOC_700><LOC_640><LOC_END>"
ROWS = {
    "understanding": {
        "image": "a.png",
        "conversations": [{"from": "human", "value": "What is this?"}, {"from": "gpt", "value": "Noise."}],
    },
    "llava": {
        "image": ["a.png", "b.png"],
        "conversations": [{"from": "human", "value": "<image> or <image>?"}, {"from": "gpt", "value": "Both."}],
    },
    "referring_expression": {"s3_path": "a.png", "label": "the red circle", "loc_string": BOX},
    "text_to_image": {"s3_path": "a.png", "caption": "A cat on a mat."},
    "edit": {"input_paths": "a.png", "output_paths": "b.png", "instruction": "Make it blue."},
    "edit_with_plan": {"input_paths": "a.png", "output_paths": "b.png", "instruction": "Make it blue.", "grounding_text": BOX},
}


@pytest.mark.parametrize("name", ROWS)
def test_a_prompt_is_the_training_sample_up_to_the_answer(name: str) -> None:
    """Ids and roles, of the whole sample and of one whose answer is still to come."""
    blobs = {"a.png": png(1, 40, 30), "b.png": png(2, 20, 20)}
    conversation = of_row(name, ROWS[name])
    ids, roles = trained(conversation, [blobs[slot.url] for slot in conversation.images()])
    builder = PromptBuilder(micro_loaded())
    pictures = {url: decode(blob, target=None) for url, blob in blobs.items()}
    said = [""] * sum(isinstance(part, MicroConditions) for turn in conversation.turns for part in turn.parts)
    whole = builder.build(conversation.turns, pictures, conditions=said)
    assert np.array_equal(whole.ids_L, ids) and np.array_equal(whole.roles_L, roles)
    asked = builder.build((*conversation.turns[:-1], Turn("gpt", ())), pictures, conditions=said)
    assert np.array_equal(asked.ids_L, ids[: len(asked)]) and np.array_equal(asked.roles_L, roles[: len(asked)])
    assert len(asked) == np.flatnonzero(np.isin(roles, (Role.ANSWER, Role.PICTURE)))[0]


@pytest.mark.parametrize("pictures", [0, 1, 2])
def test_questions_are_asked_as_in_training(pictures: int) -> None:
    """Without pictures, about one, about several; a row of any function that stores conversations."""
    blobs = [png(1, 40, 30), png(2, 20, 20)][:pictures]
    ask = {"from": "human", "value": "<image>\n" * pictures + "What is this?"}
    row = {"image": ["a.png", "b.png"][:pictures] or None, "conversations": [ask, {"from": "gpt", "value": "Noise."}]}
    ids, roles = trained(of_row("understanding", row), blobs)
    (question,) = questions_of(blobs, "What is this?")
    asked = answering.prompt(PromptBuilder(micro_loaded()), question, Turn("gpt", ()))
    first = np.flatnonzero(roles == Role.ANSWER)[0]
    assert np.array_equal(asked.ids_L, ids[:first]) and np.array_equal(asked.roles_L, roles[:first])


@pytest.mark.parametrize("way", ["each", "all"])
def test_phrases_are_asked_as_in_training(way: pointing.Asking) -> None:
    """As referring expressions, or as dense captions: all but the coordinates is the same."""
    blob, first = png(1, 40, 30), micro_loaded().chat.vocab.location_first
    said = f"There are following objects in the scene. <box_p> the red circle </box_p>{BOX}"
    dense = of_row("dense_grounding", {"s3_path": "a.png", "loc_caption": said})
    row = of_row("referring_expression", ROWS["referring_expression"]) if way == "each" else dense
    ids, _ = trained(row, [blob])
    search, picture = Search(blob, ("the red circle",)), decode(blob, target=None)
    asked = pointing._prompt(PromptBuilder(micro_loaded()), search, picture, GroundingConfig(ask=way))
    is_place = (ids >= first) & (ids < first + 1025)
    assert np.array_equal(np.where(is_place, first, ids), asked.ids_L) and is_place.sum() == 4


def test_features_and_references_stand_where_training_puts_them() -> None:
    """Against the embeddings of the model's own forward pass."""
    from unmask.data.batch import Batch
    from unmask.diffusion.corruption import CorruptionConfig
    from unmask.train.step import Objective, corrupt

    parts = micro_loaded()
    blobs = [png(1, 40, 30), png(1, 40, 30), png(2, 20, 20)]
    conversation = of_row("edit", ROWS["edit"])
    encoder = Encoder(replace(ENCODING, vision=TILING, condition_drop=1.0, picture_tokens=16, image_mode="exact"))
    sample = encoder.encode(cast(Mixture, Keyed()), Draw("g", 0), Source("set", "rows.parquet", 0), conversation, blobs)
    none = CorruptionConfig(prompt_drop=0.0, reference_drop=0.0)
    objective = Objective(none, True, True, parts.chat.vocab.mask, 0)
    inputs = corrupt(Batch.pack([sample]), parts.image_tokenizer, objective, torch.device("cpu")).inputs
    assert inputs.sight is not None and inputs.drawn_D is not None
    pictures = {"a.png": decode(blobs[0], target=None), "b.png": decode(blobs[2], target=None)}
    prompt = PromptBuilder(parts).build(conversation.turns, pictures)
    mask_D = parts.model.text_embedding.weight[parts.chat.vocab.mask]
    condition = prompt.condition(prompt.places.nothing, mask_D)
    words_TD = parts.model.vision.place(parts.model.text_embedding(inputs.text_ids_T), inputs.sight)
    seen_T = inputs.text_ids_T != parts.chat.vocab.mask
    assert torch.allclose(condition.text_TD[seen_T], words_TD[seen_T], atol=1e-5)
    assert condition.references_RPQ is not None and condition.is_reference_L is not None
    assert torch.equal(condition.references_RPQ[0], inputs.codes_BPQ[1 - int(inputs.drawn_D)])
    assert int(condition.is_gen_L.sum()) == 32 and int(condition.is_reference_L.sum()) == 16


def test_text_is_decoded_without_references() -> None:
    parts = micro_loaded()
    turns = of_row("edit", ROWS["edit"]).turns
    picture = decode(png(1, 40, 30), target=None)
    mask_D = parts.model.text_embedding.weight[parts.chat.vocab.mask]
    asked = PromptBuilder(parts).build((turns[0], Turn("gpt", ())), {"a.png": picture})
    text = asked.for_text(mask_D).embeddings_PD
    assert np.array_equal((text == mask_D).all(-1).numpy(), asked.roles_L == Role.REFERENCE)


def test_a_picture_in_every_form(tmp_path: Path) -> None:
    blob = png(3, 30, 20)
    (tmp_path / "a.png").write_bytes(blob)
    pixels = np.asarray(Image.open(BytesIO(blob)))
    forms: list[Any] = [
        str(tmp_path / "a.png"),
        tmp_path / "a.png",
        f"file://{tmp_path}/a.png",
        blob,
        Image.open(BytesIO(blob)),
        pixels,
    ]
    forms.append(decode(blob, target=None))
    for opened in open_pictures(forms):
        assert opened.original_size == (30, 20) and np.array_equal(np.asarray(opened.image), pixels)


def test_turned_and_clear_pictures(tmp_path: Path) -> None:
    turned, exif = Image.fromarray(np.arange(600, dtype=np.uint8).reshape(20, 30)), Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "a.jpg", exif=exif)
    whole, loaded = open_pictures([tmp_path / "a.jpg", Image.open(tmp_path / "a.jpg")])
    assert whole.original_size == loaded.original_size == whole.image.size == (20, 30)
    assert whole.image.tobytes() == loaded.image.tobytes()
    (clear,) = open_pictures([np.zeros((4, 5, 4), dtype=np.uint8)])
    assert clear.image.getpixel((0, 0)) == (255, 255, 255) and clear.image.size == (5, 4)


def test_pictures_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "cut.png").write_bytes(png(3)[:400])
    with pytest.raises(StorageError, match=r"nothing.png: "):
        open_pictures([tmp_path / "nothing.png"])
    with pytest.raises(ImageError, match=r"cut.png: cannot be decoded"):
        open_pictures([tmp_path / "cut.png"])
    with pytest.raises(ImageError, match="picture: the file is empty"):
        open_pictures([b""])
    with pytest.raises(ImageError, match="picture 2: is not a picture of a known kind"):
        open_pictures([png(1), b"what is this?"])
    with pytest.raises(ImageError, match="over the bound"):
        open_pictures([png_that_says(100_000, 100_000)])
    with pytest.raises(ImageError, match=r"is an array \(4, 4\) of float64, and pixels are uint8 .*; scale it to 0...255"):
        open_pictures([np.zeros((4, 4))])
    with pytest.raises(ImageError, match=r"is an array \(0, 4, 3\) without pixels"):
        open_pictures([np.zeros((0, 4, 3), dtype=np.uint8)])
    with pytest.raises(ImageError, match="picture: is of type int; give a path, an address"):
        open_pictures(cast(Any, [5]))


def test_what_does_not_fit() -> None:
    ask = (Turn("human", (ImageSlot("image", "a"), "\nWhat?")), Turn("gpt", ()))
    pictures = {"a": decode(png(1), target=None)}
    with pytest.raises(ConfigError, match="question 2 has a picture to read, and the model reads none .*; take a model with"):
        PromptBuilder(micro_loaded(vision=None)).build(ask, pictures, what="question 2")
    small = replace(micro_loaded(), max_length=20)
    with pytest.raises(ConfigError, match="the prompt takes .* tokens; the model has room for 20; say less, or give fewer"):
        PromptBuilder(small).build(ask, pictures)
    with pytest.raises(ConfigError, match="it takes 40 tokens, and its answer 20 more; .* or lower max_new_tokens"):
        check_room(40, 50, "it", 20)
    edit = of_row("edit", ROWS["edit"]).turns
    with pytest.raises(ConfigError, match="has references of 16x16 pixels, and draws another shape"):
        PromptBuilder(micro_loaded()).build(edit, {"a.png": pictures["a"]}, grid=(4, 8))
