"""Conversations of every kind -> samples: tiles, references, padding, conditions, edits, and what is refused."""

from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

from tests.helpers import ENCODING, png
from unmask.data import images
from unmask.data.batch import Batch
from unmask.data.conversation import Conversation, ImageSlot, Located, MicroConditions, Turn, Undrawn
from unmask.data.encode import Encoder, EncodingConfig, PictureEncoder
from unmask.data.order import Draw
from unmask.data.records import Mixture, Source
from unmask.data.tiles import NEWLINE, TilingConfig, anyres, cut_tiles, single
from unmask.data.tokenize import Role, SampleTooLong, TokenSample
from unmask.errors import ConfigError, RowError
from unmask.randomness import keyed_generator

VISION = TilingConfig(tile=16, pooled=2)
CONFIG = replace(ENCODING, vision=VISION, code_pixels=2, condition_drop=0.0, image_mode="exact")
READ, REFERENCE, DRAW = "image", "image_gen_enc", "image_gen"


class Keyed:
    """As much of a mixture as an encoder sees."""

    def generator(self, draw: Draw, purpose: str) -> np.random.Generator:
        return keyed_generator(7, str(draw), purpose)


def slot(kind: Any, number: int = 0) -> ImageSlot:
    return ImageSlot(kind, f"pictures/p{number}.png")


def encode(
    turns: Sequence[Turn], blobs: Sequence[bytes], config: EncodingConfig = CONFIG, number: int = 0, **options: Any
) -> TokenSample:
    conversation = Conversation("set/0", tuple(turns), **options)
    mixture = cast(Mixture, Keyed())
    return Encoder(config).encode(mixture, Draw("g", number), Source("set", "rows.parquet", 0), conversation, blobs)


def said(sample: TokenSample, role: Role | None = None) -> str:
    ids = sample.ids_L if role is None else sample.ids_L[sample.roles_L == role]
    return str(Encoder(CONFIG).chat.tokenizer.decode(ids.tolist(), skip_special_tokens=False))


def runs(sample: TokenSample) -> list[tuple[Role, int]]:
    """The runs of picture tokens in order."""
    starts = np.flatnonzero(np.diff(sample.roles_L, prepend=255))
    lengths = np.diff(np.append(starts, len(sample)))
    pairs = [(Role(sample.roles_L[start]), int(length)) for start, length in zip(starts, lengths, strict=True)]
    return [(role, length) for role, length in pairs if role >= Role.PICTURE]


def opened(blob: bytes) -> Image.Image:
    return images.decode(blob, target=None).image


ASK = Turn("human", (slot(READ), "\n What is this?"))
EDIT = (
    Turn("human", (slot(READ), " ", slot(REFERENCE), "  Make it blue. ", MicroConditions(6.5, 0.3))),
    Turn("gpt", ("Sure ", slot(DRAW, 1))),
)


@pytest.mark.parametrize("size", [(40, 30), (30, 40), (90, 20), (9, 9)])
def test_a_picture_to_read(size: tuple[int, int]) -> None:
    blob = png(1, *size)
    sample = encode([ASK, Turn("gpt", ("Noise.",))], [blob])
    layout = anyres(size, VISION)
    assert sample.layouts == (layout,) and runs(sample) == [(Role.FEATURE, layout.num_tokens)]
    assert np.array_equal(sample.tiles[0], cut_tiles(opened(blob), size, layout, VISION))
    features = sample.roles_L == Role.FEATURE
    vocab = Encoder(CONFIG).chat.vocab
    assert (sample.ids_L[features] == vocab.image_features).all() and not (sample.ids_L[~features] == vocab.image_features).any()
    assert said(sample, Role.ANSWER) == "Noise.<|eot_id|>" and not sample.pictures and not sample.references
    assert "user<|end_header_id|>\n\n<|reserved_token_9|>" in said(sample) and "\n What is this?<|eot_id|>" in said(sample)
    assert layout.describe() in sample.describe() and f"{layout.num_tokens} feature" in sample.describe()


def test_pictures_that_are_read_together_are_padded() -> None:
    turns = [Turn("human", (slot(READ), "\n", slot(READ, 1), "\nCompare.")), Turn("gpt", ("Alike.",))]
    blobs = [png(1, 40, 30), png(2, 10, 50)]
    sample = encode(turns, blobs)
    assert sample.layouts == (single(VISION),) * 2 and runs(sample) == [(Role.FEATURE, 5), (Role.FEATURE, 5)]
    assert [tiles.shape for tiles in sample.tiles] == [(1, 16, 16, 3)] * 2
    assert (sample.tiles[1][0, :, 0] == 127).all()
    batch = Batch.pack([sample])
    assert batch.features_F.tolist() == [0, 1, 2, 3, NEWLINE, 4, 5, 6, 7, NEWLINE]


def test_a_model_that_reads_nothing() -> None:
    with pytest.raises(ConfigError) as caught:
        encode([ASK, Turn("gpt", ("Noise.",))], [png()], replace(CONFIG, vision=None))
    assert str(caught.value) == (
        "set/rows.parquet/0: the model reads no pictures (it has no `vision`), but data set 'set' has some to read; "
        "take a model with a vision tower, or leave the data set out"
    )


def test_an_edit() -> None:
    """Read, then its codes, then the picture to draw; both squares are padded and no geometry is told."""
    blobs = [png(1, 40, 20), png(1, 40, 20), png(2, 20, 40)]
    sample = encode(EDIT, blobs, fit="pad")
    layout = anyres((40, 20), VISION)
    assert runs(sample) == [(Role.FEATURE, layout.num_tokens), (Role.REFERENCE, 4), (Role.PICTURE, 4)]
    assert (sample.ids_L[sample.roles_L == Role.REFERENCE] == Encoder(CONFIG).chat.vocab.image_reference).all()
    (reference,), (picture,) = sample.references, sample.pictures
    square = Image.new("RGB", (40, 40))
    square.paste(opened(blobs[0]), (0, 10))
    assert np.array_equal(reference, np.asarray(square.resize((16, 16), Image.Resampling.BICUBIC)))
    assert not reference[:3].any() and not picture[:, :3].any() and reference[5:11].any() and sample.edited_BPQ is None
    told = said(sample).partition("Make it blue. ")[2].partition("<|eot_id|>")[0]
    assert told.endswith("SCORE : 6.500; HPS : 3.000") and "WIDTH" not in told and "TOP" not in told
    assert said(sample, Role.ANSWER) == "Sure <|eot_id|>" and "1 references" in sample.describe()


def test_light_of_a_padded_picture_is_told() -> None:
    texts = {said(encode(EDIT, [png(1), png(1), png(2)], number=number, fit="pad")) for number in range(12)}
    assert any("blue. LUMINANCE : 0." in text for text in texts) and any("blue. SCORE : 6.5" in text for text in texts)


def test_several_references() -> None:
    sources = [part for number in range(3) for part in (slot(READ, number), " ", slot(REFERENCE, number), " ")]
    turns = [Turn("human", (*sources, "Put them together.")), Turn("gpt", ("Sure ", slot(DRAW, 3)))]
    blobs = [png(number) for number in (0, 0, 1, 1, 2, 2, 3)]
    sample = encode(turns, blobs, fit="pad")
    assert runs(sample) == [(Role.FEATURE, 5), (Role.REFERENCE, 4)] * 3 + [(Role.PICTURE, 4)]
    assert len({reference.tobytes() for reference in sample.references}) == 3


def test_a_picture_in_two_slots_is_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    decode = images.decode

    def counting(blob: bytes, **options: Any) -> images.Decoded:
        calls.append(options["target"])
        return decode(blob, **options)

    monkeypatch.setattr(images, "decode", counting)
    encode(EDIT, [png(1), png(1), png(2)], replace(CONFIG, image_size=16), fit="pad")
    assert calls == [32, 16]  # as large as the tiles may need; the picture to draw


def test_drafts_and_exact_pictures() -> None:
    """`exact` resizes in one step; `draft` shrinks large pictures first, which moves pixels a little and no token."""
    smooth = Image.fromarray(np.random.default_rng(0).integers(0, 256, (15, 20, 3), dtype=np.uint8)).resize((400, 300))
    out = BytesIO()
    smooth.save(out, "PNG")
    blobs = [out.getvalue()] * 3
    draft, exact = (encode(EDIT, blobs, replace(CONFIG, image_mode=mode), fit="pad") for mode in ("draft", "exact"))
    assert np.array_equal(exact.tiles[0], cut_tiles(smooth, (400, 300), anyres((400, 300), VISION), VISION))
    assert np.array_equal(exact.references[0], images.pad_to_square(smooth, 16))
    assert draft.layouts == exact.layouts and draft.roles_L.tolist() == exact.roles_L.tolist()
    for one, other in ((draft.tiles[0], exact.tiles[0]), (draft.references[0], exact.references[0])):
        assert 0 < np.abs(one.astype(int) - other).mean() < 3


def test_the_size_of_an_edit_is_told() -> None:
    from unmask.data.edits import pixel_difference

    blobs = [png(1), png(1), png(2)]
    sample = encode(EDIT, blobs, fit="pad", tells_pixel_diff=True)
    number = pixel_difference(sample.references[0], sample.pictures[0])
    assert number > 0 and f"HPS : 3.000; PIXEL_DIFF : {number:.3f} ;<|eot_id|>" in said(sample)
    same = encode(EDIT, [png(1)] * 3, fit="pad", tells_pixel_diff=True)
    assert "; PIXEL_DIFF : 0.000 ;<|eot_id|>" in said(same)


def test_edited_codes_are_marked() -> None:
    page = Image.new("RGB", (16, 16), "white")
    changed = page.copy()
    changed.paste("black", (0, 0, 8, 16))
    blobs = []
    for image in (page, page, changed):
        out = BytesIO()
        image.save(out, "PNG")
        blobs.append(out.getvalue())
    sample = encode(EDIT, blobs, fit="pad", edit_weighted=True)
    assert sample.edited_BPQ is not None and sample.edited_BPQ.shape == (1, 8, 8)
    assert sample.edited_BPQ[0, :, :5].all() and not sample.edited_BPQ[0, :, 5:].any()
    assert "62% of the codes edited" in sample.describe()
    plain = encode(EDIT, blobs, fit="pad")
    batch = Batch.pack([plain, sample])
    assert not batch.edited_BPQ[0].any() and np.array_equal(batch.edited_BPQ[1:], sample.edited_BPQ)


@pytest.mark.parametrize("option", ["edit_weighted", "tells_pixel_diff"])
def test_an_edit_without_its_source_is_refused(option: str) -> None:
    turns = [Turn("human", ("Draw.",)), Turn("gpt", (slot(DRAW),))]
    with pytest.raises(RowError, match="measured between a reference and a picture to draw that is padded"):
        encode(turns, [png()], fit="pad", **{option: True})
    with pytest.raises(RowError, match="measured between"):
        encode(EDIT, [png()] * 3, **{option: True})
    plan = [Turn("human", (slot(REFERENCE), "Plan.")), Turn("gpt", ("So ", Undrawn()))]
    assert not encode(plan, [png()], **{option: True}).pictures


def test_a_plan_that_is_not_drawn() -> None:
    """Its conditions are blank; the token that stands for the picture is said like any other."""
    ask = Turn("human", ("Generate: a cat ", MicroConditions(6.5), ". Plan."))
    sample = encode([ask, Turn("gpt", ("Sure ", Located("cat <LOC_BEGIN><LOC_1><LOC_END>"), " ", Undrawn()))], [])
    assert "Generate: a cat . Plan.<|eot_id|>" in said(sample) and not sample.pictures and not runs(sample)
    assert said(sample, Role.ANSWER) == "Sure cat <LOC_BEGIN><LOC_1><LOC_END> <|reserved_token_7|><|eot_id|>"


def test_several_pictures_to_draw() -> None:
    """Each with conditions of its own, crops in order."""
    ask = Turn("human", ("One ", MicroConditions(1.0), " two ", MicroConditions(2.0)))
    turns = [ask, Turn("gpt", (slot(DRAW), " and ", slot(DRAW, 1)))]
    sample = encode(turns, [png(1, 30, 20), png(2, 20, 50)])
    assert runs(sample) == [(Role.PICTURE, 4)] * 2 and len(sample.pictures) == 2
    first, second = said(sample).partition(" two ")[::2]
    assert "WIDTH : 30; ORIGINAL HEIGHT : 20" in first and "SCORE : 1.000" in first
    assert "WIDTH : 20; ORIGINAL HEIGHT : 50" in second and "SCORE : 2.000" in second


def test_the_rate_of_visible_text_travels() -> None:
    turns = [Turn("human", ("Draw.",)), Turn("gpt", ("A plan ", slot(DRAW)))]
    one, other = encode(turns, [png()], visible_text_rate=0.8), encode(turns, [png()])
    assert Batch.pack([one, other]).visible_text_S.tolist() == [0.8, 0.0]
    assert "answer visible at 80%" in one.describe() and "visible" not in other.describe()


def test_too_long_is_refused_whole() -> None:
    turns = [ASK, Turn("gpt", ("Noise.",))]
    tokens = len(encode(turns, [png(1, 40, 30)]))
    encode(turns, [png(1, 40, 30)], replace(CONFIG, max_length=tokens))
    with pytest.raises(SampleTooLong, match=f"has {tokens} tokens, more than max_length={tokens - 1}") as caught:
        encode(turns, [png(1, 40, 30)], replace(CONFIG, max_length=tokens - 1))
    assert caught.value.reason == "too-long"


def test_a_batch_of_all_kinds() -> None:
    understanding = encode([ASK, Turn("gpt", ("Noise.",))], [png(3, 40, 30)])
    edit = encode(EDIT, [png(1, 30, 12), png(1, 30, 12), png(2)], fit="pad")
    text = encode([Turn("human", ("Hi",)), Turn("gpt", ("Hello",))], [])
    batch = Batch.pack([understanding, edit, text, understanding])
    tiles = [layout.num_tiles for layout in (understanding.layouts[0], edit.layouts[0], understanding.layouts[0])]
    assert batch.tiles_S.tolist() == [tiles[0], tiles[1], 0, tiles[2]] and len(batch.tiles_NEE3) == sum(tiles)
    assert batch.references_S.tolist() == [0, 1, 0, 0] == batch.pictures_S.tolist()
    assert len(batch.features_F) == (batch.roles_T == Role.FEATURE).sum() and batch.features_per_tile == 4
    own, first = understanding.layouts[0].indices(), (tiles[0] + tiles[1]) * 4
    assert batch.features_F[-len(own) :].tolist() == [NEWLINE if one == NEWLINE else one + first for one in own.tolist()]
    assert f"tiles {batch.tiles_NEE3.shape}" in batch.describe() and "references (1, 16, 16, 3)" in batch.describe()
    alone = Batch.pack([text])
    assert len(alone.tiles_NEE3) == len(alone.references_RHW3) == len(alone.edited_BPQ) == len(alone.features_F) == 0
    assert "tiles" not in alone.describe()


def test_pictures_alone_for_an_image_tokenizer() -> None:
    """Every picture once, whatever it is for; the crop follows the draw; no tokens, however long the text."""
    config = EncodingConfig(tokenizer=None, image_size=16, picture_tokens=0, image_mode="exact")
    turns = [Turn("human", (slot(READ), "word " * 9000, slot(REFERENCE, 1))), Turn("gpt", (slot(DRAW, 2), slot(READ)))]
    blobs = [png(0), png(1), png(2), png(0)]
    mixture, source = cast(Mixture, Keyed()), Source("set", "rows.parquet", 0)

    def build(number: int, turns: Sequence[Turn], blobs: Sequence[bytes]) -> TokenSample:
        return PictureEncoder(config).encode(mixture, Draw("g", number), source, Conversation("set/0", tuple(turns)), blobs)

    sample = build(0, turns, blobs)
    assert len(sample) == 0 and [picture.shape for picture in sample.pictures] == [(16, 16, 3)] * 3
    rng = keyed_generator(7, str(Draw("g", 0)), "crop")
    for number, picture in enumerate(sample.pictures):
        whole = images.decode(png(number), target=16, mode="exact")
        assert np.array_equal(picture, images.random_crop(whole.image, 16, rng, whole.original_size).pixels_HW3)
    others = [build(number, turns, blobs).pictures[0] for number in range(1, 6)]
    assert any(not np.array_equal(sample.pictures[0], other) for other in others)
    batch = Batch.pack([sample, build(1, turns, blobs)])
    assert len(batch) == 2 and batch.pixels_BHW3.shape == (6, 16, 16, 3) and batch.pictures_S.tolist() == [3, 3]
    with pytest.raises(RowError, match="has no picture, and only pictures are learned from here"):
        build(0, [Turn("human", ("hi",)), Turn("gpt", ("hello",))], [])
    with pytest.raises(ValueError, match="text needs a tokenizer"):
        Encoder(config)


def test_answers_in_words_end_with_more_than_one_token() -> None:
    """Half of them, by the draw alone; targets all; as many as there is room for; nothing behind a picture."""
    turns, config = (ASK, Turn("gpt", ("Noise.",))), replace(CONFIG, eos_tokens=6)
    plain = encode(turns, [png(0)])
    eos = Encoder(CONFIG).chat.vocab.eos
    counts = []
    for number in range(200):
        sample = encode(turns, [png(0)], config, number)
        count = len(sample) - len(plain)
        assert sample.ids_L[: len(plain)].tolist() == plain.ids_L.tolist() and (sample.ids_L[len(plain) :] == eos).all()
        assert (sample.roles_L[len(plain) :] == Role.ANSWER).all()
        counts.append(count)
    assert set(counts) == set(range(7)) and 0.4 < np.mean([count == 0 for count in counts]) < 0.6
    assert [len(encode(turns, [png(0)], config, number)) - len(plain) for number in range(20)] == counts[:20]
    tight = replace(config, max_length=len(plain) + 2)
    assert max(len(encode(turns, [png(0)], tight, number)) for number in range(20)) == len(plain) + 2
    drawing = (Turn("human", ("Draw.",)), Turn("gpt", (slot(DRAW),)))
    assert all(eos not in encode(drawing, [png(0)], config, number).ids_L for number in range(10))
