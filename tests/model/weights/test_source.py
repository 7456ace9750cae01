"""The published 8B checkpoints, as files of holes: headers and sizes are real, the data were never written. All of it but the numbers."""

import json
import math
from dataclasses import replace
from pathlib import Path

from tests.golden_folder import needs_golden
from tests.model.weights.test_config_json import PUBLISHED
from tests.model.weights.test_lavida_o import listed
from tests.model.weights.test_special_tokens import llada_like
from unmask.model.weights import stage1
from unmask.model.weights.config_json import image_tokenizer_json
from unmask.model.weights.lavida_o import VQ_PREFIX
from unmask.model.weights.source import Hints, kind_of_names, model_shapes, open_source
from unmask.model.weights.special_tokens import extend
from unmask.train.config import load_model_config


def write_holes(folder: Path, shapes: dict[str, tuple[int, ...]], shards: int) -> None:
    """Shards in bf16 whose data are holes; they take no room on the disk."""
    folder.mkdir(parents=True)
    weight_map: dict[str, str] = {}
    names = list(shapes)
    for number in range(shards):
        part, end, header = names[number::shards], 0, {}
        for name in part:
            start, end = end, end + 2 * math.prod(shapes[name])
            header[name] = {"dtype": "BF16", "shape": list(shapes[name]), "data_offsets": [start, end]}
        text = json.dumps(header).encode()
        file = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        with (folder / file).open("wb") as out:
            out.write(len(text).to_bytes(8, "little") + text)
            out.truncate(8 + len(text) + end)
        weight_map.update(dict.fromkeys(part, file))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


@needs_golden
def test_the_8b_model_is_known_by_its_headers(tmp_path: Path) -> None:
    """1,266 tensors, 11,094,351,587 parameters, each with a place in our model; and the sizes are those of our model file."""
    folder, model = tmp_path / "LaViDa-O-v1.0", load_model_config("lavida-o-8b")
    write_holes(folder, listed(), 5)
    (folder / "config.json").write_text(json.dumps(PUBLISHED))
    (folder / "vqvae").mkdir()
    (folder / "vqvae" / "config.json").write_text(json.dumps(image_tokenizer_json(model.image_tokenizer)))
    tokenizer = llada_like()
    extend(tokenizer, 127378, folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    opened = open_source(str(folder), Hints())
    assert (opened.kind, opened.own, opened.name) == ("lavida-o", False, "LaViDa-O-v1.0")
    held = [*opened.weights.values(), *opened.image_tokenizer.values()]
    assert len(held) == 1266 and sum(math.prod(each.shape) for each in held) == 11_094_351_587
    vq = replace(model.image_tokenizer, weights="./vqvae")
    assert opened.config == replace(model, name="LaViDa-O-v1.0", tokenizer="./", image_tokenizer=vq)


@needs_golden
def test_llada_8b_with_siglip_makes_the_8b_model(tmp_path: Path) -> None:
    """LLaDA's table has 126,464 rows (8,015,581,184 parameters in all); every tensor of the whole model has something to be made from."""
    text = {name: shape for name, shape in listed().items() if name.startswith("model.transformer.") and "_vision" not in name}
    text |= dict.fromkeys(("model.transformer.wte.weight", "model.transformer.ff_out.weight"), (126464, 4096))
    assert sum(map(math.prod, text.values())) == 8_015_581_184
    write_holes(tmp_path / "LLaDA-8B", text, 6)
    llada = {
        key: value for key, value in PUBLISHED.items() if not key.startswith("mm_") and "gen" not in key and "dual" not in key
    }
    sizes = {"vocab_size": 126464, "embedding_size": 126464}
    (tmp_path / "LLaDA-8B" / "config.json").write_text(json.dumps(llada | sizes))
    llada_like().save(str(tmp_path / "LLaDA-8B" / "tokenizer.json"))
    opened = open_source(str(tmp_path / "LLaDA-8B"), Hints())
    assert opened.kind == "llada" and len(opened.weights) == 32 * 9 + 3
    model, some = load_model_config("lavida-o-8b"), next(iter(opened.weights.values()))
    siglip = {name: replace(some, name=name, shape=shape) for name, shape in model_shapes(model).items() if ".siglip." in name}
    pieces = stage1.pieces(model, {**opened.weights, **siglip}, 126349, 0, "here")
    whole = [shape for name, shape in listed().items() if not name.startswith(VQ_PREFIX)]
    assert sorted(piece.shape for piece in pieces) == sorted(whole)
    assert sum(piece.resized for piece in pieces) == 2
    assert sum(piece.how == stage1.TRUNCATED for piece in pieces) == 32 * 8


def test_kinds_of_our_own_names() -> None:
    assert kind_of_names(["text_head.weight", "code_embedding.table.weight"]) == "lavida-o"
    assert kind_of_names(["text_head.weight", "vision.newline"]) == "lavida"
    assert kind_of_names(["text_head.weight"]) == "llada"
