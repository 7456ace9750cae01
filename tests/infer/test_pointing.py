"""Boxes: batches, steps, temperature, back on the picture as it was given, prompts of training, errors."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers import png
from tests.models import micro_loaded
from unmask.data.boxes import Box as Placed
from unmask.data.images import decode
from unmask.errors import ConfigError
from unmask.infer import pointing
from unmask.infer.inputs import PromptBuilder, states_at
from unmask.infer.pipelines import LoadedModel
from unmask.infer.pointing import GroundingConfig, Search
from unmask.prepare.boxes import Box, quantise

WIDE, TALL = png(1, 60, 20), png(2, 15, 47)
PHRASES = ["the red circle", "a blue square on the left of it", "it"]


@given(st.integers(1, 3000), st.integers(1, 3000), st.lists(st.floats(0, 1), min_size=4, max_size=4))
def test_coordinates_lead_back_to_the_picture(width: int, height: int, shares: list[float]) -> None:
    """From pixels to coordinates and back: at most half a coordinate away."""
    (left, right), (top, bottom) = sorted(shares[:2]), sorted(shares[2:])
    box = Box(left * width, top * height, right * width, bottom * height)
    x0, y0, x1, y1 = quantise(box, width, height)
    back = Placed((x0, y0, x1, y1), "").pixels(width, height)
    assert np.abs(np.subtract(back, box)).max() <= 0.5 * max(width, height) / 1024 + 1e-6


@pytest.mark.parametrize(
    "config", [GroundingConfig(steps=steps, temperature=t) for steps in (1, 2, 4) for t in (0.0, 0.8)], ids=str
)
@pytest.mark.parametrize("ask", ["each", "all"])
def test_boxes_do_not_depend_on_their_batch(config: GroundingConfig, ask: pointing.Asking) -> None:
    model, config = micro_loaded(), replace(config, ask=ask)
    together = model.ground([WIDE, TALL], [PHRASES, PHRASES[:2]], config)
    assert [[each.phrase for each in boxes] for boxes in together] == [PHRASES, PHRASES[:2]]
    again = model.ground([WIDE, TALL], [PHRASES, PHRASES[:2]], config, batch_size=2)
    alone = [model.ground(TALL, PHRASES[:2], config, numbers=[3])[0]]
    for one, other in ((together[0], again[0]), (together[1], again[1]), (together[1], alone[0])):
        assert [each.places for each in one] == [each.places for each in other]
        assert np.allclose([each.confidence for each in one], [each.confidence for each in other])
    for (width, height), boxes in zip(((60, 20), (15, 47)), together, strict=True):
        for each in boxes:
            x0, y0, x1, y1 = each.places
            assert 0 <= x0 <= x1 <= 1024 and 0 <= y0 <= y1 <= 1024 and 0 < each.confidence < 1
            left, top, right, bottom = each.box
            assert 0 <= left <= right <= width and 0 <= top <= bottom <= height


@torch.no_grad()
def test_four_steps_are_the_plain_loop() -> None:
    """One coordinate a step, the surest of those that are left, each seen by the next step."""
    model = micro_loaded()
    (found,) = model.ground(WIDE, PHRASES[0], GroundingConfig(steps=4))
    search, config = Search(WIDE, (PHRASES[0],)), GroundingConfig()
    prompt = pointing._prompt(PromptBuilder(model), search, decode(WIDE, target=None), config)
    first = model.chat.vocab.location_first
    places = np.flatnonzero(prompt.ids_L == first).tolist()
    rows, left, values = prompt.embeddings_LD.clone(), dict(enumerate(places)), [0, 0, 0, 0]
    rows[places] = model.mask_embedding
    while left:
        logits = model.model.text_head(states_at(model.model, [rows], [torch.tensor(list(left.values()))]))
        p = logits[:, first : first + 1025].softmax(-1)
        surest = int(p.max(-1).values.argmax())
        corner, place = list(left.items())[surest]
        values[corner] = int(p[surest].argmax())
        rows[place] = model.model.text_embedding.weight[first + values[corner]]
        del left[corner]
    x0, y0, x1, y1 = values
    assert found[0].places == (min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1))


def plain_rows(model: LoadedModel, phrase: str) -> tuple[torch.Tensor, list[int]]:
    """The embeddings of a prompt, and where its four coordinates stand."""
    prompt = pointing._prompt(PromptBuilder(model), Search(WIDE, (phrase,)), decode(WIDE, target=None), GroundingConfig())
    places = np.flatnonzero(prompt.ids_L == model.chat.vocab.location_first).tolist()
    rows = prompt.embeddings_LD.clone()
    rows[places] = model.mask_embedding
    return rows, places


def logits_at(model: LoadedModel, rows: torch.Tensor, places: list[int]) -> torch.Tensor:
    """Logits of all words at some places."""
    return model.model.text_head(states_at(model.model, [rows], [torch.tensor(places)]))


@torch.no_grad()
def test_all_words_as_published() -> None:
    """A random model seldom says a coordinate: then there is no box; one that says nothing else has the box of the coordinates alone."""
    model = micro_loaded()
    rows, places = plain_rows(model, "it")
    said = logits_at(model, rows, places).argmax(-1)
    first = model.chat.vocab.location_first
    assert not ((said >= first) & (said < first + 1025)).all()
    ((none,),) = model.ground(WIDE, "it", GroundingConfig(all_words=True))
    assert (none.box, none.places, none.confidence) == ((0.0, 0.0, 0.0, 0.0), (0, 0, 0, 0), 0.0)
    others = torch.ones(len(model.model.text_head.weight), dtype=torch.bool)
    others[first : first + 1025] = False
    model.model.text_head.weight[others] = 0
    ((alone,),), ((free,),) = (model.ground(WIDE, "it", GroundingConfig(all_words=each)) for each in (False, True))
    assert alone.places == free.places and 0 < free.confidence < alone.confidence


@torch.no_grad()
@pytest.mark.parametrize("steps", [2, 4])
def test_two_by_logit_as_published(steps: int) -> None:
    """Two passes of two coordinates, those with the largest logits, however many steps are asked for; a corner stays where it was said."""
    model, phrase = micro_loaded(), PHRASES[0]
    rows, places = plain_rows(model, phrase)
    first, values, left = model.chat.vocab.location_first, [0, 0, 0, 0], [0, 1, 2, 3]
    for _ in range(2):
        logits = logits_at(model, rows, [places[corner] for corner in left])[:, first : first + 1025]
        for row in logits.max(-1).values.topk(2).indices.tolist():
            values[left[row]] = int(logits[row].argmax())
        left = [corner for corner in left if values[corner] == 0]
        for corner in set(range(4)) - set(left):
            rows[places[corner]] = model.model.text_embedding.weight[first + values[corner]]
    ((found,),) = model.ground(WIDE, phrase, GroundingConfig(steps=steps, two_by_logit=True, unordered=True))
    assert found.places == tuple(values)


@torch.no_grad()
def test_corners_as_they_were_said() -> None:
    model = micro_loaded()
    for seed in range(8):
        configs = (GroundingConfig(temperature=1.0, seed=seed, unordered=each) for each in (True, False))
        ((said,),), ((ordered,),) = (model.ground(WIDE, "it", config) for config in configs)
        x0, y0, x1, y1 = said.places
        assert ordered.places == (min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1))
        if said.places != ordered.places:
            return
    raise AssertionError("every box was said in order: nothing was tested")


@torch.no_grad()
def test_a_stray_quote_as_published() -> None:
    model, phrase = micro_loaded(), PHRASES[0]
    rows, places = plain_rows(model, phrase)
    ids = model.chat.tokenizer.encode("'", add_special_tokens=False).ids
    rows = torch.cat([model.model.text_embedding.weight[ids], rows])
    first = model.chat.vocab.location_first
    values = logits_at(model, rows, [place + len(ids) for place in places])[:, first : first + 1025].argmax(-1)
    ((found,),) = model.ground(WIDE, phrase, GroundingConfig(stray_quote=True, unordered=True))
    assert found.places == tuple(values.tolist())


def test_seeds_draw_other_boxes() -> None:
    model = micro_loaded()
    one, other, likeliest = (
        model.ground(WIDE, "it", GroundingConfig(temperature=temperature, seed=seed))[0][0].places
        for temperature, seed in ((1.0, 0), (1.0, 1), (0.0, 0))
    )
    assert len({one, other, likeliest}) == 3


def test_what_is_asked() -> None:
    """The words of training; those of the published evaluation on request."""
    model = micro_loaded()
    picture = decode(WIDE, target=None)
    form = "<LOC_BEGIN><LOC_0><LOC_0><LOC_0><LOC_0><LOC_END>"

    def said(**settings: Any) -> str:
        config = GroundingConfig(**settings)
        builder = PromptBuilder(model, config.published_words)
        prompt = pointing._prompt(builder, Search(WIDE, ("a cat", "<LOC_5>")), picture, config)
        ids = prompt.ids_L[prompt.ids_L != model.chat.vocab.image_features]
        return str(model.chat.tokenizer.decode(ids.tolist(), skip_special_tokens=False)).split("<|eot_id|>", 1)[1]

    user, gpt = "<|start_header_id|>user<|end_header_id|>\n\n", "<|start_header_id|>assistant<|end_header_id|>\n\n"
    assert said() == (
        f"{user}\n Please locate a cat in this image. Give bounding boxes in LOC format.<|eot_id|>{gpt}{form}<|eot_id|>"
    )
    both = f"There are following objects in the scene. <box_p> a cat </box_p>{form}, <box_p> <LOC_5> </box_p>{form}<|eot_id|>"
    assert said(ask="all") == (f"{user}\n Generate a dense image caption with bounding boxes in LOC format.<|eot_id|>{gpt}{both}")
    assert said(ask="all", published_words=True) == (
        f"{user}\n Please describe this image with dense localized caption. Give bounding boxes in LOC format.<|eot_id|>{gpt}{both}{gpt}"
    )


def test_a_phrase_that_spells_a_coordinate_is_words() -> None:
    (boxes,) = micro_loaded().ground(WIDE, ["<LOC_0>", "it"], GroundingConfig(ask="all"))
    assert len(boxes) == 2


def test_errors() -> None:
    model = micro_loaded()
    with pytest.raises(ConfigError, match="phrase 2 is empty; say what to find"):
        model.ground(WIDE, ["a cat", " "])
    with pytest.raises(ConfigError, match="there are 2 pictures and 3 lists of phrases; give as many of both"):
        model.ground([WIDE, TALL], [["a"], ["b"], ["c"]])
    with pytest.raises(ConfigError, match="phrase 1 has a picture to read, and the model reads none"):
        micro_loaded(vision=None).ground(WIDE, "a cat")
    with pytest.raises(ConfigError, match="2 phrases together takes .* tokens; the model has room for 20"):
        replace(model, max_length=20).ground(WIDE, ["a", "b"], GroundingConfig(ask="all"))
    for settings, said in (
        ({"steps": 0}, "steps=0: the four coordinates of a box are read in 1, 2 or 4 steps"),
        ({"steps": 3}, "steps=3: the four coordinates"),
        ({"temperature": -1}, "temperature=-1: must be 0 or more"),
        ({"ask": "al"}, "unknown ask 'al'; did you mean 'all'"),
        ({"published_words": True}, "published_words are those of ask=all"),
    ):
        with pytest.raises(ConfigError, match=said):
            GroundingConfig(**settings)  # type: ignore[arg-type]
