"""`xlm-scaffold`: creates a model package that works at once, from a template, and lists it in xlm_models.json."""
