"""Strict YAML <-> frozen dataclasses: what a configuration file says is what the program gets, or one line says why not.

The way of a file: `read_yaml` (text -> `Node`s, each with its file:line) -> `merge` (onto its `base:`) -> `apply_overrides`
(`a.b=c`) -> `build` (`Node`s -> dataclass, by its annotations). `load` walks all of it; `to_yaml` walks back.

Plain scalars follow the YAML 1.2 core rules: `1e-4` is a number, `no` and `1_000` are text, only true and false are booleans.
"""

from unmask.config.build import FieldError as FieldError
from unmask.config.build import build as build
from unmask.config.build import load as load
from unmask.config.build import located as located
from unmask.config.build import locations as locations
from unmask.config.build import read_config as read_config
from unmask.config.dump import diff as diff
from unmask.config.dump import dump as dump
from unmask.config.dump import flatten as flatten
from unmask.config.dump import to_yaml as to_yaml
from unmask.config.nodes import MAX_DEPTH as MAX_DEPTH
from unmask.config.nodes import MAX_VALUES as MAX_VALUES
from unmask.config.nodes import Node as Node
from unmask.config.nodes import apply_overrides as apply_overrides
from unmask.config.nodes import merge as merge
from unmask.config.nodes import parse_text as parse_text
from unmask.config.nodes import read_yaml as read_yaml
