"""The archives that are published: complete, nothing beside, and each installs alone into an empty environment."""

from pathlib import Path

import pytest

from wheels import Archives, build, check, install_problems
from workspace import CORE, ROOT, Package, read_packages

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
PACKAGES = read_packages(ROOT)


@pytest.fixture(scope="module", params=PACKAGES)
def package(request: pytest.FixtureRequest) -> Package:
    return PACKAGES[request.param]


@pytest.fixture(scope="module")
def archives(package: Package, tmp_path_factory: pytest.TempPathFactory) -> Archives:
    return build(package, tmp_path_factory.mktemp("dist"))


def test_contents_and_metadata_are_what_an_index_and_its_users_need(package: Package, archives: Archives) -> None:
    assert check(package, archives) == []


def test_it_installs_alone_and_all_its_experiments_compose(
    package: Package, archives: Archives, tmp_path: Path
) -> None:
    if package.name != CORE:
        build(PACKAGES[CORE], archives.wheel.parent)
    assert list(install_problems(package, archives.wheel.parent, tmp_path)) == []
