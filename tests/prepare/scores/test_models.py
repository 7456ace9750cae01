"""Model scores: published weights in miniature, loaded by the real code, give what their own layout computes."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from torch import Tensor, nn

from tests.prepare.rows import column, done, drawing, reasons, records
from unmask.errors import ConfigError
from unmask.prepare.pictures import Picture
from unmask.prepare.score import ScorePictures
from unmask.prepare.scores.base import ScoreOptions
from unmask.prepare.scores.models import clip_pixels, load_aesthetic, load_hps

SIDE, PATCH, WIDTH, TEXT_WIDTH, PROJECTION, CONTEXT = 28, 14, 160, 128, 32, 9
WORDS = ["<|startoftext|>", "<|endoftext|>", "a", "drawing", ",", "number", *map(str, range(12))]


def seen(number: int, size: tuple[int, int] = (96, 64)) -> Picture:
    image = Image.open(BytesIO(drawing(number, size))).convert("RGB")
    return Picture(f"{number}.png", image.size, image)


# --- the aesthetic predictor ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(0)
    tower = {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "projection_dim": PROJECTION,
    }
    config = CLIPConfig(
        text_config={**tower, "vocab_size": 99, "max_position_embeddings": 16},
        vision_config={**tower, "image_size": SIDE, "patch_size": PATCH},
        projection_dim=PROJECTION,
    )
    folder = tmp_path_factory.mktemp("clip")
    CLIPModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As published: a Sequential with dropout between the layers, so that their numbers have gaps."""
    torch.manual_seed(1)
    layers = nn.Sequential(nn.Linear(PROJECTION, 24), nn.Dropout(0.2), nn.Linear(24, 8), nn.Dropout(0.1), nn.Linear(8, 1))
    path = tmp_path_factory.mktemp("head") / "sac.pth"
    torch.save({f"layers.{name}": value for name, value in layers.state_dict().items()}, path)
    return path


def test_the_aesthetic_score(clip: Path, head: Path, tmp_path: Path) -> None:
    from transformers import CLIPModel

    model = CLIPModel.from_pretrained(clip).eval()
    weights = torch.load(head, weights_only=True)
    pictures = [seen(number) for number in range(3)]
    with torch.inference_mode():
        embedded = model.get_image_features(pixel_values=clip_pixels(pictures, SIDE))
        x = getattr(embedded, "pooler_output", embedded)
        x = x / x.norm(dim=-1, keepdim=True)
        for number in (0, 2, 4):
            x = x @ weights[f"layers.{number}.weight"].T + weights[f"layers.{number}.bias"]
    options = ScoreOptions((("clip", str(clip)), ("aesthetic", str(head))), device="cpu")
    assert load_aesthetic(options)(pictures, [{}] * 3) == [(pytest.approx(value, rel=1e-5),) for value in x[:, 0].tolist()]

    pytest.importorskip("daft", reason="passes run on Daft: pip install 'unmask[prepare]'")
    rows, outcome = done(ScorePictures(("aesthetic",), options=options, batch=5), records(tmp_path))
    assert column(rows, "fltLaionAesthScore")[:3] == [pytest.approx(value, rel=1e-4) for value in x[:, 0].tolist()]
    assert [number for number, row in enumerate(rows) if row["fltLaionAesthScore"] is None] == [4, 6]
    assert (outcome.report.kept, len(reasons(outcome))) == (12, 2)


def test_pixels_are_those_of_clip() -> None:
    """The middle square of the resized picture, with the published mean and deviation."""
    picture = seen(1, (96, 64))
    scaled = picture.pixels.resize((42, 28), Image.Resampling.BICUBIC).crop((7, 0, 35, 28))
    expected = (np.asarray(scaled) / 255 - [0.48145466, 0.4578275, 0.40821073]) / [0.26862954, 0.26130258, 0.27577711]
    found = clip_pixels([picture], 28)
    assert found.shape == (1, 3, 28, 28) and found.dtype == torch.float32
    np.testing.assert_allclose(found[0].permute(1, 2, 0), expected, atol=1e-5)


# --- the human preference score ---------------------------------------------------------------------------------------


class Block(nn.Module):
    """A block of open_clip, with the names that its weights have there."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(width, 2 * width), "c_proj": nn.Linear(2 * width, width)})

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False, attn_mask=mask)[0]
        hidden = nn.functional.gelu(self.mlp["c_fc"](self.ln_2(x)))
        return x + self.mlp["c_proj"](hidden)


def blocks(width: int, heads: int) -> nn.Module:
    holder = nn.Module()
    holder.resblocks = nn.ModuleList(Block(width, heads) for _ in range(2))
    return holder


class OpenClip(nn.Module):
    """A CLIP in the layout of open_clip's ViT-H, small: heads 80 wide for pictures, 64 for texts."""

    def __init__(self) -> None:
        super().__init__()
        self.visual = nn.Module()
        self.visual.conv1 = nn.Conv2d(3, WIDTH, PATCH, PATCH, bias=False)
        self.visual.class_embedding = nn.Parameter(torch.randn(WIDTH))
        self.visual.positional_embedding = nn.Parameter(torch.randn((SIDE // PATCH) ** 2 + 1, WIDTH))
        self.visual.ln_pre, self.visual.ln_post = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.visual.transformer = blocks(WIDTH, 2)
        self.visual.proj = nn.Parameter(torch.randn(WIDTH, PROJECTION))
        self.token_embedding = nn.Embedding(len(WORDS), TEXT_WIDTH)
        self.positional_embedding = nn.Parameter(torch.randn(CONTEXT, TEXT_WIDTH))
        self.transformer = blocks(TEXT_WIDTH, 2)
        self.ln_final = nn.LayerNorm(TEXT_WIDTH)
        self.text_projection = nn.Parameter(torch.randn(TEXT_WIDTH, PROJECTION))
        self.logit_scale = nn.Parameter(torch.tensor(1.0))

    def cosine(self, pixels: Tensor, ids: list[list[int]]) -> Tensor:
        visual = self.visual
        x = visual.conv1(pixels).flatten(2).transpose(1, 2)
        x = torch.cat([visual.class_embedding.expand(len(x), 1, -1), x], 1) + visual.positional_embedding
        x = visual.ln_pre(x)
        for block in visual.transformer.resblocks:
            x = block(x)
        image = visual.ln_post(x[:, 0]) @ visual.proj
        texts = []
        for each in ids:
            whole = torch.tensor(each + [0] * (CONTEXT - len(each)))
            y = (self.token_embedding(whole) + self.positional_embedding)[None]
            for block in self.transformer.resblocks:
                y = block(y, torch.full((CONTEXT, CONTEXT), float("-inf")).triu(1))
            texts.append(self.ln_final(y)[0, len(each) - 1] @ self.text_projection)
        return nn.functional.cosine_similarity(image, torch.stack(texts))


@pytest.fixture(scope="module")
def preference(tmp_path_factory: pytest.TempPathFactory) -> tuple[OpenClip, ScoreOptions]:
    torch.manual_seed(2)
    model = OpenClip().eval()
    folder = tmp_path_factory.mktemp("hps")
    torch.save({"state_dict": model.state_dict(), "epoch": 3}, folder / "HPS_v2.1_compressed.pt")
    tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="a"))
    tokenizer.pre_tokenizer = Whitespace()
    ends = [("<|startoftext|>", 0), ("<|endoftext|>", 1)]
    tokenizer.post_processor = TemplateProcessing(single="<|startoftext|> $A <|endoftext|>", special_tokens=ends)
    tokenizer.save(str(folder / "tokenizer.json"))
    return model, ScoreOptions((("hps", str(folder)), ("hps-tokenizer", str(folder))), device="cpu")


def test_the_preference_score(preference: tuple[OpenClip, ScoreOptions], tmp_path: Path) -> None:
    model, options = preference
    pictures = [seen(number) for number in range(4)]
    rows = [{"caption": f"a drawing, number {number}"} for number in range(3)] + [{"caption": "a drawing, " * 9}]
    ids = [[0, 2, 3, 4, 5, 6 + number, 1] for number in range(3)] + [[0, 2, 3, 4, 2, 3, 4, 2, 1]]
    with torch.inference_mode():
        expected = model.cosine(clip_pixels(pictures, SIDE), ids).tolist()
    assert load_hps(options)(pictures, rows) == [(pytest.approx(value, abs=1e-5),) for value in expected]

    pytest.importorskip("daft", reason="passes run on Daft: pip install 'unmask[prepare]'")
    made, outcome = done(ScorePictures(("size", "hps"), options=options, batch=3), records(tmp_path))
    assert [number for number, row in enumerate(made) if row["hpsv2"] is None] == [2, 4, 6]
    assert column(made, "hpsv2")[:2] == [pytest.approx(value, abs=1e-4) for value in expected[:2]]
    assert reasons(outcome)["no hps: no text to compare the picture with"] == (1, "p/2.png")


# --- weights that are others ------------------------------------------------------------------------------------------


def test_weights_that_are_not_the_right_ones(
    clip: Path, head: Path, preference: tuple[OpenClip, ScoreOptions], tmp_path: Path
) -> None:
    given = dict(preference[1].weights)
    state = torch.load(Path(given["hps"]) / "HPS_v2.1_compressed.pt", weights_only=True)["state_dict"]

    def hps(name: str, changed: dict[str, Tensor]) -> ScoreOptions:
        torch.save(changed, tmp_path / name)
        return ScoreOptions((("hps", str(tmp_path / name)), ("hps-tokenizer", given["hps-tokenizer"])))

    no_bias = {name: value for name, value in state.items() if name != "ln_final.bias"}
    (tmp_path / "words.pth").write_text("no weights")
    torch.save({"a": torch.ones(1)}, tmp_path / "other.pth")
    torch.save({"layers.0.weight": torch.ones(1, 7), "layers.0.bias": torch.ones(1)}, tmp_path / "small.pth")

    def aesthetic(path: Path | str) -> ScoreOptions:
        return ScoreOptions((("clip", str(clip)), ("aesthetic", str(path))))

    cases = [
        (
            load_aesthetic,
            ScoreOptions(),
            "the weights 'aesthetic' were not given; --weights aesthetic=FILE; unmask prepare scores --help",
        ),
        (load_aesthetic, aesthetic(tmp_path / "words.pth"), "words.pth: is no file of weights ("),
        (load_aesthetic, aesthetic(tmp_path / "other.pth"), "other.pth: holds no layers of a predictor"),
        (load_aesthetic, aesthetic(tmp_path / "small.pth"), "the predictor takes embeddings of 7 numbers, and the CLIP gives 32"),
        (load_aesthetic, aesthetic("/gone/x.pth"), "'/gone/x.pth' is no folder"),
        (
            load_hps,
            hps("a.pt", {"x": torch.ones(1)}),
            "--weights hps: lacks 'visual.conv1.weight'; give a checkpoint in the layout",
        ),
        (load_hps, hps("b.pt", {**state, "extra.weight": torch.ones(1)}), "has weights that no CLIP has: ['extra.weight']"),
        (
            load_hps,
            hps("c.pt", no_bias),
            "lacks ['text_model.final_layer_norm.bias']",
        ),
        (load_hps, hps("d.pt", {**state, "ln_final.bias": torch.ones(3)}), "has weights of other shapes ("),
    ]
    for load, options, says in cases:
        with pytest.raises(ConfigError) as error:
            load(options)
        assert says in str(error.value)


def test_pickles_are_not_run(tmp_path: Path) -> None:
    import pickle

    class Bad:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "run",))

    (tmp_path / "x.pth").write_bytes(pickle.dumps({"layers.0.weight": Bad()}))
    with pytest.raises(ConfigError, match="is no file of weights"):
        load_aesthetic(ScoreOptions((("aesthetic", str(tmp_path / "x.pth")),)))
    assert not (tmp_path / "run").exists()
