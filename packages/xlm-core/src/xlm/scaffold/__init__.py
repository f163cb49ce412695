"""`xlm-scaffold`: a model package that works at once, from a template, registered in xlm_models.json."""
