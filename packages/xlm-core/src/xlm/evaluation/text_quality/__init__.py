"""How good texts are that answer no prompt: a judge's perplexity, and beside it whatever a perplexity hides."""

from xlm.evaluation.text_quality.diversity import Overlap
from xlm.evaluation.text_quality.measure import Quality, measure
from xlm.evaluation.text_quality.scorer import Scorer, load_scorer
from xlm.evaluation.text_quality.texts import Estimate, WrittenText, written_texts

__all__ = [
    "Estimate",
    "Overlap",
    "Quality",
    "Scorer",
    "WrittenText",
    "load_scorer",
    "measure",
    "written_texts",
]
