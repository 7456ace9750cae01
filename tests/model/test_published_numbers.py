"""Our towers against the published system's, run in fp32 with small random weights (model.md, ../shared/golden)."""

from functools import cache

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from tests.golden_folder import FOLDER, needs_golden
from unmask.data.images import pad_to_square
from unmask.data.tiles import NEWLINE, TilingConfig, anyres, cut_tiles
from unmask.model.config import ImageTokenizerConfig, ModelConfig, VisionConfig
from unmask.model.image_tokenizer import ImageTokenizer
from unmask.model.transformer import Packing, Streams
from unmask.model.unified import ModelInputs, Sight, UnifiedModel, Wanted
from unmask.model.weights.lavida_o import published_name

pytestmark = needs_golden
TOLERANCE = 2e-6
CONFIG = ModelConfig(
    name="golden",
    vocab_size=2048,
    text_width=64,
    gen_width=32,
    text_mlp_width=128,
    gen_mlp_width=64,
    num_layers=4,
    num_joint_layers=3,
    num_heads=4,
    tokenizer="none",
    image_tokenizer=ImageTokenizerConfig(
        num_codes=128, block_channels=(1, 1, 1), layers_per_block=1, latent_channels=8, norm_groups=1
    ),
    vision=VisionConfig(image_size=98, patch_size=14, width=48, num_layers=2, num_heads=4, mlp_width=80),
)


@cache
def model() -> UnifiedModel:
    made = UnifiedModel(CONFIG)
    weights = load_file(FOLDER / "tiny" / "weights.safetensors")
    made.load_state_dict({name: weights[published_name(name)] for name, _ in made.named_parameters()})
    return made.eval()


def case(name: str) -> dict[str, Tensor]:
    return load_file(FOLDER / "tiny" / f"{name}.safetensors")


def error(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


@torch.no_grad()
def test_text_alone() -> None:
    numbers = case("a_text_forward")
    nobody = torch.zeros(numbers["input_ids"].shape, dtype=torch.bool)
    embedded = model().text_embedding(numbers["input_ids"])
    assert torch.equal(embedded, numbers["embeddings"])
    h = model().transformer(Streams(embedded[~nobody], torch.empty(0, 32)), Packing.build(list(nobody)), text_wanted=True)
    assert error(model().text_head(h.text).view_as(numbers["logits"]), numbers["logits"]) < TOLERANCE


@torch.no_grad()
def test_towers_mixed() -> None:
    numbers = case("a_text_forward")
    is_gen = numbers["mixed.modality_indices"]
    start = Streams(numbers["embeddings"][~is_gen], numbers["embeddings"][is_gen][:, :32])
    h = model().transformer(start, Packing.build(list(is_gen)), text_wanted=True)
    assert error(h.text, numbers["mixed.hidden_4"][~is_gen]) < TOLERANCE
    assert error(h.gen, numbers["mixed.hidden_4"][is_gen][:, :32]) < TOLERANCE


@torch.no_grad()
@pytest.mark.parametrize(("name", "compress"), [("c3_t2i_train_stage2_256", False), ("c2_t2i_train_skip_comp", True)])
@pytest.mark.parametrize("text_wanted", [False, True])
def test_drawing_loss(name: str, compress: bool, text_wanted: bool) -> None:
    """Codes in, compression, both towers, head, loss; the text tower stopping early changes nothing."""
    numbers = case(name)
    is_gen, masked = numbers["model.modality_indices"], numbers["mask.gen_masked_indices"]
    codes = numbers["gen.gen_latents"].masked_fill(masked, CONFIG.image_tokenizer.code_book.mask)
    gen = model().code_embedding(codes.view(2, 8, 8), compress)
    assert error(gen, numbers["model.inputs_embeds"][is_gen][:, :32]) < TOLERANCE
    start = Streams(numbers["model.inputs_embeds"][~is_gen], gen)
    h = model().transformer(start, Packing.build(list(is_gen)), text_wanted=text_wanted)
    everywhere = model().code_head(h.gen, (8, 8), compress, torch.arange(128))
    assert error(everywhere, numbers["gen_logits"]) < TOLERANCE
    where = masked.flatten().nonzero()[:, 0]
    loss = F.cross_entropy(model().code_head(h.gen, (8, 8), compress, where), numbers["gen.gen_latents"][masked])
    assert abs(float(loss - numbers["gen_loss"])) < TOLERANCE * float(loss)


TILES = TilingConfig(tile=98, pooled=3)
MASK, IGNORED = 336, -100


def sight(pixels_N3SS: list[Tensor], sizes: list[tuple[int, int]], ids_T: Tensor) -> Sight:
    """The published tiles of some pictures, whose features stand at the ids -200."""
    indices, tiles = [], 0
    number = sum(map(len, pixels_N3SS)) * 9
    for size in sizes:
        layout = anyres(size, TILES)
        index = torch.from_numpy(layout.indices())
        indices.append(torch.where(index == NEWLINE, number, index + tiles * 9))
        tiles += layout.num_tiles
    levels = ((torch.cat(pixels_N3SS).permute(0, 2, 3, 1) * 0.5 + 0.5) * 255).round().to(torch.uint8)
    return Sight(levels, torch.cat(indices), (ids_T == -200).nonzero()[:, 0])


@torch.no_grad()
def test_reading() -> None:
    """Tiles, pool, projector, merge with newlines, text tower, logits."""
    numbers = case("b_understand_wide")
    ids = numbers["merged_ids"][0]
    seen = sight([numbers["pixel_values"]], [(300, 200)], ids)
    features = model().vision(numbers["pixel_values"])
    assert error(features, numbers["projected"]) < TOLERANCE
    text = ids.clamp(min=0)
    assert error(model().vision.place(model().text_embedding(text), seen), numbers["merged_embeds"][0]) < TOLERANCE
    packing = Packing.build([torch.zeros(len(ids), dtype=torch.bool)])
    inputs = ModelInputs(text, torch.zeros(0, 0, 0, dtype=torch.long), packing, True, sight=seen)
    logits = model()(inputs, Wanted(torch.arange(len(ids)), None)).text
    assert error(logits, numbers["logits"][0]) < TOLERANCE


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "sizes"), [("b2_understand_train", [(200, 200), (200, 160)]), ("c4_edit_train", [(200, 160), (150, 220)])]
)
def test_the_text_loss_of_rows_with_pictures(name: str, sizes: list[tuple[int, int]]) -> None:
    """Masked answers and dropped references through the text tower, whose padding the published joint layers attend to (Q8)."""
    numbers = case(name)
    ids, is_gen = numbers["new_input_ids"].flatten(), numbers["model.modality_indices"]
    seen = sight([numbers["batch.images.0"], numbers["batch.images.1"]], sizes, ids)
    text = torch.where(numbers["final_masked_indices"].flatten(), MASK, ids).clamp(min=0)
    h = model().vision.place(model().text_embedding(text), seen)
    h[ids == IGNORED] = 0
    published = numbers["model.inputs_embeds"]
    assert error(h[~is_gen.flatten()], published[~is_gen]) < TOLERANCE
    start = Streams(h[~is_gen.flatten()], published[is_gen][:, :32])
    out = model().transformer(start, Packing.build(list(is_gen)), text_wanted=True)
    labels = numbers["model.labels"].flatten()[~is_gen.flatten()]
    loss = F.cross_entropy(model().text_head(out.text), labels, ignore_index=IGNORED)
    expected = numbers["und_loss"] if "und_loss" in numbers else numbers["loss"]
    assert abs(float(loss - expected)) < TOLERANCE * float(loss)


def published_vq() -> ImageTokenizer:
    tokenizer = ImageTokenizer(
        ImageTokenizerConfig(num_codes=128, block_channels=(16, 16, 32), layers_per_block=1, latent_channels=8, norm_groups=8)
    )
    weights, prefix = load_file(FOLDER / "tiny" / "weights.safetensors"), "model.vqvae."
    tokenizer.vq.load_state_dict({name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)})
    return tokenizer.eval()


@torch.no_grad()
def test_an_edit_with_its_reference() -> None:
    """From the picture's pixels: tiles and padded codes in, three conditions, codes of the reference before those being drawn, guidance."""
    numbers = case("d12_edit_mode0")
    image = Image.fromarray(np.load(FOLDER / "tiny" / "b_wide_image.npy"))
    reference = published_vq().encode(torch.tensor(pad_to_square(image, 32))[None])
    embedded = model().code_embedding(reference, True)
    enc, full = numbers["is_gen_enc"][0], numbers["step0.inputs_embeds"][2]
    assert error(embedded, full[enc][:, :32]) < TOLERANCE
    tiles = torch.from_numpy(cut_tiles(image, image.size, anyres(image.size, TILES), TILES)).permute(0, 3, 1, 2)
    drawn = numbers["step0.xt_before"].view(1, 8, 8)
    logits = {}
    for row, condition in enumerate(("unconditional", "instruction dropped", "full")):
        is_gen = numbers["step0.modality_indices"][row]
        masked = (numbers["step0.inputs_embeds"][row] == model().text_embedding.weight[MASK]).all(-1)
        ids = torch.where(masked, MASK, numbers["raw_input_ids"][0])[~is_gen]
        seen = sight([(tiles / 255 - 0.5) / 0.5], [image.size], ids) if condition == "full" else None
        with_reference = condition != "unconditional"
        inputs = ModelInputs(
            ids.clamp(min=0),
            torch.cat([reference, drawn]) if with_reference else drawn,
            Packing.build([is_gen]),
            True,
            torch.tensor([1]) if with_reference else None,
            seen,
        )
        logits[condition] = model()(inputs, Wanted(None, torch.arange(64))).codes
    instructed = 2.5 * logits["full"] - 1.5 * logits["instruction dropped"]
    guided = 3.5 * instructed - 2.5 * logits["unconditional"]
    assert error(guided, numbers["step0.logits_after_cfg"][0]) < 5 * TOLERANCE  # differences of large numbers
