"""A training step as the published system takes it, plainly (model.md 3.6, 4)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.plain_drawing import CODE_MASK
from tests.plain_system import DRAWN, EOS, EOT, MASK, REFERENCE, Plain


def _rows(rng: torch.Generator, tokens: int, sources: int, draws: bool) -> list[tuple[Tensor, Tensor]]:
    """Two rows with their labels: a prompt, references, an answer around a picture."""
    rows = []
    for number in (9, 6):
        prompt, said = torch.randint(0, 140, (number,), generator=rng), torch.randint(0, 140, (5,), generator=rng)
        asked = torch.cat([prompt, torch.full((tokens * sources,), REFERENCE)])
        picture, end = torch.full((tokens if draws else 0,), -300), torch.tensor([EOT])
        ids = torch.cat([asked, said[:3], picture, said[3:], end])
        labels = torch.cat([torch.full_like(asked, -100), said[:3], torch.full_like(picture, -100), said[3:], end])
        rows.append((ids, labels))
    return rows


def write_training(  # noqa: PLR0913  (each is a setting of a case)
    plain: Plain,
    gradients: list[str],
    complement: bool = True,
    *,
    compress: bool = True,
    sources: int = 0,
    draws: bool = True,
    weighted: bool = False,
    ignores_text: bool = False,
    longest: int | None = None,
) -> dict[str, Tensor]:
    """Two rows, the second without its prompt, the first without its references; losses and some gradients."""
    rng, side = torch.Generator().manual_seed(11), 4
    for value in plain.w.values():
        value.requires_grad_(True)
    rows = _rows(rng, side * side // (4 if compress else 1), sources, draws)
    pads = torch.nn.utils.rnn.pad_sequence
    ids, labels = (pads([row[at] for row in rows], batch_first=True, padding_value=(EOS, -100)[at]) for at in (0, 1))
    present = torch.arange(ids.shape[1]) < torch.tensor([[len(row)] for row, _ in rows])
    made = {"batch.input_ids": ids, "batch.labels": labels, "batch.attention_mask": present}
    copies = 2 if complement else 1
    full = torch.where(ids == -300, DRAWN, ids)[:, :longest].repeat(copies, 1)
    wanted = torch.where(present, labels, EOS)[:, :longest].repeat(copies, 1)
    noise = torch.rand(full[:2].shape, generator=rng) < 0.5
    codes, references = (torch.randint(0, 48, (2 * number, side * side), generator=rng) for number in (1, sources))
    code_noise = torch.rand(codes.shape, generator=rng) < 0.6
    weights = torch.where(torch.rand(codes.shape, generator=rng) < 0.4, 5.0, 1.0)
    made["mask.text_masked_indices"] = noise
    targets = torch.cat([noise, ~noise])[: len(full)] & (wanted != -100)
    dropped = torch.zeros_like(targets)
    dropped[1::2] = ((wanted == -100) & (full != DRAWN) & (full != REFERENCE))[1::2]
    dropped[::2] |= (full == REFERENCE)[::2]
    code_masks = torch.cat([code_noise, ~code_noise])[: len(full)]
    last, entering, routes, code_logits = [], [], [], []
    for row in range(len(full)):
        drawn, is_gen = full[row] == DRAWN, ((full[row] == DRAWN) | (full[row] == REFERENCE)) & ~dropped[row]
        h = plain.words(torch.where(targets[row] | dropped[row], MASK, full[row])).clone()
        pictures = [*references.view(2, sources, side, side)[row % 2]] if is_gen[full[row] == REFERENCE].any() else []
        pictures += [codes[row % 2].masked_fill(code_masks[row], CODE_MASK).view(side, side)] if draws else []
        for place, picture in zip(_runs(is_gen, len(pictures)), pictures, strict=True):
            embedded = plain.embed_codes(picture, compress)
            h = h.index_copy(0, place, F.pad(embedded, (0, h.shape[-1] - embedded.shape[-1])))
        entering.append(h)
        routes.append(is_gen)
        last.append(plain.blocks(h, is_gen, idle_text=ignores_text)[0][-1])
        if draws:
            code_logits.append(plain.code_logits(last[-1][drawn], side, compress))
    logits = plain.logits(torch.stack(last))
    text = torch.zeros(()) if ignores_text else F.cross_entropy(logits[targets], wanted[targets])
    total = text
    if draws:
        gen_logits, shown = torch.cat(code_logits), codes.repeat(copies, 1)
        each = F.cross_entropy(gen_logits[code_masks.flatten()], shown[code_masks], reduction="none")
        if weighted:
            scale = torch.stack([mask.sum() / w[mask].sum() for w, mask in zip(weights, code_masks, strict=True)])
            each = each * (weights * scale[:, None])[code_masks]
            made["batch.image_gen_weight"] = weights.view(2, 1, side, side)
        image = each.mean()
        total = text + image
        made |= {"gen.gen_latents": codes, "mask.gen_masked_indices": code_noise, "gen_logits": gen_logits, "gen_loss": image}
        made |= {"gen_x_mask": code_masks, "und_loss": text}
    total.backward()
    made |= {
        "new_input_ids": full, "final_masked_indices": targets | dropped, "model.labels": torch.where(targets, wanted, -100),
        "model.inputs_embeds": torch.stack(entering), "model.modality_indices": torch.stack(routes), "last_hidden": torch.stack(last),
        "logits": logits, "loss": total,
    }  # fmt: skip
    made |= {"gen.gen_latents_enc": references} if sources else {}
    made |= {f"grad.{name}": plain.w[name].grad for name in gradients if plain.w[name].grad is not None}
    for value in plain.w.values():
        value.requires_grad_(False)
        value.grad = None
    return {name: value.detach() for name, value in made.items()}


def _runs(is_gen: Tensor, count: int) -> list[Any]:
    """The places of each picture of a row."""
    places = is_gen.nonzero()[:, 0]
    return list(places.view(count, -1)) if count else []
