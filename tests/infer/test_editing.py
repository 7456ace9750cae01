"""Editing: conditions and their weights against a plain loop, masks code by code, batches, what cannot be edited."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.models import micro_loaded
from unmask.data.conversation import ImageSlot
from unmask.data.images import decode, from_memory
from unmask.data.preprocess.editing import edit_turns
from unmask.data.tokenize import Role
from unmask.diffusion.guidance import edit_weights
from unmask.diffusion.schedules import commit_counts
from unmask.diffusion.unmasking import stratified_order
from unmask.errors import ConfigError, ImageError
from unmask.infer.decoding import Painter
from unmask.infer.editing import EditConfig, may_change, picture_box
from unmask.infer.inputs import PromptBuilder
from unmask.infer.pipelines import LoadedModel
from unmask.model.transformer import Packing, Streams


def noise(seed: int, width: int = 16, height: int = 16) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def halves(width: int = 16, height: int = 16, white: tuple[int, int] = (0, 8)) -> Image.Image:
    """A mask whose columns between two places are white."""
    mask = np.zeros((height, width), dtype=np.uint8)
    mask[:, white[0] : white[1]] = 255
    return Image.fromarray(mask)


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return micro_loaded()


@torch.no_grad()
def plain_edit(
    model: LoadedModel, sources: list[Image.Image], words: str, config: EditConfig, lacking: list[set[Role]]
) -> np.ndarray:
    """Codes of the likeliest edit: each condition in a pass of its own over everything, weighed by the formula."""
    pictures = {f"source {number}": from_memory(each) for number, each in enumerate(sources, 1)}
    prompt = PromptBuilder(model).build(edit_turns(list(pictures), words, ""), pictures)
    net, mask = model.model, model.model.text_embedding.weight[model.chat.vocab.mask]
    weights = edit_weights(config.mode, config.guidance_text, config.guidance_image)
    codes, order, done = torch.full((1, 8, 8), 33), stratified_order(8, 42), 0
    for count in commit_counts(64, config.steps, "shift", 3.0):
        guided = torch.zeros(64, 32)
        for weight, roles in zip(weights, lacking, strict=True):
            gone = torch.from_numpy(np.isin(prompt.roles_L, list(roles)))
            reference = torch.from_numpy(prompt.roles_L == Role.REFERENCE) & ~gone
            is_gen = reference | torch.from_numpy(prompt.roles_L == Role.PICTURE)
            text = torch.where(gone[:, None], mask, prompt.embeddings_LD)[~is_gen]
            kept = prompt.references_RPQ if reference.any() else codes[:0]
            gen = net.code_embedding(torch.cat([kept, codes]), True)
            states = net.transformer(Streams(text, gen), Packing.build([is_gen]), text_wanted=True).gen[-16:]
            guided += weight * net.code_head(states, (8, 8), True, torch.arange(64))
        for place in order[done : done + count]:
            codes.view(-1)[place] = guided[place].argmax()
        done += count
    return codes[0].numpy()


PROMPT = {Role.PROMPT, Role.FEATURE, Role.REFERENCE}
SECOND = [{Role.PROMPT, Role.FEATURE}, {Role.REFERENCE}, {Role.REFERENCE, Role.FEATURE}, {Role.PROMPT}]


@pytest.mark.parametrize("mode", [0, 1, 2, 3])
@pytest.mark.parametrize("sources", [1, 2])
def test_an_edit_is_the_plain_loop(model: LoadedModel, mode: int, sources: int) -> None:
    config = EditConfig(steps=3, guidance_text=3.0, guidance_image=1.5, mode=mode, temperature=0.0, order_seed=42)
    pictures = [noise(seed) for seed in range(sources)]
    made = model.edit([pictures], ["make it blue"], config)[0]
    assert np.array_equal(made.codes_PQ, plain_edit(model, pictures, "make it blue", config, [set(), SECOND[mode], PROMPT]))


@pytest.mark.parametrize("mode", [0, 1, 2, 3])
def test_scales_of_1_are_the_plain_model_in_one_pass(model: LoadedModel, mode: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Conditions that weigh nothing are not run."""
    conditions, side = [], Painter._side
    monkeypatch.setattr(Painter, "_side", lambda painter, given: conditions.append(len(given)) or side(painter, given))
    config = EditConfig(steps=2, guidance_text=1.0, guidance_image=1.0, mode=mode, temperature=0.0, order_seed=42)
    made = model.edit(noise(0), "make it blue", config)[0]
    for text, image in ((3.0, 1.0), (3.0, 3.0), (3.0, 2.0)):
        model.edit(noise(0), "make it blue", EditConfig(steps=1, guidance_text=text, guidance_image=image))
    assert np.array_equal(made.codes_PQ, plain_edit(model, [noise(0)], "make it blue", config, [set(), set(), set()]))
    assert conditions == [1, 2, 2, 3]


def test_an_edit_does_not_depend_on_its_batch(model: LoadedModel) -> None:
    """Different sizes, one and two sources, with and without a mask."""
    images = [noise(1), [noise(2), noise(3, 20, 12)], noise(4, 12, 20), noise(5)]
    words = ["make it blue", "put the first on the second", "remove it", "add a very small red circle on the left"]
    masks = [None, None, halves(12, 20, (0, 4)), halves()]
    config = EditConfig(steps=4, guidance_text=2.5, guidance_image=1.5, temperature=1.0)
    together = model.edit(images, words, config, mask=masks, filmstrip=2)
    for number, each in enumerate(zip(images, words, masks, strict=True)):
        alone = model.edit([each[0]], [each[1]], config, mask=each[2], numbers=[number])[0]
        assert np.array_equal(alone.codes_PQ, together[number].codes_PQ)
        assert alone.image.tobytes() == together[number].image.tobytes() == together[number].frames[-1][1].tobytes()
    assert [each.image.size for each in together] == [(16, 16), (16, 16), (10, 16), (16, 16)]


@pytest.mark.parametrize("order", ["stratified", "halton", "confidence", "mask_git"])
def test_a_mask_keeps_the_codes_outside_bit_for_bit(model: LoadedModel, order: str) -> None:
    source, config = noise(7), EditConfig(steps=5, temperature=1.0, order=order)  # type: ignore[arg-type]
    codes = model.image_tokenizer.encode(torch.from_numpy(np.array(source))[None])[0].numpy()
    made = model.edit(source, "make it blue", config, mask=halves(white=(3, 6)))[0]
    free = np.zeros((8, 8), dtype=bool)
    free[:, 1:3] = True  # columns 3, 4, 5 of the picture, two to a code
    assert np.array_equal(made.codes_PQ[~free], codes[~free])
    assert (made.codes_PQ[free] != codes[free]).any() and made.codes_PQ.max() < 32
    counts = [count for count, _ in model.edit(source, "x", config, mask=halves(white=(3, 6)), filmstrip=9)[0].frames]
    assert counts == (48 + np.cumsum(commit_counts(16, 5, "shift", 3.0))).tolist()


def test_where_a_picture_stands_on_its_canvas() -> None:
    assert picture_box((20, 20), 16) is None
    assert picture_box((32, 16), 16) == (0, 4, 16, 12)
    assert picture_box((16, 64), 16) == (6, 0, 10, 16)
    assert picture_box((1000, 1), 16) == (0, 8, 16, 9)
    free = may_change(from_memory(halves(32, 16, (0, 4))), 16, (8, 8))
    assert free.nonzero().tolist() == [[row, 0] for row in range(2, 6)]


def test_prompts_are_the_training_strings(model: LoadedModel) -> None:
    """One builder: the words of an edit are those of the `edit` preprocess function."""
    pictures = {"a": from_memory(noise(1)), "b": from_memory(noise(2))}
    prompt = PromptBuilder(model).build(edit_turns(["a", "b"], "Swap them.", "c"), pictures)
    words = (prompt.roles_L == Role.PROMPT) | (prompt.roles_L == Role.ANSWER)
    text = model.chat.tokenizer.decode(prompt.ids_L[words].tolist(), skip_special_tokens=False)
    assert "user<|end_header_id|>\n\n     Swap them.<|eot_id|>" in text and text.endswith("\n\nSure <|eot_id|>")
    kinds = [part.kind for part in edit_turns(["a", "b"], "x", "c")[0].parts if isinstance(part, ImageSlot)]
    assert kinds == ["image", "image_gen_enc"] * 2


def test_what_cannot_be_edited(model: LoadedModel, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    with pytest.raises(ImageError, match="broken.png: "):
        model.edit(tmp_path / "broken.png", "make it blue")
    with pytest.raises(ConfigError, match="edit 1 has no picture; give the picture to change"):
        model.edit([[]], ["make it blue"])
    with pytest.raises(ConfigError, match="the instruction of edit 1 is blank; say what to change"):
        model.edit(noise(1), "  ")
    with pytest.raises(ConfigError, match="there are 1 pictures for 2 instructions; give each instruction its picture"):
        model.edit([noise(1)], ["a", "b"])
    with pytest.raises(ConfigError, match="there are 2 masks for 1 instructions; give one for each, or None"):
        model.edit([noise(1)], ["a"], mask=[None, None])
    with pytest.raises(
        ConfigError, match="the mask of edit 1 has 8x16 pixels, and its picture 16x16; give a mask of the picture's size"
    ):
        model.edit(noise(1), "a", mask=halves(8, 16))
    with pytest.raises(ConfigError, match="the mask of edit 1 is black: nothing may change; paint white what may change"):
        model.edit(noise(1), "a", mask=halves(white=(0, 0)))
    with pytest.raises(ConfigError, match="edit 1 has a mask and 2 pictures; a mask goes with one picture"):
        model.edit([[noise(1), noise(2)]], ["a"], mask=halves())
    with pytest.raises(ConfigError, match="edit mode 4 is none of 0, 1, 2, 3"):
        EditConfig(mode=4)
    with pytest.raises(ConfigError, match="guidance_text=-1.0: must be 0 or more; 1 is the plain model"):
        EditConfig(guidance_text=-1.0)
    with pytest.raises(ConfigError, match="steps=0: there must be at least one"):
        EditConfig(steps=0)
    with pytest.raises(ConfigError, match="the model reads none"):
        micro_loaded(vision=None).edit(noise(1), "a")


def test_records_tell_sources_and_settings(model: LoadedModel, tmp_path: Path) -> None:
    noise(1, 20, 12).save(tmp_path / "a.png")
    made = model.edit(tmp_path / "a.png", "make it blue", EditConfig(steps=2), numbers=[3])[0]
    assert made.record["task"] == "edit" and made.record["number"] == 3 and made.record["settings"]["guidance_text"] == 2.0
    (source,) = made.record["images"]
    assert source["file"] == str(tmp_path / "a.png") and source["size"] == [20, 12]
    again = model.edit(decode((tmp_path / "a.png").read_bytes(), target=None), "make it blue", EditConfig(steps=2))[0]
    assert again.record["images"] == [{key: source[key] for key in ("size", "crc32")}]
