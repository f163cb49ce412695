"""Composes every experiment of the models that are installed, with and without debug=overfit.

python tools/compose_all.py            fails unless no model is found
python tools/compose_all.py ilm mlm    fails unless exactly these are found, and all of theirs compose

It imports nothing of this repository's but the installed `xlm`, so that any environment can run it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from xlm.compose import load_config
from xlm.errors import XLMError
from xlm.external_models import find_models


def main(wanted: list[str]) -> int:
    """Print what composed, and on stderr what did not; the exit code says whether all is well."""
    try:
        models = find_models(os.environ, Path.cwd())
    except XLMError as error:
        print(error, file=sys.stderr)
        return 1
    problems = [] if sorted(models) == sorted(wanted) else [f"found {sorted(models)}, not {sorted(wanted)}"]
    for model in models.values():
        experiments = sorted(path.stem for path in (model.config_dir / "experiment").glob("*.yaml"))
        if not experiments:
            problems.append(f"{model.name} brings no experiments: {model.config_dir} has no experiment/*.yaml")
        for experiment in experiments:
            for debug in ([], ["debug=overfit"]):
                try:
                    load_config([f"experiment={experiment}", *debug])
                except XLMError as error:
                    problems.append(f"experiment={experiment} {' '.join(debug)}: {error}")
        print(f"{model.name} {model.version}: {', '.join(experiments) or 'nothing'}")
    print("".join(f"{problem}\n" for problem in problems), end="", file=sys.stderr)
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
