"""How good texts are that answer no prompt: a judge's perplexity, and beside it whatever a perplexity hides."""

from xlm.evaluation.text_quality.diversity import Overlap
from xlm.evaluation.text_quality.measure import Quality, measure
from xlm.evaluation.text_quality.scorer import Judge, load_judge
from xlm.evaluation.text_quality.texts import Estimate, WrittenText, written_texts

__all__ = ["Estimate", "Judge", "Overlap", "Quality", "WrittenText", "load_judge", "measure", "written_texts"]
