"""Our towers against the published system's, run in fp32 with small random weights (model.md, ../shared/golden)."""

from functools import cache

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from tests.golden_folder import FOLDER, needs_golden
from unmask.model.config import ImageTokenizerConfig, ModelConfig, VisionConfig
from unmask.model.transformer import Packing, Streams
from unmask.model.unified import UnifiedModel
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
