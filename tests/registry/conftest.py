import pytest


@pytest.fixture(scope="session")
def project(tmp_path_factory):
    """One database for all tests (making one takes seconds); each test uses names of its own."""
    return tmp_path_factory.mktemp("project")
