"""`unmask parity`: the numbers of another system's run, case by case, against what this program computes with the same weights.

A case is a safetensors file of inputs, intermediate values and results, with its settings in `cases.json`. The published system's quirks that
such numbers hold (model.md 6, 10, 11) are rendered here and nowhere else; users' decoding knows none of them.
"""
