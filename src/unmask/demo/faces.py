"""Faces of many moods, the part of the doodles that a tokenizer finds hardest.

A few pixels decide an expression. Eyes, brows, mouth and the rest are chosen independently of each other, so that no
part can be guessed from another one: whoever wants to keep a face must keep each of its parts.
"""

import numpy as np

from unmask.demo.pen import RGB, Pen, any_colour, arc, as_rgb, heart, ink_colour, near_colour, pick, skin_colour, star


def face(pen: Pen) -> None:
    """A head with eyes, brows, a mouth and now and then more: each part is chosen on its own."""
    rng, skin, ink = pen.rng, skin_colour(pen.rng) if pen.rng.random() < 0.75 else any_colour(pen.rng), ink_colour(pen.rng)
    if rng.random() < 0.3:
        _hair(pen, any_colour(rng))
    if rng.random() < 0.2:
        _ears(pen, skin)
    a, b = (0.9, 0.9) if rng.random() < 0.6 else rng.uniform(0.7, 0.95, 2)
    if rng.random() < 0.2:
        pen.oval(0, 0, a + 0.06, b + 0.06, ink if rng.random() < 0.5 else near_colour(rng, skin, 90))
    if rng.random() < 0.5:
        pen.shaded(arc(0, 0, a, b), skin, near_colour(rng, skin, 60))
    else:
        pen.oval(0, 0, a, b, skin)
    gap, high, grown = rng.uniform(0.25, 0.42), rng.uniform(-0.35, -0.08), rng.uniform(0.75, 1.5)
    if rng.random() < 0.25:
        for u in (-1.0, 1.0):
            pen.oval(u * gap * 1.5, 0.18, 0.17, 0.12, as_rgb(0.7 * np.array(skin) + 0.3 * np.array((255, 70, 90))))
    kind = int(rng.integers(10))
    for u in (-1.0, 1.0):
        wink = kind if rng.random() < 0.9 else int(rng.integers(10))
        _eye(pen.inside(u * gap, high, 0.2 * grown), wink, ink, u)
    if rng.random() < 0.4:
        slope, lift = rng.uniform(-0.16, 0.16), high - 0.24 * grown - 0.03
        for u in (-1.0, 1.0):
            pen.line([(u * gap * 1.6, lift + slope), (u * gap, lift - 0.05), (u * gap * 0.5, lift - slope)], 0.07, ink)
    if rng.random() < 0.25:
        pen.oval(0, 0.12, rng.uniform(0.05, 0.14), rng.uniform(0.05, 0.12), near_colour(rng, skin, 90))
    _mouth(pen.inside(rng.normal(0, 0.04), rng.uniform(0.36, 0.52), rng.uniform(0.3, 0.5)), ink)
    if rng.random() < 0.45:
        pick(rng, (_tears, _hat, _glasses, _halo, _horns, _beard))(pen, gap, high)


def _eye(pen: Pen, kind: int, ink: RGB, side: float) -> None:
    white = (255, 255, 255)
    if kind < 3:
        pen.oval(0, 0, 0.4 if kind else 0.55, 0.6, ink)
        if kind == 2:
            pen.oval(-0.1, -0.2, 0.15, 0.2, white)
    elif kind < 5:
        look = pen.rng.uniform(-0.3, 0.3, 2)
        pen.oval(0, 0, 0.8, 0.9, white)
        pen.oval(look[0], look[1], 0.4, 0.45, ink if kind == 3 else any_colour(pen.rng))
    elif kind == 5:
        pen.line(arc(0, 0.2, 0.7, 0.6, 190, 350), 0.28, ink)  # laughing
    elif kind == 6:
        pen.line(arc(0, -0.2, 0.7, 0.5, 10, 170), 0.28, ink)  # asleep
    elif kind == 7:
        pen.line([(-0.6, -0.6), (0.6, 0.6)], 0.28, ink)
        pen.line([(-0.6, 0.6), (0.6, -0.6)], 0.28, ink)
    elif kind == 8:
        pen.line([(side * 0.6, -0.5), (-side * 0.6, 0), (side * 0.6, 0.5)], 0.28, ink)  # squeezed shut
    else:
        sign = heart() if pen.rng.random() < 0.6 else star(5, 0.45)
        pen.poly(sign * 1.1, pick(pen.rng, ((225, 30, 50), (250, 190, 20), ink)))


def _mouth(pen: Pen, ink: RGB) -> None:
    kind, thick, deep = int(pen.rng.integers(11)), float(pen.rng.uniform(0.14, 0.26)), float(pen.rng.uniform(0.25, 0.8))
    inside = (110, 30, 30) if pen.rng.random() < 0.5 else ink
    if kind < 2:
        pen.line(arc(0, -deep / 2, 1, deep, 10, 170), thick, ink)
    elif kind == 2:
        pen.line(arc(0, deep / 2, 0.9, deep, 190, 350), thick, ink)
    elif kind == 3:
        pen.line([(-0.8, 0), (0.8, float(pen.rng.uniform(-0.25, 0.25)))], thick, ink)
    elif kind == 4:
        pen.oval(0, 0, pen.rng.uniform(0.25, 0.6), deep, inside)
    elif kind < 7:  # a laughing mouth with teeth, or a tongue
        pen.poly(arc(0, -0.3, 1, 0.6 + deep / 2, 0, 180), inside)
        if kind == 5:
            pen.poly([(-0.9, -0.3), (0.9, -0.3), (0.8, -0.05), (-0.8, -0.05)], (255, 255, 255))
        else:
            pen.oval(0, 0.3, 0.45, 0.25, (240, 90, 110))
    elif kind == 7:
        pen.line([(u, 0.15 * (-1) ** i) for i, u in enumerate(np.linspace(-0.9, 0.9, 6))], thick, ink)
    elif kind == 8:
        pen.line(arc(0, -deep / 2, 0.9, deep, 10, 170), thick, ink)
        pen.poly(arc(0.3, 0.15, 0.35, 0.75, 0, 180), (240, 80, 100))
    elif kind == 9:
        pen.box(0, 0, 0.95, 0.36, ink)
        pen.box(0, 0, 0.85, 0.26, (255, 255, 255))
        for u in np.linspace(-0.6, 0.6, 4):
            pen.line([(u, -0.26), (u, 0.26)], 0.05, ink)
    else:
        pen.line(arc(0.1, -0.28, 0.3, 0.26, 270, 450), thick, ink)
        pen.line(arc(0.1, 0.24, 0.3, 0.26, 270, 450), thick, ink)


def _tears(pen: Pen, gap: float, high: float) -> None:
    for u in (-1, 1) if pen.rng.random() < 0.5 else (1,):
        drop = pen.inside(u * gap * 1.25, high + pen.rng.uniform(0.3, 0.6), pen.rng.uniform(0.13, 0.28))
        drop.poly(np.vstack([[[0, -1.4]], arc(0, 0.2, 0.7, 0.8, -30, 210)]), (90, 180, 250))


def _hat(pen: Pen, gap: float, high: float) -> None:
    colour, tall = any_colour(pen.rng), pen.rng.uniform(0.35, 0.6)
    if pen.rng.random() < 0.5:
        pen.box(0, -0.7 - tall / 2, 0.5, tall / 2, colour)
        pen.box(0, -0.72, 0.85, 0.07, colour)
        pen.box(0, -0.84, 0.5, 0.06, any_colour(pen.rng))
    else:
        pen.poly([(-0.5, -0.65), (0.5, -0.65), (pen.rng.uniform(-0.3, 0.3), -0.75 - tall)], colour)
        pen.oval(0, -0.75 - tall, 0.11, 0.11, any_colour(pen.rng))


def _glasses(pen: Pen, gap: float, high: float) -> None:
    ink, tinted = ink_colour(pen.rng), pen.rng.random() < 0.5
    pen.line([(-0.8, high), (0.8, high)], 0.06, ink)
    for u in (-gap, gap):
        if tinted:
            pen.box(u, high + 0.04, gap * 0.75, 0.2, ink)
        else:
            pen.line(arc(u, high, gap * 0.8, 0.27), 0.06, ink)


def _halo(pen: Pen, gap: float, high: float) -> None:
    pen.line(arc(0, -0.95, 0.5, 0.14), 0.08, pick(pen.rng, ((250, 215, 70), (90, 190, 250))))


def _horns(pen: Pen, gap: float, high: float) -> None:
    colour = any_colour(pen.rng)
    for u in (-1, 1):
        pen.poly([(u * 0.25, -0.8), (u * 0.65, -0.58), (u * 0.72, -1.1)], colour)


def _beard(pen: Pen, gap: float, high: float) -> None:
    colour = any_colour(pen.rng)
    pen.oval(-0.22, 0.27, 0.26, 0.1, colour)
    pen.oval(0.22, 0.27, 0.26, 0.1, colour)


def _hair(pen: Pen, colour: RGB) -> None:
    pen.poly(arc(0, -0.05, 1.02, 1.0, 180, 360), colour)
    if pen.rng.random() < 0.5:
        for u in (-0.86, 0.86):
            pen.oval(u, 0.2, 0.2, pen.rng.uniform(0.5, 0.8), colour)


def _ears(pen: Pen, skin: RGB) -> None:
    """Pointed, round or long ears make a head that of an animal."""
    kind, inner = int(pen.rng.integers(3)), near_colour(pen.rng, skin, 80)
    for u in (-1, 1):
        for reach, colour in ((1.0, skin), (0.55, inner)):
            ear = pen.inside(u * 0.62, -0.68, reach)
            if kind == 0:
                ear.poly([(-u * 0.3, 0.05), (u * 0.28, 0.4), (u * 0.25, -0.42)], colour)
            else:
                ear.oval(0, 0.0 if kind == 1 else -0.1, 0.3 if kind == 1 else 0.17, 0.3 if kind == 1 else 0.5, colour)
