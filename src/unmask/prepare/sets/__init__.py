"""One file per public data set; importing this registers all of them."""

from unmask.prepare.converter import CONVERTERS as CONVERTERS
from unmask.prepare.sets import blip3o as blip3o
from unmask.prepare.sets import echo4o as echo4o
from unmask.prepare.sets import gpt_edit as gpt_edit
from unmask.prepare.sets import grand_f as grand_f
from unmask.prepare.sets import laion as laion
from unmask.prepare.sets import mammoth_vl as mammoth_vl
from unmask.prepare.sets import own as own
from unmask.prepare.sets import refcoco as refcoco
from unmask.prepare.sets import reflect_dit as reflect_dit
from unmask.prepare.sets import sharegpt4o as sharegpt4o
from unmask.prepare.sets import visual_web_instruct as visual_web_instruct
