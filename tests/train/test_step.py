"""Samples of every task in one batch: what the model sees of each, what it learns from, and that none sees another."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.data.preprocess.test_conversations import CASES
from tests.data.test_encode import CONFIG, EDIT, encode, slot
from tests.helpers import chat, png
from tests.models import VISION, VQ, micro_model
from unmask.data.batch import Batch
from unmask.data.conversation import Located, MicroConditions, Turn, Undrawn
from unmask.data.tokenize import Role, TokenSample
from unmask.diffusion.corruption import CorruptionConfig, Noise
from unmask.diffusion.losses import LossConfig
from unmask.model.image_tokenizer import ImageTokenizer
from unmask.model.unified import UnifiedModel
from unmask.train.objective import NoiseRule, Objective
from unmask.train.step import Corrupted, accumulate, corrupt, losses
from unmask.train.tally import Ledger

CPU = torch.device("cpu")
CHAT = chat()
MASK = 1000
COMPRESSED = replace(CONFIG, picture_tokens=16)  # 8 x 8 codes
KEEP = CorruptionConfig(prompt_drop=0.0, reference_drop=0.0)


@cache
def tokenizer() -> ImageTokenizer:
    torch.manual_seed(5)
    return ImageTokenizer(VQ).eval()


def objective(corruption: CorruptionConfig = KEEP, *, compress: bool = True, text_loss: bool = True) -> Objective:
    return Objective(corruption, compress, text_loss, MASK, 3)


def drawing(number: int = 0, *, compress: bool = True, caption: str = "noise", rate: float = 0.0) -> TokenSample:
    turns = (Turn("human", (f"Draw {caption}. ", MicroConditions())), Turn("gpt", ("A plan: ", slot("image_gen"))))
    config = COMPRESSED if compress else replace(CONFIG, picture_tokens=64)
    return encode(turns, [png(number)], config, number, visible_text_rate=rate)


def edit(number: int = 1, references: int = 1, picture: int = 9, **options: bool) -> TokenSample:
    if references == 1:
        turns, blobs = EDIT, [png(number), png(number), png(picture)]
    else:
        sources = [part for place in range(references) for part in (slot("image", place), slot("image_gen_enc", place))]
        turns = (Turn("human", (*sources, " Join them.")), Turn("gpt", ("Sure ", slot("image_gen", 7))))
        blobs = [png(number + place) for place in range(references) for _ in range(2)] + [png(picture)]
    return encode(turns, blobs, COMPRESSED, number, fit="pad", **options)


def reading(number: int = 2, answer: str = "Noise.") -> TokenSample:
    turns = (Turn("human", (slot("image"), "\n What is it?")), Turn("gpt", (answer,)))
    return encode(turns, [png(number, 40, 30)], COMPRESSED, number)


def pointing(number: int = 3) -> TokenSample:
    box = Located("<LOC_BEGIN><LOC_1><LOC_2><LOC_3><LOC_4><LOC_END>")
    return encode(
        (Turn("human", (slot("image"), "\n Locate it.")), Turn("gpt", (box,))), [png(number, 20, 60)], COMPRESSED, number
    )


def talking(number: int = 4, words: str = "Hello", rate: float = 0.0) -> TokenSample:
    turns = (Turn("human", ("Plan.",)), Turn("gpt", (words, " ", Undrawn())))
    return encode(turns, [], COMPRESSED, number, visible_text_rate=rate)


def mixed() -> list[TokenSample]:
    return [drawing(0), edit(1), reading(2), pointing(3), talking(4), edit(5, 2), drawing(6)]


def run(
    samples: Sequence[TokenSample], asked: Objective | None = None, model: UnifiedModel | None = None
) -> tuple[Corrupted, dict[int, Tensor]]:
    """The corrupted batch, and the loss of each target by sample: text before codes."""
    batch = Batch.pack(samples)
    corrupted = corrupt(batch, tokenizer(), asked or objective(), CPU)
    output = (model or micro_model(vision=VISION))(corrupted.inputs, corrupted.wanted)
    each: dict[int, list[Tensor]] = {number: [] for number in range(len(samples))}
    if output.text is not None:
        owner = corrupted.inputs.packing.text_sample_T[corrupted.wanted.text_M]
        values = F.cross_entropy(output.text, corrupted.text_targets_M, reduction="none")
        for number, loss in zip(owner.tolist(), values, strict=True):
            each[number].append(loss)
    if output.codes is not None:
        pictures = np.repeat(np.arange(len(samples)), batch.pictures_S)
        values = F.cross_entropy(output.codes, corrupted.code_targets_M, reduction="none")
        for code, loss in zip(corrupted.wanted.codes_M.tolist(), values, strict=True):
            each[int(pictures[code // 64])].append(loss)
    return corrupted, {number: torch.stack(found) if found else torch.zeros(0) for number, found in each.items()}


def test_every_task_reaches_the_loss() -> None:
    """Every sample has masked targets, of its own kinds, and every part of the model gets a finite gradient."""
    model = micro_model(vision=VISION).train()
    samples = mixed()
    corrupted, each = run(samples, model=model)
    assert all(len(found) for found in each.values())
    terms = losses(model, corrupted)
    assert terms.text is not None and terms.image is not None
    total = sum(float(found.detach().sum()) for found in each.values())
    assert float((terms.text.total + terms.image.total).detach()) == pytest.approx(total, rel=1e-5)
    (terms.text.mean + terms.image.mean).backward()
    for name, parameter in model.named_parameters():
        if "post_layernorm" in name:  # kept, unused
            continue
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_one_step_over_all_tasks() -> None:
    model = micro_model(vision=VISION).train()
    samples = mixed()
    whole = accumulate(model, tokenizer(), [Batch.pack(samples)], objective(), CPU)
    gradients = {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}
    model.zero_grad(set_to_none=True)
    parts = accumulate(
        model, tokenizer(), [Batch.pack(samples[:2]), Batch.pack(samples[2:4]), Batch.pack(samples[4:])], objective(), CPU
    )
    assert parts.num_targets == whole.num_targets and parts.total == pytest.approx(whole.total, rel=1e-5)
    for name, value in model.named_parameters():
        if value.grad is not None:
            assert torch.allclose(value.grad, gradients[name], atol=1e-5), name


@pytest.mark.parametrize("changed", range(7))
def test_samples_never_see_each_other(changed: int) -> None:
    """Another picture, question or answer in one sample: the losses of the others are the same to the bit."""
    samples = mixed()
    model = micro_model(vision=VISION)
    sample = samples[changed]
    ids = sample.ids_L.copy()
    ids[5:12] = 77
    flipped = {name: tuple(255 - pixels for pixels in getattr(sample, name)) for name in ("pictures", "references", "tiles")}
    other = [replace(sample, ids_L=ids, **flipped) if number == changed else each for number, each in enumerate(samples)]
    _, before = run(samples, model=model)
    _, after = run(other, model=model)
    for number in range(len(samples)):
        assert torch.equal(before[number], after[number]) == (number != changed)


def test_a_sample_is_the_same_in_any_company() -> None:
    samples = mixed()
    model = micro_model(vision=VISION)
    _, together = run(samples, model=model)
    for number, sample in enumerate(samples):
        _, alone = run([sample], model=model)
        assert torch.allclose(alone[0], together[number], atol=1e-4)


def test_references_are_seen_before_the_picture_and_never_masked() -> None:
    one, two, plain = edit(1), edit(5, 2), drawing(0)
    corrupted, _ = run([one, plain, two])
    pixels = [*one.references, *one.pictures, *plain.pictures, *two.references, *two.pictures]
    codes = tokenizer().encode(torch.from_numpy(np.stack(pixels)))
    assert corrupted.inputs.drawn_D is not None and corrupted.inputs.drawn_D.tolist() == [1, 2, 5]
    seen, book = corrupted.inputs.codes_BPQ, VQ.code_book
    for place in (0, 3, 4):
        assert torch.equal(seen[place], codes[place])
    assert (seen == book.mask).sum() == len(corrupted.code_targets_M) > 0
    drawn = codes[corrupted.inputs.drawn_D].flatten()
    assert torch.equal(corrupted.code_targets_M, drawn[corrupted.wanted.codes_M])
    assert len(corrupted.inputs.packing.gen_position_G) == 6 * 16


def test_references_and_pictures_in_turn() -> None:
    """A conversation that edits twice: the second reference stands behind the first picture."""
    turns = [
        Turn("human", (slot("image_gen_enc", 1), " Turn it.")),
        Turn("gpt", (slot("image_gen", 2), " and ", slot("image_gen", 3))),
        Turn("human", (slot("image_gen_enc", 4), " Turn it too.")),
        Turn("gpt", (slot("image_gen", 5),)),
    ]
    sample = encode(turns, [png(number) for number in range(1, 6)], COMPRESSED, fit="pad")
    corrupted, _ = run([talking(4), sample, drawing(0)])
    assert corrupted.inputs.drawn_D is not None and corrupted.inputs.drawn_D.tolist() == [1, 2, 4, 5]
    (a, c), (b1, b2, d) = sample.references, sample.pictures
    codes = tokenizer().encode(torch.from_numpy(np.stack([a, b1, b2, c, d, *drawing(0).pictures])))
    visible = corrupted.inputs.codes_BPQ != VQ.code_book.mask
    assert torch.equal(corrupted.inputs.codes_BPQ[visible], codes[visible]) and visible[0].all() and visible[3].all()


def test_a_reference_changes_the_picture() -> None:
    model = micro_model(vision=VISION)
    _, one = run([edit(1)], model=model)
    _, other = run([replace(edit(1), references=drawing(8).pictures)], model=model)
    assert one[0].shape == other[0].shape and not torch.allclose(one[0], other[0])


def test_dropped_references_go_to_the_text_tower() -> None:
    """As masks; their codes are never made, and their pixels change nothing."""
    asked = objective(CorruptionConfig(prompt_drop=0.0, reference_drop=1.0))
    samples = [edit(1), edit(5, 2)]
    corrupted, before = run(samples, asked)
    batch = Batch.pack(samples)
    assert len(corrupted.inputs.codes_BPQ) == 2 and corrupted.inputs.drawn_D is None
    assert len(corrupted.inputs.text_ids_T) == (batch.roles_T != Role.PICTURE).sum()
    references = batch.roles_T[batch.roles_T != Role.PICTURE] == Role.REFERENCE
    assert (corrupted.inputs.text_ids_T[torch.from_numpy(references)] == MASK).all()
    _, after = run([replace(each, references=tuple(255 - one for one in each.references)) for each in samples], asked)
    assert all(torch.equal(before[number], after[number]) for number in range(2))


def test_a_dropped_prompt_takes_its_tiles_along_and_leaves_its_references() -> None:
    asked = objective(CorruptionConfig(prompt_drop=1.0, reference_drop=0.0))
    corrupted, _ = run([edit(1), reading(2), edit(5, 2)], asked)
    sight = corrupted.inputs.sight
    assert sight is not None and np.array_equal(sight.pixels_NSS3.numpy(), reading(2).tiles[0])
    own = reading(2).layouts[0].indices()
    expected = np.where(own < 0, len(reading(2).tiles[0]) * 4, own)
    assert sight.feature_F.tolist() == expected.tolist() and len(corrupted.inputs.codes_BPQ) == 5
    ids = corrupted.inputs.text_ids_T
    start = (edit(1).roles_L < Role.FEATURE).sum() - 16 + (edit(1).roles_L == Role.FEATURE).sum()
    prompt = edit(1).roles_L[(edit(1).roles_L != Role.PICTURE) & (edit(1).roles_L != Role.REFERENCE)]
    assert (ids[: int(start)][torch.from_numpy((prompt == Role.PROMPT) | (prompt == Role.FEATURE))] == MASK).all()
    assert (ids[sight.row_F] == tokenizer_id()).all()
    alone, _ = run([edit(1), drawing(0)], asked)
    assert alone.inputs.sight is None


def tokenizer_id() -> int:
    sample = reading(2)
    return int(sample.ids_L[sample.roles_L == Role.FEATURE][0])


def test_what_is_not_seen_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Text alone runs neither tower of pictures; a step without targets runs nothing."""
    model = micro_model(vision=VISION)

    def never(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(model.vision, "forward", never)
    monkeypatch.setattr(model.code_embedding, "forward", never)
    corrupted, each = run([talking(4), talking(8, "Good morning")], model=model)
    assert all(len(found) for found in each.values()) and len(corrupted.inputs.codes_BPQ) == 0
    monkeypatch.setattr(model, "forward", never)
    silent = objective(text_loss=False)
    terms = losses(model, corrupt(Batch.pack([talking(4), reading(2)]), tokenizer(), silent, CPU))
    assert terms.text is None and terms.image is None
    assert accumulate(model, tokenizer(), [Batch.pack([talking(4)])], silent, CPU).num_targets == 0


def test_a_visible_plan_is_no_target() -> None:
    corrupted, each = run([drawing(0, rate=1.0), talking(4, rate=1.0)])
    codes = int((corrupted.wanted.codes_M < 64).sum())
    assert len(each[0]) == codes and len(each[1]) == len(corrupted.text_targets_M) > 0
    only, _ = run([drawing(0, rate=1.0)])
    assert only.wanted.text_M is None and len(only.text_targets_M) == 0 and MASK not in only.inputs.text_ids_T


def test_edited_codes_weigh_more() -> None:
    """Against a loop over samples; samples that do not weigh keep weight 1, and the sum of weights is the number of targets."""
    model = micro_model(vision=VISION)
    samples = [edit(12, edit_weighted=True), drawing(0), edit(5, 2)]
    mask = np.zeros((1, 8, 8), dtype=np.uint8)
    mask[0, :4] = 1
    samples[0] = replace(samples[0], edited_BPQ=mask)
    corrupted, each = run(samples, model=model)
    term = losses(model, corrupted).image
    assert term is not None and corrupted.code_weights_M is not None and corrupted.text_weights_M is None
    expected, plain = 0.0, 0.0
    for number, sample in enumerate(samples):
        codes = corrupted.wanted.codes_M[(corrupted.wanted.codes_M // 64) == number] % 64
        own = each[number][-len(codes) :]
        weights = torch.ones(len(codes))
        if sample.edited_BPQ is not None:
            assert len(codes) > 9
            weights = 1 + 4 * torch.from_numpy(sample.edited_BPQ.reshape(-1)).float()[codes]
        expected += float(((own * weights).sum() * len(codes) / weights.sum()).detach())
        plain += float(own.detach().sum())
    assert float(term.total.detach()) == pytest.approx(expected, rel=1e-5) and abs(expected - plain) > 1e-3
    assert float(corrupted.code_weights_M.sum()) == pytest.approx(term.count, rel=1e-5)
    assert run([drawing(0)])[0].code_weights_M is None


def test_complementary_masks() -> None:
    """Every sample twice: each target is learned from once, what a copy sees is the other's targets, tiles are read once."""
    asked = objective(replace(KEEP, complementary=True))
    samples = mixed()
    corrupted = corrupt(Batch.pack(samples), tokenizer(), asked, CPU)
    batch, once = Batch.pack(samples), corrupt(Batch.pack(samples), tokenizer(), objective(), CPU)
    codes = len(batch.pixels_BHW3) * 64
    assert sorted((corrupted.wanted.codes_M % codes).tolist()) == list(range(codes))
    answers = np.sort(batch.ids_T[batch.roles_T == Role.ANSWER])
    assert np.array_equal(np.sort(corrupted.text_targets_M.numpy()), answers)
    assert corrupted.text_count == len(answers) and corrupted.code_count == codes
    assert once.inputs.sight is not None and corrupted.inputs.sight is not None
    assert torch.equal(corrupted.inputs.sight.pixels_NSS3, once.inputs.sight.pixels_NSS3)
    assert len(corrupted.inputs.sight.feature_F) == 2 * len(once.inputs.sight.feature_F)
    ids = corrupted.inputs.text_ids_T.view(2, -1)
    assert torch.equal(ids[0], once.inputs.text_ids_T)
    hidden = ids == MASK
    assert not (hidden[0] & hidden[1]).any() and int(hidden.sum()) == len(answers)


def test_each_half_is_a_batch_of_its_own() -> None:
    """The losses of the doubled batch are those of its halves, and their order is that of the samples."""
    model, samples = micro_model(vision=VISION), [edit(1, edit_weighted=True), reading(2), edit(5, 2), drawing(0)]
    asked = objective(CorruptionConfig(prompt_drop=0.5, reference_drop=0.5, complementary=True))
    whole = losses(model, corrupt(Batch.pack(samples), tokenizer(), asked, CPU))
    assert whole.text is not None and whole.image is not None
    found: dict[str, list[Tensor]] = {"text": [], "image": []}
    for flip in (False, True):
        for sample in samples:
            terms = losses(model, _half(sample, asked, flip))
            for kind in found:
                term = getattr(terms, kind)
                found[kind] += [] if term is None else [term.each_M]
    assert torch.allclose(whole.text.each_M, torch.cat(found["text"]), atol=1e-4)
    assert torch.allclose(whole.image.each_M, torch.cat(found["image"]), atol=1e-4)


def _half(sample: TokenSample, asked: Objective, flip: bool) -> Corrupted:
    """One sample alone, with its mask or with the complement."""

    class Flipped(NoiseRule):
        def noise(self, *facts: Any) -> Noise:
            noise = super().noise(*facts)
            return noise.complement() if flip else noise

    class Once(Objective):
        @property
        def noise_rule(self) -> NoiseRule:
            return Flipped(self.corruption, self.text_loss, self.seed)

    single = replace(asked.corruption, complementary=False)
    return corrupt(Batch.pack([sample]), tokenizer(), Once(single, asked.compress, asked.text_loss, MASK, asked.seed), CPU)


SWITCHES = {
    "plain": {},
    "1/t": {"loss": LossConfig(weighting="inverse_t")},
    "complementary": {"corruption": CorruptionConfig(complementary=True)},
    "all": {
        "corruption": CorruptionConfig(complementary=True, edit_prompt_drop=0.5, both_drop=0.3, understanding_drop=0.5),
        "loss": LossConfig(weighting="inverse_t"),
        "edit_weight": 3.0,
    },
}


@pytest.mark.parametrize("switch", SWITCHES)
def test_no_division_changes_loss_or_gradients(switch: str) -> None:
    asked = replace(objective(CorruptionConfig()), **SWITCHES[switch])  # type: ignore[arg-type]
    model = micro_model(vision=VISION).train()
    samples = [*mixed(), edit(12, edit_weighted=True)]
    ledger = Ledger()
    found = []
    for size in (8, 4, 1):
        model.zero_grad(set_to_none=True)
        batches = [Batch.pack(samples[start : start + size]) for start in range(0, 8, size)]
        step = accumulate(model, tokenizer(), batches, asked, CPU, None, ledger)
        found.append((step, {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}))
    whole, gradients = found[0]
    for step, others in found[1:]:
        assert step.num_targets == whole.num_targets and step.total == pytest.approx(whole.total, rel=1e-5)
        assert step.figures == pytest.approx(whole.figures, rel=1e-5) and step.figures.keys() == whole.figures.keys()
        for name, gradient in gradients.items():
            assert float((others[name] - gradient).norm()) <= 2e-4 * float(gradient.norm()) + 1e-6, name


def test_a_loss_divided_by_t() -> None:
    """Against the formula, sample by sample: the sum over masked targets / chance, over all targets."""
    samples = [drawing(0), talking(4, "some words to mask"), edit(1), talking(8, "and others")]
    model, asked = micro_model(vision=VISION), replace(objective(), loss=LossConfig(weighting="inverse_t"))
    batch = Batch.pack(samples)
    _, each = run(samples, model=model)
    expected, counts = {"text": 0.0, "image": 0.0}, {"text": 0, "image": 0}
    for number, sample in enumerate(samples):
        num_codes = 64 * len(sample.pictures)
        noise = asked.noise_rule.noise(sample.draw, sample.roles_L, num_codes, sample.visible_text_rate)
        masked = int(noise.text_mask_K.sum())
        for kind, own, ratio, count in (
            ("text", each[number][:masked], noise.text_ratio, len(noise.text_mask_K)),
            ("image", each[number][masked:], noise.image_ratio, num_codes),
        ):
            if count:
                expected[kind] += float(own.detach().sum()) / (ratio + (1 - ratio) ** count / count)
                counts[kind] += count
    step = accumulate(model, tokenizer(), [batch], asked, CPU)
    assert step.text == pytest.approx(expected["text"] / counts["text"], rel=1e-5)
    assert step.image == pytest.approx(expected["image"] / counts["image"], rel=1e-5)


def test_published_means_are_of_micro_batches() -> None:
    """Each counts the same, however many targets it has; one without text counts a text loss of 0."""
    model, asked = micro_model(vision=VISION), replace(objective(), loss=LossConfig(mean="micro_batch"))
    parts = [[drawing(0), edit(1)], [talking(4, "a longer answer than the other")]]
    expected = {"text": 0.0, "image": 0.0}
    for samples in parts:
        terms = losses(model, corrupt(Batch.pack(samples), tokenizer(), asked, CPU))
        for kind in expected:
            term = getattr(terms, kind)
            expected[kind] += 0.0 if term is None else float(term.mean.detach()) / 2
    step = accumulate(model, tokenizer(), [Batch.pack(samples) for samples in parts], asked, CPU)
    assert (step.text, step.image) == pytest.approx((expected["text"], expected["image"]), rel=1e-5)
    assert step.total == pytest.approx(expected["text"] + expected["image"], rel=1e-5)


def test_without_compression() -> None:
    corrupted, each = run([drawing(0, compress=False), talking(4)], objective(compress=False))
    assert len(corrupted.inputs.packing.gen_position_G) == 64 and all(len(found) for found in each.values())


def test_noise_depends_on_the_draw_alone() -> None:
    """A sample's masks are the same wherever it stands."""
    first, _ = run([edit(1), reading(2)])
    second, _ = run([reading(2), drawing(0), edit(1)])
    own = first.wanted.codes_M[first.wanted.codes_M < 64]
    assert torch.equal(own, second.wanted.codes_M[second.wanted.codes_M >= 64] - 64)


def test_edits_on_another_grid() -> None:
    sample = replace(edit(1), edited_BPQ=np.zeros((1, 4, 4), dtype=np.uint8))
    with pytest.raises(ValueError, match=r"another grid \(1, 4, 4\) than the 64 codes"):
        run([sample])


@torch.no_grad()
def test_every_function_reaches_the_loss() -> None:
    """What each preprocess function makes of the rows of its golden files, through tokens and batch to masked targets of its own."""
    samples = []
    for number, case in enumerate(CASES):
        made = case.made()
        blobs = [png(place, 30 + place, 20) for place, _ in enumerate(made.images())]
        options = {"fit": made.fit, "edit_weighted": made.edit_weighted, "tells_pixel_diff": made.tells_pixel_diff}
        config = replace(COMPRESSED, max_length=8192)
        sample = encode(made.turns, blobs, config, number, visible_text_rate=made.visible_text_rate, **options)
        assert len(sample.layouts) == len(list(made.images("image"))), case.name
        assert len(sample.references) == len(list(made.images("image_gen_enc"))), case.name
        assert len(sample.pictures) == len(list(made.images("image_gen"))), case.name
        located = "<LOC_BEGIN>" in "".join(part.text for turn in made.turns for part in turn.parts if isinstance(part, Located))
        assert (CHAT.vocab.box_begin in sample.ids_L[sample.roles_L == Role.ANSWER]) == located, case.name
        samples.append(sample)
    _, each = run(samples)
    assert all(len(found) and torch.isfinite(found).all() for found in each.values())
