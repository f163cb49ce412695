"""One road from a path to a trained model, its texts and their scores."""
