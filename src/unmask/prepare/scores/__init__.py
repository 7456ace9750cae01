"""Scores of pictures: one file per kind of scorer; importing the package makes them known by name."""

from unmask.prepare.scores import models as models
from unmask.prepare.scores import plain as plain
from unmask.prepare.scores.base import SCORERS as SCORERS
