"""Scores that models give: the aesthetic predictor over CLIP ViT-L/14, and the human preference score over CLIP ViT-H/14.

The published weights are loaded as they are: a small MLP in a `.pth` file over a CLIP in the layout of transformers, and a whole CLIP in that
of open_clip. torch and transformers are imported when a model is loaded, not before.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from unmask.data.preprocess.cells import Row
from unmask.errors import ConfigError
from unmask.prepare.pictures import Picture
from unmask.prepare.scores.base import Score, ScoreOptions, Scorer, Values, register
from unmask.storage import hub

if TYPE_CHECKING:
    import torch

CLIP_L = "openai/clip-vit-large-patch14"
HPS = "xswu/HPSv2"
HPS_FILES = ("HPS_v2.1_compressed.pt", "HPS_v2_compressed.pt")
HPS_TOKENIZER = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
AESTHETIC_FROM = "sac+logos+ava1-l14-linearMSE.pth of https://github.com/christophschuhmann/improved-aesthetic-predictor"
NO_TEXT = "no text to compare the picture with"


def load_aesthetic(options: ScoreOptions) -> Score:
    """The LAION aesthetic predictor v2: CLIP's picture embedding of length 1, through linear layers without activations."""
    import torch  # noqa: PLC0415  (as said above)
    from transformers import CLIPVisionModelWithProjection  # noqa: PLC0415

    quiet()
    head = _layers(options.place("aesthetic"))
    folder = hub.folder(options.place("clip", CLIP_L), "*.json", "*.safetensors", where="--weights clip")
    device = _device(options)
    model = CLIPVisionModelWithProjection.from_pretrained(folder, dtype=torch.float32).eval().to(device)
    wide = model.config.projection_dim
    if head[0].in_features != wide:
        what = f"the predictor takes embeddings of {head[0].in_features} numbers, and the CLIP gives {wide}"
        raise ConfigError(what, where="--weights aesthetic", fix="the published one goes with openai/clip-vit-large-patch14")
    head = head.eval().to(device)
    side = int(model.config.image_size)

    def score(pictures: Sequence[Picture], _rows: Sequence[Row]) -> list[Values | str]:
        with torch.inference_mode():
            embedded_BD = model(pixel_values=clip_pixels(pictures, side).to(device)).image_embeds
            scores_B = head(torch.nn.functional.normalize(embedded_BD, dim=-1)).squeeze(-1)
        return [(value,) for value in scores_B.tolist()]

    return score


def load_hps(options: ScoreOptions) -> Score:
    """The human preference score v2: the cosine between a picture and its text, as stored in `hpsv2` (0.2 to 0.35)."""
    import torch  # noqa: PLC0415  (as said above)
    from tokenizers import Tokenizer  # noqa: PLC0415

    device = _device(options)
    model, context = open_clip_model(_state(_file(options.place("hps", HPS), HPS_FILES, "hps")))
    model = model.eval().to(device)
    tokenizer = Tokenizer.from_file(str(hub.locate(options.place("hps-tokenizer", HPS_TOKENIZER), "tokenizer.json")))
    tokenizer.enable_truncation(context)
    end = tokenizer.token_to_id("<|endoftext|>")
    model.text_model.eos_token_id = end
    side = int(model.config.vision_config.image_size)

    def score(pictures: Sequence[Picture], rows: Sequence[Row]) -> list[Values | str]:
        texts = [row.get(options.text) for row in rows]
        told = [number for number, text in enumerate(texts) if isinstance(text, str) and text.strip()]
        answers: list[Values | str] = [NO_TEXT] * len(rows)
        if not told:
            return answers
        ids = [tokenizer.encode(str(texts[number])).ids for number in told]
        longest = max(map(len, ids))
        ids_BL = torch.tensor([each + [end] * (longest - len(each)) for each in ids], device=device)
        with torch.inference_mode():
            text_BD = model.text_projection(model.text_model(input_ids=ids_BL).pooler_output)
            pixels_B3HW = clip_pixels([pictures[number] for number in told], side).to(device)
            image_BD = model.visual_projection(model.vision_model(pixel_values=pixels_B3HW).pooler_output)
            cosine_B = torch.nn.functional.cosine_similarity(image_BD, text_BD, dim=-1)
        for number, value in zip(told, cosine_B.tolist(), strict=True):
            answers[number] = (value,)
        return answers

    return score


def clip_pixels(pictures: Sequence[Picture], side: int) -> "torch.Tensor":
    """Pictures as CLIP was trained to see them: shortest side resized (bicubic), the middle square, its published mean and deviation."""
    import numpy as np  # noqa: PLC0415  (with torch, as said above)
    import torch  # noqa: PLC0415
    from PIL import Image  # noqa: PLC0415

    mean, deviation = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])
    made = []
    for picture in pictures:
        image = picture.pixels
        scale = side / min(image.size)
        width, height = (max(side, int(length * scale)) for length in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
        left, top = round((width - side) / 2), round((height - side) / 2)
        pixels_HW3 = np.asarray(image.crop((left, top, left + side, top + side)), dtype=np.float32) / 255
        made.append(((pixels_HW3 - mean) / deviation).astype(np.float32).transpose(2, 0, 1))
    return torch.from_numpy(np.stack(made))


def open_clip_model(state: "dict[str, torch.Tensor]") -> tuple[Any, int]:
    """A CLIP of transformers with the weights of one of open_clip, and the longest text in tokens.

    Every weight has to find its place; widths and depths are those of the weights, heads those of open_clip's ViT-H (80 wide in the picture
    tower, 64 in the text tower), activations gelu.

    Raises:
        ConfigError: a weight is missing, left over, or of another shape.
    """
    from transformers import CLIPConfig, CLIPModel  # noqa: PLC0415  (as said above)

    def shape(name: str) -> tuple[int, ...]:
        if name not in state:
            raise ConfigError(f"lacks '{name}'", where="--weights hps", fix="give a checkpoint in the layout of open_clip")
        return tuple(state[name].shape)

    width, _, patch, _ = shape("visual.conv1.weight")
    patches = shape("visual.positional_embedding")[0] - 1
    vocabulary, text_width = shape("token_embedding.weight")
    context = shape("positional_embedding")[0]
    common = {"hidden_act": "gelu", "projection_dim": shape("text_projection")[1]}
    vision = {
        "hidden_size": width,
        "intermediate_size": shape("visual.transformer.resblocks.0.mlp.c_fc.weight")[0],
        "num_hidden_layers": _depth(state, "visual.transformer.resblocks."),
        "num_attention_heads": max(1, width // 80),
        "patch_size": patch,
        "image_size": patch * round(patches**0.5),
    }
    text = {
        "hidden_size": text_width,
        "intermediate_size": shape("transformer.resblocks.0.mlp.c_fc.weight")[0],
        "num_hidden_layers": _depth(state, "transformer.resblocks."),
        "num_attention_heads": max(1, text_width // 64),
        "vocab_size": vocabulary,
        "max_position_embeddings": context,
    }
    model = CLIPModel(CLIPConfig(text_config={**text, **common}, vision_config={**vision, **common}, **common))
    ours = dict(_renamed(state))
    try:
        lacking, left_over = model.load_state_dict(ours, strict=False)
    except RuntimeError as error:
        said = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"has weights of other shapes ({said})", where="--weights hps", fix="give HPS_v2.1_compressed.pt"
        ) from None
    lacking = [name for name in lacking if not name.endswith("position_ids")]
    if lacking or left_over:
        what = f"lacks {lacking[:3]}" if lacking else f"has weights that no CLIP has: {left_over[:3]}"
        raise ConfigError(what, where="--weights hps", fix="give a checkpoint in the layout of open_clip")
    return model, context


_PLAIN = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.ln_pre": "vision_model.pre_layrnorm",
    "visual.ln_post": "vision_model.post_layernorm",
    "token_embedding": "text_model.embeddings.token_embedding",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final": "text_model.final_layer_norm",
    "logit_scale": "logit_scale",
}
_IN_BLOCK = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


def _renamed(state: "dict[str, torch.Tensor]") -> "list[tuple[str, torch.Tensor]]":
    """open_clip's weights under the names of transformers; projections stand the other way round there, and q, k, v apart."""
    found: list[tuple[str, torch.Tensor]] = []
    for name, value in state.items():
        tower, block, rest = name.partition("transformer.resblocks.")
        if block:
            model = "vision_model" if tower == "visual." else "text_model"
            number, _, inner = rest.partition(".")
            start = f"{model}.encoder.layers.{number}."
            if inner.startswith("attn.in_proj_"):
                kind = inner.removeprefix("attn.in_proj_")
                found += [
                    (f"{start}self_attn.{part}_proj.{kind}", piece) for part, piece in zip("qkv", value.chunk(3), strict=True)
                ]
            else:
                module, _, kind = inner.rpartition(".")
                found.append((f"{start}{_IN_BLOCK.get(module, module)}.{kind}", value))
        elif name in ("visual.proj", "text_projection"):
            found.append(("visual_projection.weight" if name == "visual.proj" else "text_projection.weight", value.T))
        elif name != "attn_mask":
            module, _, kind = name.rpartition(".")
            found.append((_PLAIN.get(name) or f"{_PLAIN.get(module, module)}.{kind}", value))
    return found


def _depth(state: "dict[str, torch.Tensor]", start: str) -> int:
    return 1 + max(int(name.removeprefix(start).split(".")[0]) for name in state if name.startswith(start))


def _layers(place: str) -> Any:
    """The linear layers of the predictor, in order."""
    from torch import nn  # noqa: PLC0415  (as said above)

    path = _file(place, ("sac+logos+ava1-l14-linearMSE.pth", "aesthetic.pth", "model.safetensors"), "aesthetic")
    state = {name: value for name, value in _state(path).items() if name.startswith("layers.")}
    numbers = sorted({int(name.split(".")[1]) for name in state})
    if not numbers:
        raise ConfigError("holds no layers of a predictor (layers.0.weight, ...)", where=str(path), fix=f"give {AESTHETIC_FROM}")
    layers = []
    for number in numbers:
        weight = state[f"layers.{number}.weight"]
        layer = nn.Linear(weight.shape[1], weight.shape[0])
        layer.load_state_dict({"weight": weight, "bias": state[f"layers.{number}.bias"]})
        layers.append(layer)
    return nn.Sequential(*layers)


def _file(place: str, names: tuple[str, ...], weights: str) -> Path:
    path = Path(place).expanduser()
    return path if path.is_file() else hub.locate(place, *names, where=f"--weights {weights}")


def _state(path: Path) -> "dict[str, torch.Tensor]":
    """The tensors of a file; pickles are read without running what they hold."""
    import pickle  # noqa: PLC0415  (only for the error)

    import torch  # noqa: PLC0415  (as said above)
    from safetensors.torch import load_file  # noqa: PLC0415

    try:
        with warnings.catch_warnings(action="ignore"):
            state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, OSError) as error:
        said = " ".join(str(error).split())[:120]
        raise ConfigError(f"is no file of weights ({said})", where=str(path), fix="download it again") from None
    whole: Any = state
    found: Any = whole.get("state_dict", whole) if isinstance(whole, dict) else {}
    return {name.removeprefix("module."): value.float() for name, value in found.items() if isinstance(value, torch.Tensor)}


def quiet() -> None:
    """Have transformers load a part of a checkpoint without listing the rest."""
    from transformers.utils import logging  # noqa: PLC0415  (as said above)

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _device(options: ScoreOptions) -> str:
    import torch  # noqa: PLC0415  (as said above)

    return options.device or ("cuda" if torch.cuda.is_available() else "cpu")


AESTHETIC = register(
    Scorer(
        "aesthetic",
        f"fltLaionAesthScore: the LAION aesthetic predictor v2 (--weights aesthetic=FILE: {AESTHETIC_FROM}; clip=FOLDER, default {CLIP_L})",
        (("fltLaionAesthScore", pa.float32()),),
        load_aesthetic,
        weights=("aesthetic", "clip"),
    )
)
PREFERENCE = register(
    Scorer(
        "hps",
        f"hpsv2: the human preference score v2.1, raw cosine (--weights hps=FILE, default {HPS}; hps-tokenizer=FOLDER, "
        f"default {HPS_TOKENIZER})",
        (("hpsv2", pa.float32()),),
        load_hps,
        texts=True,
        weights=("hps", "hps-tokenizer"),
    )
)
