"""Star graphs: find the path from a source to a goal through a graph given as a shuffled list of edges."""

from xlm.tasks.star.draw import draw_graph
from xlm.tasks.star.graphs import DIFFICULTIES, StarConfig, StarGraphs, is_valid_path, star_preprocess

__all__ = ["DIFFICULTIES", "StarConfig", "StarGraphs", "draw_graph", "is_valid_path", "star_preprocess"]
