"""Tasks that core ships: generators, preprocessing and judges, one folder a task."""
