"""Quality of unconditional samples: a judge's perplexity, together with what a perplexity alone hides."""

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
