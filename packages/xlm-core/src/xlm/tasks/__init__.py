"""Tasks that core ships: generators, preprocessing and judges, a file or folder for each task."""
