"""The masked network as a backbone of transformers: any AutoModelForMaskedLM, trained or new."""

from __future__ import annotations

from xlm.modules.pretrained import PretrainedMaskedNetwork


class HFMaskedLM(PretrainedMaskedNetwork):
    """p(x_i | what is visible) by a BERT-like network; arguments as for `PretrainedNetwork`."""
