"""Where examples come from, how they are prepared and cached, and how batches are made from them."""
